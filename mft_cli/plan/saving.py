"""How long a run needs to save itself, from the bytes of its checkpoint: what a signal has to leave it."""

from __future__ import annotations

from dataclasses import replace

from mft_cli.config import deepspeed as zero_settings
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.distributed.launch import GRACE_S
from mft_cli.errors import UserError
from mft_cli.plan.shape import read_shape
from mft_cli.plan.trained import count_trained
from mft_cli.plan.work import make_disk
from mft_cli.slurm.srun import nodes

STEP_S = 60.0  # the step that is under way
BYTES_A_SECOND = (
    4e8  # that a node writes and takes digests of; a slower disk needs launch.grace_s and launch.slurm.signal_s
)
BEFORE_LIMIT_S = 30  # what is left for the end: SLURM's next signal


def saving_s(config: TrainConfig) -> float:
    """Seconds in which the run saves, not below GRACE_S; GRACE_S where the model's sizes are not known here."""
    try:
        shape = read_shape(config.model, None)
        checkpoint = make_disk(config, shape, count_trained(config, shape), 2).checkpoint
    except UserError:
        return GRACE_S
    # under ZeRO every rank writes its part; otherwise the first one writes everything
    writing = nodes(config.launch) if zero_settings.stage(config.deepspeed) else 1
    return max(GRACE_S, float(round(STEP_S + checkpoint / (BYTES_A_SECOND * writing))))


def with_time_to_save(config: TrainConfig) -> TrainConfig:
    """launch.grace_s and launch.slurm.signal_s filled in where they are null."""
    launch = config.launch
    if launch.grace_s is not None and launch.slurm.signal_s is not None:
        return config
    needed = saving_s(config)
    before = round(needed) + (BEFORE_LIMIT_S if needed > GRACE_S else 0)
    slurm = replace(launch.slurm, signal_s=launch.slurm.signal_s or before)
    return replace(config, launch=replace(launch, grace_s=launch.grace_s or needed, slurm=slurm))
