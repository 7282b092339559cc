"""`mft sweep status|retry|run FOLDER`: what the verb does on a ledger."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from mft_cli.console import text_table
from mft_cli.errors import EXIT_DONE, EXIT_OURS, EXIT_USER
from mft_cli.report.wording import NONE, count, duration, one_line
from mft_cli.run_dir import RunDir
from mft_cli.sweep.array import in_array
from mft_cli.sweep.jobs import run_job
from mft_cli.sweep.ledger import UNFINISHED, Job, Ledger, alive, seconds, told_apart, varied
from mft_cli.sweep.local import in_parallel
from mft_cli.sweep.start import finish
from mft_cli.sweep.verbs import Task

# ---- status ---------------------------------------------------------------------------------------------------------


def status(ledger: Ledger) -> str:
    """Counts, and one line a job."""
    jobs = ledger.truths()
    keys = varied(jobs)
    states = Counter(job.state for job in jobs)
    head = f"{ledger.root}: {count(len(jobs), 'job')}, " + ", ".join(f"{n} {state}" for state, n in states.items())
    rows = [("job", "settings", "step", "state", "time", "message"), *(row(ledger, job, keys) for job in jobs)]
    return "\n".join([head, "", *text_table(rows)])


def row(ledger: Ledger, job: Job, keys: list[str]) -> tuple[str, ...]:
    message = one_line(job.message.splitlines()[0]) if job.message else ""
    time = duration(seconds(job)) if seconds(job) is not None else ""
    return (str(job.number), one_line(told_apart(job, keys)), steps(ledger, job), job.state, time, message)


def steps(ledger: Ledger, job: Job) -> str:
    """Finished steps of all, as the run's folder knows them."""
    folder = ledger.run_folder(job)
    if folder is None:
        return NONE
    state = RunDir(folder).get_state()
    step = max(last_logged(folder / "metrics.jsonl"), state.get("step") or 0)
    return f"{step}/{state.get('total_steps') or '?'}" if step else NONE


def last_logged(path: Path) -> int:
    """The step of the last whole row, from the file's end: it may be long, and its last line torn."""
    import json

    if not path.is_file():
        return 0
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().split(b"\n")
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


# ---- retry and run --------------------------------------------------------------------------------------------------


def retry(ledger: Ledger, at_a_time: int | None) -> None:
    """Run the unfinished jobs again on this machine, with the launcher's number at a time. Raises UserError, Stopped."""
    launcher = ledger.read(ledger.facts).get("launcher", {})
    with ledger.lock():
        jobs = ledger.known_truths()
        numbers = [job.number for job in jobs if job.state in UNFINISHED]
        if not numbers:
            print("nothing to do: every job is done or running")
            return
        if launcher.get("name") == "mft_slurm":
            in_array(ledger, numbers, launcher)
            finish(ledger)
            return
        print(f"again: {count(len(numbers), 'job')} of {ledger.root}; output in {ledger.log(0).parent}", flush=True)
        outlived = [job.number for job in jobs if job.state == "running" and alive(job.where)]
        if outlived:
            still = (
                "still runs here and takes its place" if len(outlived) == 1 else "still run here and take their places"
            )
            print(f"{count(len(outlived), 'job')} of a sweep that was killed {still}", flush=True)
        numbers += outlived
        gpus = [ledger.values(n).get("launch", {}).get("gpus") or 1 for n in numbers]
        in_parallel(ledger, numbers, at_a_time or launcher.get("jobs", 1), max(gpus))
        finish(ledger)


def run_one(ledger: Ledger, number: int, cores: str | None, in_slurm: bool, task: Task) -> None:
    """One job in this process: what a launcher starts; `in_slurm`: in a task of an array. Exits with its code."""
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if in_slurm:
        task_here: Task = task
        task = lambda config: task_here(replace(config, launch=replace(config.launch, name="slurm")))  # noqa: E731
    print(f"-- job {number}, {datetime.now():%Y-%m-%d %H:%M:%S}, process {os.getpid()}", flush=True)
    code = run_job(ledger, number, task).exit_code
    if code in (EXIT_USER, EXIT_OURS):
        sys.exit(code)
    assert code == EXIT_DONE
