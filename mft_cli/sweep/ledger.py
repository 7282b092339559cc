"""The ledger of a sweep: what was asked for and what became of it, one small file a job.

    <sweep>/sweep.json              the command, its launcher
    <sweep>/jobs/0003.json          the record of job 3 (`Job`), written whole or not at all
    <sweep>/jobs/0003.config.json   its frozen configuration: values reach the job as they are, no shell between
    <sweep>/jobs/0003.slurm         its id in SLURM, where it was submitted there
    <sweep>/logs/0003.log           what it printed, where it had a process of its own

A record has one writer at a time: the sweep's process while the job waits, the job's own process while it runs, the
sweep's process again when that has ended. Readers need no lock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mft_cli.config.schema.base import Values
from mft_cli.errors import UserError, first_line
from mft_cli.files import locked, read_sealed, write_atomically, write_sealed
from mft_cli.run_dir import RunDir
from mft_cli.slurm import requeue as slurm

IN_CLUSTER = ("queued", "running")  # a second submission would only be in the way
SILENT = "SLURM does not answer; this is the last state that was written"
UNFINISHED = ("waiting", "failed", "stopped", "dead")  # what a retry runs again


@dataclass
class Job:
    """One run of a sweep. `state`: waiting, queued, running, done, failed or stopped; `truth` may also say dead."""

    number: int
    overrides: list[str]
    state: str = "waiting"
    run: str | None = None  # the run's folder, relative to the sweep's
    exit_code: int | None = None
    message: str = ""
    objective: float | None = None
    started: float | None = None  # seconds since 1970
    ended: float | None = None
    where: Values = field(default_factory=dict)  # host, pid, created of its process


class Ledger:
    """The files of one sweep's folder."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.facts = self.root / "sweep.json"
        self.jobs = self.root / "jobs"

    @classmethod
    def open(cls, root: Path | str) -> Ledger:
        """An existing sweep. Raises UserError if the folder holds none."""
        ledger = cls(root)
        if not ledger.facts.is_file():
            raise UserError(
                f"{root} is not a sweep's folder (it has no sweep.json); mft train -m prints the folder's name"
            )
        return ledger

    @property
    def verb(self) -> str:
        """What the sweep repeats: train or eval."""
        return str(self.read(self.facts).get("verb", "train")) if self.facts.is_file() else "train"

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """One process at a time starts jobs. A dead one's lock is free."""
        status = f"look at it with mft sweep status {self.root}"
        return locked(self.root, f"{self.root}: another mft process is running this sweep; {status}")

    @staticmethod
    def read(path: Path) -> Values:
        """A file of the ledger. Raises UserError for a damaged one."""
        try:
            return read_sealed(path)
        except ValueError as error:
            raise UserError(
                f"{path} is damaged ({first_line(error)}): put back a copy, or delete it and start the sweep's command again, "
                f"which writes it anew and goes on with the runs that are there"
            ) from None

    # ---- records ----------------------------------------------------------------------------------------------------

    def record(self, number: int) -> Path:
        return self.jobs / f"{number:04}.json"

    def config(self, number: int) -> Path:
        return self.jobs / f"{number:04}.config.json"

    def log(self, number: int) -> Path:
        return self.root / "logs" / f"{number:04}.log"

    def get(self, number: int) -> Job:
        """Raises UserError if there is no such job."""
        if not self.record(number).is_file():
            raise UserError(f"{self.root} has no job {number}")
        values, known = self.read(self.record(number)), {f.name for f in fields(Job)}
        return Job(**{k: v for k, v in values.items() if k in known})

    def all(self) -> list[Job]:
        """Every record as it stands, by number. Raises UserError for a damaged one, and where one is gone."""
        if lost := self.lost():
            raise UserError(
                f"{self.record(lost[0])} is gone: start the sweep's command again, which enters the job anew and keeps its run; or "
                f"delete {self.config(lost[0]).name}, too, to leave the job out"
            )
        return self.records()

    def records(self) -> list[Job]:
        return [self.get(int(path.stem)) for path in sorted(self.jobs.glob("[0-9]*.json")) if path.stem.isdigit()]

    def lost(self) -> list[int]:
        """Jobs that have a configuration, which is written after the record, and no record."""
        numbers = (int(path.name.partition(".")[0]) for path in sorted(self.jobs.glob("[0-9]*.config.json")))
        return [number for number in numbers if not self.record(number).exists()]

    def update(self, number: int, **changes: Any) -> Job:
        """Change fields of a record."""
        job = replace(self.get(number), **changes)
        write_sealed(self.record(number), asdict(job))
        return job

    def reset(self, number: int) -> Job:
        """A job that is to run (again) waits for its turn."""
        self.cluster_file(number).unlink(missing_ok=True)
        return self.update(
            number, state="waiting", where={}, message="", exit_code=None, objective=None, started=None, ended=None
        )

    def add(self, overrides: Sequence[str]) -> Job:
        """The job with these overrides: the known one, else a new one with a lost or the next number. Needs the lock."""
        known = self.records()
        for job in known:
            if job.overrides == list(overrides):
                return job
        following = 1 + max((j.number for j in known), default=-1)
        job = Job(number=min([*self.lost(), following]), overrides=list(overrides))
        write_sealed(self.record(job.number), asdict(job))
        return job

    def freeze(self, number: int, values: Values) -> bool:
        """Keep a job's composed configuration. False if the same is there already."""
        path = self.config(number)
        if path.exists() and self.read(path) == values:
            return False
        write_sealed(path, values)
        return True

    def values(self, number: int) -> Values:
        """The frozen configuration, as nested plain dicts. Raises UserError if the job was never composed."""
        path = self.config(number)
        if not path.is_file():
            raise UserError(f"job {number} of {self.root} has no configuration: {self.get(number).message}")
        return self.read(path)

    # A file of its own: the submitter learns the id when the job may be writing its record already.

    def cluster_file(self, number: int) -> Path:
        return self.jobs / f"{number:04}.slurm"

    def set_cluster_id(self, number: int, name: str) -> None:
        write_atomically(self.cluster_file(number), name + "\n")

    def cluster_id(self, number: int) -> str | None:
        file = self.cluster_file(number)
        return file.read_text().strip() if file.is_file() else None

    def run_folder(self, job: Job) -> Path | None:
        """The run's folder; None before the job has started."""
        return self.root / job.run if job.run else None

    # ---- the truth --------------------------------------------------------------------------------------------------

    def truth(self, job: Job, queue: dict[str, str] | None = None, asked: bool = False) -> Job:
        """The record, corrected where its process was killed before it could write: state dead, or what the run says.

        `queue` is SLURM's, where it has been `asked` already: a silent controller takes seconds to say nothing.
        """
        name = self.cluster_id(job.number)
        gone = False
        if name is not None and job.state in ("queued", "running", "stopped"):
            queue = queue if asked else slurm.queue()
            if queue is None:
                return replace(job, message=SILENT)
            if queue.get(name) in slurm.TO_COME:
                return replace(job, state="queued", message=f"in SLURM's queue as {name}")
            gone = name not in queue
            if job.state == "stopped" and not gone:  # its process has saved; SLURM may be about to requeue it
                return replace(job, state="running", message=f"SLURM job {name} is ending")
            if job.state == "queued":
                message = f"SLURM job {name} has left the queue before mft started (cancelled?)"
                return replace(job, state="dead", message=message) if gone else replace(job, state="running")
        if job.state == "queued" and name is None:
            return replace(job, state="waiting")  # its submission was cut off
        if job.state != "running" or (not gone and alive(job.where) is not False):
            return job
        folder = self.run_folder(job)
        state = RunDir(folder).get_state() if folder else {}
        if state.get("state") in ("stopped", "failed"):
            return replace(job, state=state["state"], message=str(state.get("message", "")))
        saved = f"the run has saved step {state['step']}" if state.get("step") else "nothing was saved"
        if state.get("state") == "done":
            saved = "the run is trained"
        return replace(job, state="dead", message=f"its process is gone (killed?); {saved}")

    def truths(self) -> list[Job]:
        """Every job as it really is."""
        jobs = self.all()
        queue = slurm.queue() if any(self.cluster_id(job.number) for job in jobs) else None
        return [self.truth(job, queue, asked=True) for job in jobs]

    def known_truths(self) -> list[Job]:
        """Before jobs are started again. Raises UserError where SLURM's queue has to be known and is not."""
        jobs = self.truths()
        if any(job.message == SILENT for job in jobs):
            raise UserError(
                f"{self.root}: SLURM does not answer, so it is not known which jobs still wait or run there; try again when "
                f"squeue does"
            )
        return jobs


