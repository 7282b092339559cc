"""What `mft train` and `mft eval` do with a configuration: run it here, or hand it to SLURM, and requeue it there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mft_cli.errors import Stopped, UserError
from mft_cli.schema import CritiqueRunConfig, EvalRunConfig, LaunchConfig, TrainConfig
from mft_cli.slurm import StoppedEarly, inside_job, mind_early_signals, requeue_if_due


def read_frozen(file: str) -> dict[str, Any]:
    """A frozen configuration as plain values. Raises UserError."""
    try:
        return dict(json.loads(Path(file).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"--frozen={file}: cannot be read ({error})") from None


def train_or_submit(config: TrainConfig) -> None:
    """Train here; launch=slurm outside a job submits one that does."""
    if config.launch.name != "slurm" or (inside_job() and not config.launch.dry_run):
        run_training(config)
        return
    from mft_cli.rerun import run_folder
    from mft_cli.submit import submit_run

    folder = run_folder(config)
    jobs = submit_run(config, folder / "slurm")
    if not config.launch.dry_run:
        print(f"submitted SLURM job {', then '.join(jobs)}; run folder {folder}, output in {folder}/slurm")


def run_training(config: TrainConfig) -> None:
    """One run, for the command and for a job of a sweep. Raises UserError, Stopped."""
    if config.launch.name == "slurm" and not inside_job():
        raise UserError("launch=slurm in a sweep: use hydra/launcher=mft_slurm, which submits the sweep as an array")
    from mft_cli.eval.preflight import check_data

    check_data(config.eval)  # not after the hours of training
    with requeueing(config.launch):
        from mft_cli.train import train

        train(config)


def run_evaluation(config: EvalRunConfig) -> None:
    """One evaluation. Raises UserError, Stopped."""
    if config.launch.name == "slurm" and not inside_job():
        raise UserError("mft eval launch=slurm runs inside a job; submit one with sbatch slurm/eval.sbatch ...")
    from mft_cli.eval.preflight import preflight

    preflight(config)
    with requeueing(config.launch):
        from mft_cli.evaluate import evaluate_run

        evaluate_run(config)


def run_critique(config: CritiqueRunConfig) -> None:
    """One run of `mft critique`. Raises UserError, Stopped."""
    if config.launch.name == "slurm" and not inside_job():
        raise UserError("mft critique launch=slurm runs inside a job; submit one with sbatch")
    with requeueing(config.launch):
        from mft_cli.critique.run import critique_run

        critique_run(config)


@contextmanager
def requeueing(launch: LaunchConfig) -> Iterator[None]:
    """A SLURM job whose time is up goes back into the queue."""
    try:
        mind_early_signals()
        yield
    except StoppedEarly as early:
        stopped = Stopped(f"stopped by {early} before the first step", str(early))
        requeue_if_due(launch.slurm, stopped)
        raise stopped from None
    except Stopped as stopped:
        requeue_if_due(launch.slurm, stopped)
        raise
