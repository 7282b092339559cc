"""`mft sweep`: its help, its options and what it calls."""

from __future__ import annotations


def main(arguments: list[str]) -> None:
    from mft_cli.cli.train import run_training
    from mft_cli.sweep.command import command

    command(arguments, run_training)


HELP = """mft sweep: many runs of one command

  mft train -m method=masked_thought method.mask_ratio=0.1,0.2,0.3,0.4 seed=1,2,3     12 runs, one after the other
  mft train -m hydra/launcher=mft_local hydra.launcher.jobs=2 ...                     two at a time
  mft train -m hydra/sweeper=optuna 'train.learning_rate=tag(log,interval(1e-5,1e-3))' data.validation.rows=64 ...

  mft sweep status FOLDER                 every job: state, step, time, and what went wrong
  mft sweep retry FOLDER [jobs=2]         run again what failed, was stopped or was killed
  mft sweep report FOLDER [select=NAME]   score against the swept value, and which setting is best: sweep.html, sweep.md
                  [out=FOLDER]            NAME: validation_loss (default), a benchmark, or <benchmark>/gold_logprob

The same mft train -m command finds its folder (outputs/sweeps/...) again, skips finished runs and goes on with the
others. A failed job does not stop the rest. Launchers and searches: docs/sweeps.md.
"""