def here() -> Values:
    """This process, so that another one can tell later whether it still lives."""
    import psutil

    return {"host": socket.gethostname(), "pid": os.getpid(), "created": psutil.Process().create_time()}


def alive(process_facts: Values) -> bool | None:
    """Whether the process still lives; None if it cannot be told from here (another host, a cluster's job)."""
    import psutil

    if "pid" not in process_facts or process_facts.get("host") != socket.gethostname():
        return None
    try:
        process = psutil.Process(process_facts["pid"])
        same = abs(process.create_time() - process_facts["created"]) < 1  # a number is given again to another process
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def varied(jobs: Sequence[Job]) -> list[str]:
    """The keys whose values are not the same in all jobs, in the order of the command."""
    tables = [settings(job) for job in jobs]
    keys = dict.fromkeys(key for table in tables for key in table)
    return [key for key in keys if len({table.get(key) for table in tables}) > 1]


def settings(job: Job) -> dict[str, str]:
    """Key -> value of a job's overrides, as they were typed."""
    pairs = (override.partition("=") for override in job.overrides)
    return {key.lstrip("+~"): value for key, _, value in pairs}


def told_apart(job: Job, keys: Sequence[str]) -> str:
    """A job's own settings in short: mask_ratio=0.1 seed=2."""
    table = settings(job)
    return " ".join(f"{key.rsplit('.', 1)[-1]}={table[key]}" for key in keys if key in table) or f"job {job.number}"


def seconds(job: Job) -> float | None:
    """How long the job ran, or has been running."""
    if job.started is None:
        return None
    if job.ended is None and job.state != "running":
        return None
    return (job.ended or time.time()) - job.started
