"""How long a run needs to save itself, from the bytes of its checkpoint: what a signal has to leave it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mft_cli.config import deepspeed as zero_settings
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.distributed.launch import GRACE_S
from mft_cli.errors import UserError
from mft_cli.models.loading import cached_snapshot
from mft_cli.plan.presets import ARCHITECTURES
from mft_cli.plan.shape import read_shape
from mft_cli.plan.trained import count_trained
from mft_cli.plan.work import make_disk
from mft_cli.slurm.srun import nodes

STEP_S = 60.0  # the step that is under way
# that a node writes and takes digests of; a slower disk needs launch.grace_s and launch.slurm.signal_s
BYTES_A_SECOND = 4e8
BEFORE_LIMIT_S = 30  # what is left for the end: SLURM's next signal


def saving_s(config: TrainConfig) -> float:
    """Seconds in which the run saves, not below GRACE_S; GRACE_S where the model's sizes are not known here. Asks no hub."""
    path = config.model.path
    on_hub = not Path(path).expanduser().exists() and ":" not in path and path not in ARCHITECTURES
    if on_hub and cached_snapshot(path, config.model.revision) is None:
        return GRACE_S
    try:
        shape = read_shape(config.model, None)
        checkpoint = make_disk(config, shape, count_trained(config, shape), 2).checkpoint
    except UserError:
        return GRACE_S
    return seconds_for(checkpoint, nodes(config.launch) if zero_settings.stage(config.deepspeed) else 1)


def seconds_for(checkpoint: float, writing: int) -> float:
    """Seconds to save so many bytes. `writing` nodes: all under ZeRO, where every rank writes its part; else the first."""
    return max(GRACE_S, float(round(STEP_S + checkpoint / (BYTES_A_SECOND * writing))))


def before_limit(saving: float) -> int:
    """Seconds before a job's time limit at which it is told to save."""
    return round(saving) + (BEFORE_LIMIT_S if saving > GRACE_S else 0)


def with_time_to_save(config: TrainConfig) -> TrainConfig:
    """launch.grace_s and launch.slurm.signal_s filled in where they are null."""
    launch = config.launch
    if launch.grace_s is not None and launch.slurm.signal_s is not None:
        return config
    needed = saving_s(config)
    slurm = replace(launch.slurm, signal_s=launch.slurm.signal_s or before_limit(needed))
    return replace(config, launch=replace(launch, grace_s=launch.grace_s or needed, slurm=slurm))
