"""One job of a sweep in this process, with its record kept true."""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from pathlib import Path

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.console import outcome_of
from mft_cli.errors import EXIT_DONE, EXIT_OURS, EXIT_STOPPED, Stopped, UserError
from mft_cli.report.read.runs import read_run
from mft_cli.sweep.ledger import Job, Ledger, here
from mft_cli.sweep.objective import reached
from mft_cli.sweep.verbs import VERBS, Task


def run_job(ledger: Ledger, number: int, task: Task) -> Job:
    """`task` on the job's frozen configuration; the finished record. An error is recorded, printed and not raised.

    Raises Stopped, recorded too.
    """
    ledger.update(
        number,
        state="running",
        where=here(),
        started=time.time(),
        ended=None,
        exit_code=None,
        message="",
        objective=None,
    )
    try:
        verb = VERBS[ledger.verb]
        config = verb.read(ledger.values(number))
        folder = verb.folder(config)
        ledger.update(number, run=os.path.relpath(folder, ledger.root))
        task(config)
    except (Stopped, KeyboardInterrupt) as stopped:
        end(ledger, number, "stopped", EXIT_STOPPED, str(stopped) or "interrupted")
        raise
    except Exception as error:
        outcome = outcome_of(error)
        if outcome is None:
            traceback.print_exc()
            return end(ledger, number, "failed", EXIT_OURS, f"{type(error).__name__}: {error}")
        print(f"mft: {outcome[1]}", file=sys.stderr, flush=True)
        return end(ledger, number, "failed", *outcome)
    finally:
        gc.collect()  # the next job of this process needs the memory
    return ledger.update(number, **done(folder, config.sweep.objective if isinstance(config, TrainConfig) else None))


def done(folder: Path, metric: str | None) -> dict[str, object]:
    """What the record of a finished run says."""
    value = reached(read_run(folder, folder.name), metric) if metric else None
    return {"state": "done", "ended": time.time(), "exit_code": EXIT_DONE, "message": "", "objective": value}


def end(ledger: Ledger, number: int, state: str, code: int, message: str) -> Job:
    return ledger.update(number, state=state, ended=time.time(), exit_code=code, message=message)


def is_finished(ledger: Ledger, job: Job) -> bool:
    """Whether a rerun may skip the job: its record says done, and its run folder holds the finished run on the same data."""
    if job.state != "done":
        return False
    verb = VERBS[ledger.verb]
    try:
        return verb.is_done(verb.read(ledger.values(job.number)))
    except UserError:
        return False  # the job itself says what is wrong
