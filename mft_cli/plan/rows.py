"""How many rows of one forward pass the memory of a GPU takes: what train.micro_batch_size=auto begins with."""

from __future__ import annotations

from dataclasses import replace

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.errors import UserError
from mft_cli.models.device import Precision
from mft_cli.plan.estimate import make_micro, row_width
from mft_cli.plan.memory import make_problem, own_stage, stage_memory
from mft_cli.plan.settings import Settings
from mft_cli.plan.shape import Shape, read_shape
from mft_cli.plan.trained import Trained, count_trained
from mft_cli.plan.work import DataFacts

MOST = 64
RESERVE = 0.1  # of the memory, for what is not counted


def rows_that_fit(config: TrainConfig, precision: Precision, gpus: int, gpus_per_node: int, memory: float) -> int:
    """A power of two, at least 1. `memory`: bytes of a GPU. 1 where the plan does not know the model or the stage."""
    nodes = max(1, gpus // gpus_per_node)
    settings = Settings(gpus=gpus, nodes=nodes, gpu_memory_gb=memory / 1e9, reserve=RESERVE)
    try:
        shape = read_shape(config.model, None)
        trained = count_trained(config, shape)
    except UserError:
        return 1
    return largest(config, settings, shape, trained, precision)


def largest(config: TrainConfig, settings: Settings, shape: Shape, trained: Trained, precision: Precision) -> int:
    """The same from what `mft plan` knows already."""
    row, stage = row_width(config, DataFacts()), own_stage(config.deepspeed)

    def fits(rows: int) -> bool:
        asked = replace(config, train=replace(config.train, micro_batch_size=rows, precision=precision))
        problem = make_problem(asked, settings, shape, trained, make_micro(asked, DataFacts(), row))
        chosen = stage_memory(problem, stage or "none", config.train.gradient_checkpointing, settings.limit)
        return stage is not None and chosen.fits

    rows = 1
    while rows < MOST and fits(2 * rows):
        rows *= 2
    return rows
