"""`mft train`: its help, its options and what it calls."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mft_cli.cli.job import read_frozen, requeueing
from mft_cli.cli.options import composed, is_sweep, value_of
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.distributed.placed import drives_node, is_placed
from mft_cli.errors import UserError
from mft_cli.slurm.requeue import inside_job


def main(arguments: list[str]) -> None:
    from mft_cli.config.load import train_config

    if is_placed(os.environ) and not drives_node(os.environ):
        return
    if is_placed(os.environ) and is_sweep(arguments):
        raise UserError(
            "RANK and WORLD_SIZE are set (torchrun?): a sweep starts its runs itself, start it without them"
        )
    if is_sweep(arguments):
        from mft_cli.sweep.start import sweep

        sweep("train", arguments, run_training)
    elif frozen := value_of(arguments, "--frozen"):
        train_or_submit(train_config(read_frozen(frozen)))
    else:
        composed("train", arguments, train_config, lambda config: train_or_submit(placed(config)))


def placed(config: TrainConfig) -> TrainConfig:
    """With the place that torchrun, Kubeflow or SageMaker gave this process. Raises UserError."""
    if not is_placed(os.environ):
        return config
    import torch

    from mft_cli.distributed.placed import with_place

    return replace(config, launch=with_place(config.launch, os.environ, torch.cuda.device_count()))


def rank_verb(arguments: list[str]) -> None:
    """One process of a run, started by `mft train` with a frozen configuration."""
    from mft_cli.signals import StopSignal

    stop = StopSignal()  # before torch is imported: a rank that a signal ends leaves the others waiting for it

    from mft_cli.plan.rows import rows_that_fit
    from mft_cli.train.run import train_rank

    train_rank(Path(value_of(arguments, "--frozen")), Path(value_of(arguments, "--run")), stop, rows_that_fit)


def train_or_submit(config: TrainConfig) -> Path:
    """Train here; launch=slurm outside a job submits one that does. Returns the run's folder."""
    if config.launch.name != "slurm" or (inside_job() and not config.launch.dry_run):
        return run_training(config)
    from mft_cli.plan.saving import with_time_to_save
    from mft_cli.slurm.submit import submit_run
    from mft_cli.train.settings import run_folder

    folder = run_folder(config)
    jobs = submit_run(with_time_to_save(config), folder / "slurm")
    if not config.launch.dry_run:
        print(f"submitted SLURM job {', then '.join(jobs)}; run folder {folder}, output in {folder}/slurm")
    return folder


def run_training(config: TrainConfig) -> Path:
    """One run, for the command and for a job of a sweep. Returns its folder. Raises UserError, Stopped."""
    if config.launch.name == "slurm" and not inside_job():
        raise UserError("launch=slurm in a sweep: use hydra/launcher=mft_slurm, which submits the sweep as an array")
    from mft_cli.data.layouts import resolve_local
    from mft_cli.eval.preflight import check_planned

    resolve_local(config.data)
    check_planned(config.eval, config.method.decoders)  # not after the hours of training
    with requeueing(config.launch):
        from mft_cli.distributed.launch import world_size
        from mft_cli.plan.rows import rows_that_fit
        from mft_cli.plan.saving import with_time_to_save
        from mft_cli.train.run import train

        several = world_size(config.launch) > 1
        return train(with_time_to_save(config) if several else config, rows_that_fit)


HELP = """mft train: fine-tune a model with a method, export it, evaluate it

  mft train method=masked_thought                              the embedded default: SmolLM2-135M on gsm_symbolic
  mft train method=masked_thought data=gsm8k eval=gsm8k        real GSM8K, evaluated at the end
  mft train method=sft data=local data.sources.local.path=my.jsonl train.epochs=1
  mft train method=masked_thought method.mask_ratio=0.2 run_dir=outputs/mine
  mft train -m method=sft,masked_thought seed=1,2,3            a sweep: six runs, one after the other
  mft train -m hydra/launcher=mft_local hydra.launcher.jobs=2 ...   two at a time; see mft sweep --help
  mft train launch=slurm launch.gpus=8 ...                     submit to SLURM; hydra/launcher=mft_slurm: a sweep (docs/slurm.md)
  mft train experiment=paper_masked_thought_gsm8k --cfg job    print the whole configuration and stop

The same command started again goes on from its newest good checkpoint, and evaluates what is not evaluated yet.
Groups (choose with group=option): {groups}
All keys: docs/keys.md.  Hydra's own flags: --cfg, --info, --multirun, --config-dir, ... (mft train --hydra-help).
Tab completion: eval "$(mft -sc install=bash)"
"""
