"""`mft sweep`: its help, its options and what it calls."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import read_options
from mft_cli.config.schema.base import STRICT, Count, Processes, key
from mft_cli.config.validate import build_from_texts
from mft_cli.errors import UserError


@dataclass(config=STRICT, frozen=True)
class StatusOptions:
    """`mft sweep status` has no options."""


@dataclass(config=STRICT, frozen=True)
class RetryOptions:
    """The options of `mft sweep retry`."""

    jobs: Processes | None = key(None, "Jobs at a time; null: the launcher's number.")


@dataclass(config=STRICT, frozen=True)
class ReportOptions:
    """The options of `mft sweep report`."""

    out: Path | None = key(None, "Folder; null: report in the sweep's.")
    select: str | None = key(None, "The score that chooses; null: sweep.objective.")


@dataclass(config=STRICT, frozen=True)
class RunOptions:
    """The options of `mft sweep run`, which launchers call."""

    cores: str | None = key(None, "Processor cores of this process, comma-separated.")
    launch: Literal["local", "slurm"] = key("local", "slurm: in a task of an array.")


@dataclass(config=STRICT, frozen=True)
class RunWords:
    """What follows `mft sweep run FOLDER`."""

    job: Count = key(..., "The job's number.")


OPTIONS: dict[str, type] = {
    "status": StatusOptions, "retry": RetryOptions, "report": ReportOptions, "run": RunOptions,
}  # fmt: skip


def main(arguments: list[str]) -> None:
    """Raises UserError for words that it does not know."""
    verb, rest = (arguments or [""])[0], arguments[1:]
    if verb not in OPTIONS:
        raise UserError("mft sweep has the commands status, retry and report: mft sweep status outputs/sweeps/<name>")
    options: object
    options, words = read_options(OPTIONS[verb], f"sweep {verb}", rest)
    if len(words) != (2 if verb == "run" else 1):
        raise UserError(f"mft sweep {verb} takes one sweep's folder; see mft sweep --help")
    from mft_cli.sweep.ledger import Ledger

    ledger = Ledger.open(words[0])
    if isinstance(options, ReportOptions):
        from mft_cli.sweep.report import build

        print(build(ledger, options.out or ledger.root / "report", options.select))
    elif isinstance(options, RetryOptions):
        from mft_cli.sweep.command import retry

        retry(ledger, options.jobs)
    elif isinstance(options, RunOptions):
        from mft_cli.cli.eval import evaluate_in_sweep
        from mft_cli.cli.train import run_training
        from mft_cli.sweep.command import run_one

        task = run_training if ledger.verb == "train" else evaluate_in_sweep
        job = build_from_texts(RunWords, {"job": words[1]}).job
        run_one(ledger, job, options.cores, options.launch == "slurm", task)
    else:
        from mft_cli.sweep.command import status

        print(status(ledger))


HELP = """mft sweep: many runs of one command

  mft train -m method=masked_thought method.mask_ratio=0.1,0.2,0.3,0.4 seed=1,2,3     12 runs, one after the other
  mft train -m hydra/launcher=mft_local hydra.launcher.jobs=2 ...                     two at a time
  mft train -m hydra/sweeper=optuna 'train.learning_rate=tag(log,interval(1e-5,1e-3))' data.validation.rows=64 ...

  mft eval -m model.path=outputs/a/export,outputs/b/export eval=gsm8k hydra/launcher=mft_slurm      evaluations, too

  mft sweep status FOLDER                 every job: state, step, time, and what went wrong
  mft sweep retry FOLDER [jobs=2]         run again what failed, was stopped or was killed
  mft sweep report FOLDER [select=NAME]   score against the swept value, and which setting is best: sweep.html, sweep.md
                  [out=FOLDER]            NAME: validation_loss (default), a benchmark, or <benchmark>/gold_logprob

The same mft train -m or mft eval -m command finds its folder (outputs/sweeps/...) again, skips finished runs and goes on with the
others. A failed job does not stop the rest. Launchers and searches: docs/sweeps.md.
"""
