"""The plan of a run: its micro-batch, memory, time and disk."""

from __future__ import annotations

from dataclasses import dataclass

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.errors import UserError
from mft_cli.plan.activations import Micro
from mft_cli.plan.memory import Problem, StageMemory, fewest_gpus, make_problem, table
from mft_cli.plan.settings import Settings
from mft_cli.plan.shape import Shape, read_shape
from mft_cli.plan.trained import Trained, count_trained
from mft_cli.plan.work import DataFacts, Disk, Work, extra_passes, make_disk, make_work, read_data


@dataclass(frozen=True)
class Plan:
    """All that is said about a configuration."""

    config: TrainConfig
    settings: Settings
    shape: Shape
    trained: Trained
    data: DataFacts
    row: int  # tokens in a row
    problem: Problem
    stages: list[StageMemory]
    work: Work | None
    disk: Disk

    def lowest(self, checkpointing: bool) -> StageMemory | None:
        """The first stage that fits, in the order of the table."""
        return next((s for s in self.stages if s.checkpointing == checkpointing and s.fits), None)

    def fewest_gpus(self, checkpointing: bool) -> int | None:
        return fewest_gpus(self.problem, self.settings.limit, checkpointing)


def make_plan(config: TrainConfig, settings: Settings) -> Plan:
    shape = read_shape(config.model, settings.arch)
    trained = count_trained(config, shape)
    data = read_data(config, settings)
    row = row_width(config, data)
    micro = make_micro(config, data, row)
    problem = make_problem(config, settings, shape, trained, micro)
    work = make_work(config, settings, shape, trained, data) if data.known else None
    disk = make_disk(config, shape, trained, micro.compute)
    return Plan(
        config, settings, shape, trained, data, row, problem, table(problem, settings.limit), work, disk
    )  # fmt: skip


def row_width(config: TrainConfig, data: DataFacts) -> int:
    """Tokens in a row: the trainer's row length, or without packing the longest example."""
    t, longest = config.train, config.data.max_length
    if not t.packing:
        return min(longest, data.longest or longest)
    return t.row_length or max(1024, longest)


def make_micro(config: TrainConfig, data: DataFacts, row: int) -> Micro:
    t = config.train
    positions = t.rows_at_once * row
    if config.peft.name == "qlora" and t.precision == "fp32":
        raise UserError("peft=qlora computes in 16 bits: set train.precision=bf16")
    return Micro(
        positions=positions, labels=max(1, round(positions * (data.label_share or 1.0))), chunk=t.logits_chunk,
        document=min(data.document or row, row), compute=4 if t.precision == "fp32" else 2, fast=t.fast_modules,
        cpu=config.launch.device == "cpu", dropout=config.peft.name != "none" and config.peft.dropout > 0,
        extra=max((e.products for e in extra_passes(config, data)), default=None),
    )  # fmt: skip
