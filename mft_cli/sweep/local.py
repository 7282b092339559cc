"""Jobs of a sweep on this machine: several at a time, each a process of its own, or one after the other in this one."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mft_cli.console import Progress
from mft_cli.errors import EXIT_STOPPED, Stopped
from mft_cli.report.wording import duration
from mft_cli.signals import install, restore
from mft_cli.sweep.jobs import end, run_job
from mft_cli.sweep.ledger import Job, Ledger, alive, told_apart, varied
from mft_cli.sweep.verbs import Task

POLL_S = 0.2


class Caught:
    """Notes the first stop signal, and hands each on to `receiver`; the old handlers come back at the end."""

    def __init__(self, receiver: Callable[[int], None] = lambda number: None):
        self.name: str | None = None
        self.receiver = receiver

    def __enter__(self) -> Caught:
        self.before = install(self._handle)
        return self

    def listen(self) -> None:
        """Again, after a training run in this process has put its own handlers in place."""
        install(self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.name = self.name or signal.Signals(number).name
        self.receiver(number)

    def __exit__(self, *error: object) -> None:
        restore(self.before)


@dataclass
class Child:
    """A job's process: ours, or one that outlived the sweep which started it (process None)."""

    ledger: Ledger
    job: Job
    slot: int
    pid: int
    process: subprocess.Popen[bytes] | None = None

    def running(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        return self.ledger.truth(self.ledger.get(self.job.number)).state == "running"

    def signal(self, number: int) -> None:
        if self.running() and (self.process is not None or alive(self.job.where)):  # not a process of another host
            os.kill(self.pid, number)


def in_sequence(ledger: Ledger, numbers: Sequence[int], task: Task) -> None:
    """One job after the other in this process. Raises Stopped."""
    keys = varied(ledger.all())
    times: list[float] = []
    with Caught() as caught:
        for position, number in enumerate(numbers, 1):
            job = ledger.truth(ledger.get(number))
            print(announcement(job, keys, position, len(numbers), times), flush=True)
            started = time.monotonic()
            while job.state == "running" and not caught.name:  # a process that outlived a killed sweep has it
                time.sleep(POLL_S)
                job = ledger.truth(ledger.get(number))
            if caught.name:
                raise Stopped(f"stopped by {caught.name} between two jobs")
            if job.state != "done":
                run_job(ledger, number, task)
            times.append(time.monotonic() - started)
            caught.listen()


def announcement(job: Job, keys: Sequence[str], position: int, total: int, times: Sequence[float]) -> str:
    """job 4 (5 of 6): mask_ratio=0.4 seed=1; about 2 min left. A search asks for one job at a time: no position, no rest."""
    settings = told_apart(job, keys)
    line = f"job {job.number}" + (f" ({position} of {total})" if total > 1 else "")
    line += f": {settings}" if settings != f"job {job.number}" else ""
    if times and total > 1:
        line += f"; about {duration(max(1.0, (total - position + 1) * sum(times) / len(times)))} left"
    return line


def in_parallel(ledger: Ledger, numbers: Sequence[int], at_a_time: int, gpus: int = 1) -> None:
    """`at_a_time` processes at once, `gpus` GPUs each. Raises Stopped when told to stop and all have saved."""
    # those that outlived their sweep come first: each takes a slot, or more than `at_a_time` would run
    pending = sorted(numbers, key=lambda n: ledger.truth(ledger.get(n)).state != "running")
    running: list[Child] = []
    times: list[float] = []
    signalled: set[int] = set()
    progress, states = Progress(), Counter[str]()

    def hand_on(signal_number: int) -> None:
        for child in running:
            signalled.add(child.pid)
            child.signal(signal_number)

    with Caught(hand_on) as caught:
        while pending or running:
            for child in [c for c in running if not c.running()]:
                running.remove(child)
                job = settle(ledger, child, caught.name)
                times += [job.ended - job.started] if job.ended and job.started else []
            while pending and len(running) < at_a_time and not caught.name:
                free = min(set(range(at_a_time)) - {c.slot for c in running})
                running.append(start(ledger, pending.pop(0), free, at_a_time, gpus))
                if caught.name and running[-1].pid not in signalled:  # it came while the process was being started
                    running[-1].signal(signal.Signals[caught.name])
            jobs, before = [ledger.get(n) for n in numbers], states
            states = Counter(job.state for job in jobs)
            progress.show(functools.partial(progress_line, jobs, times, at_a_time), at_once=states != before)
            if caught.name and not running:
                break
            time.sleep(POLL_S)
        progress.close()
    if caught.name:
        raise Stopped(f"stopped by {caught.name}; every running job has saved and ended")


def start(ledger: Ledger, number: int, slot: int, slots: int, gpus: int) -> Child:
    """The job's process; its output goes to the job's log. A job that still runs elsewhere on this machine is waited for."""
    job = ledger.truth(ledger.get(number))
    if job.state == "running" and "pid" in job.where:
        return Child(ledger, job, slot, job.where["pid"])
    ledger.reset(number)
    log = ledger.log(number)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment, words = share_of_the_machine(slot, slots, gpus)
    command = [sys.executable, "-m", "mft_cli", "sweep", "run", str(ledger.root), str(number), *words]
    with open(log, "ab") as file:
        # A session of its own: Ctrl-C reaches the sweep alone, which hands it on once.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )  # fmt: skip
    return Child(ledger, job, slot, process.pid, process)


def share_of_the_machine(slot: int, slots: int, gpus: int) -> tuple[dict[str, str], list[str]]:
    """Environment and words for one of `slots` processes: its GPUs, or its processor cores where there is no GPU."""
    environment = dict(os.environ)
    visible = visible_gpus()
    if visible:
        assigned = [visible[(slot * gpus + i) % len(visible)] for i in range(min(gpus, len(visible)))]
        return {**environment, "CUDA_VISIBLE_DEVICES": ",".join(assigned)}, []
    cores = sorted(os.sched_getaffinity(0))
    own_cores = cores[slot::slots] or [cores[slot % len(cores)]]
    return environment, [f"cores={','.join(map(str, own_cores))}"]


def visible_gpus() -> list[str]:
    """NVIDIA GPUs as CUDA_VISIBLE_DEVICES names them, without importing torch."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [word for word in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if word.strip()]
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def settle(ledger: Ledger, child: Child, stop: str | None) -> Job:
    """The record after the process has ended: its own, or ours where it was killed before it could write."""
    job = ledger.get(child.job.number)
    if job.state not in ("running", "waiting"):
        return job
    code = child.process.returncode if child.process else None
    if stop and (code is None or code < 0):
        return end(ledger, job.number, "stopped", EXIT_STOPPED, f"stopped by {stop} before its first step")
    reason = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
    if code == -signal.SIGKILL:
        reason += " (out of memory?)"
    return ledger.update(
        job.number, state="failed", ended=time.time(), exit_code=code, message=f"{reason}; see {ledger.log(job.number)}"
    )


def progress_line(jobs: Sequence[Job], times: Sequence[float], at_a_time: int) -> str:
    """5 of 12 jobs done, 1 failed, 2 running, 4 waiting; about 14 min left."""
    count = Counter(job.state for job in jobs)
    words = [f"{count['done']} of {len(jobs)} jobs done"]
    words += [f"{count[state]} {state}" for state in ("failed", "stopped", "running", "waiting") if count[state]]
    line = ", ".join(words)
    remaining = count["running"] + count["waiting"]
    if times and remaining:
        # a running job counts as half done: better than nothing, and never far off at the end
        rounds = (count["waiting"] + count["running"] / 2) / at_a_time
        line += f"; about {duration(max(1.0, rounds * sum(times) / len(times)))} left"
    return line
