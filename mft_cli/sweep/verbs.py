"""What a sweep repeats: `mft train` or `mft eval`. All that differs between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mft_cli.config.load import eval_config, train_config
from mft_cli.config.schema.base import Values
from mft_cli.config.schema.runs import EvalRunConfig, TrainConfig
from mft_cli.run_dir import RunDir

Config = TrainConfig | EvalRunConfig
Task = Callable[[Any], object]  # runs one job's configuration, of the verb's kind


@dataclass(frozen=True)
class Verb:
    """`read` checks a job's values, `folder` is its run's, `is_done` whether a rerun may skip a job whose record says done.

    `one_task`: in SLURM one task has all GPUs of a job, not one each.
    """

    name: str
    read: Callable[[Values], Config]
    folder: Callable[[Any], Path]
    is_done: Callable[[Any], bool]
    one_task: bool = False


def run_folder(config: TrainConfig) -> Path:
    from mft_cli.train.settings import run_folder as folder

    return folder(config)


def eval_folder(config: EvalRunConfig) -> Path:
    from mft_cli.eval.evaluate import eval_folder as folder

    return folder(config)


def is_trained(config: TrainConfig) -> bool:
    """On the same data, too."""
    from mft_cli.train.resume import is_done

    return is_done(RunDir(run_folder(config)), config)


def never(config: EvalRunConfig) -> bool:
    """An evaluation looks for itself what is there of the same weights and problems."""
    return False


VERBS = {
    "train": Verb("train", train_config, run_folder, is_trained),
    "eval": Verb("eval", eval_config, eval_folder, never, one_task=True),
}
