"""Starts the ranks of a run, passes signals on, and ends them all when one of them dies."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mft_cli.config.checks import check_launch
from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.console import Logger
from mft_cli.distributed.cores import threads_of_rank
from mft_cli.distributed.meeting import meeting_file, on_one_node
from mft_cli.errors import EXIT_DONE, EXIT_OURS, EXIT_STOPPED, EXIT_USER, UserError
from mft_cli.signals import handling
from mft_cli.slurm import srun as allocation
from mft_cli.slurm.srun import place_from_slurm as place_from_slurm
from mft_cli.slurm.srun import rank_exit_code as rank_exit_code

SETTLE_S = 1.0  # after a failure the other ranks may still show that they fail of the same cause
KILL_AFTER_S = 5.0  # between TERM and KILL: after a failure the other ranks hang in a collective and save nothing
PR_SET_PDEATHSIG = 1
TAIL_LINES = 60


def ranks_per_node(launch: LaunchConfig) -> int:
    """Processes on one node. Raises UserError if the settings contradict each other or the machine."""
    check_launch(launch)
    if launch.gpus and launch.name == "local":  # the machine that submits to SLURM need not have the nodes' GPUs
        import torch

        seen = torch.cuda.device_count()
        if launch.gpus > seen:
            raise UserError(
                f"launch.gpus={launch.gpus}, but torch sees {seen} GPUs on this machine; "
                f"{f'set launch.gpus to at most {seen}' if seen else 'set launch.processes for processes without GPUs'}"
            )
    return launch.gpus or launch.processes or allocation.tasks_per_node(launch)


def world_size(launch: LaunchConfig) -> int:
    """Processes on all nodes."""
    return ranks_per_node(launch) * allocation.nodes(launch)


def threads_per_rank(launch: LaunchConfig) -> int:
    """launch.threads, else OMP_NUM_THREADS, else the cores of this node shared out between its ranks."""
    local = {"LOCAL_WORLD_SIZE": str(ranks_per_node(launch))}
    return launch.threads or threads_of_rank({k: os.environ[k] for k in ["OMP_NUM_THREADS"] if k in os.environ} | local)


def start_ranks(
    command: list[str], launch: LaunchConfig, logs: Path, log: Logger, heard: list[str] | None = None,
    cause: list[str] | None = None,
) -> int:  # fmt: skip
    """Run `command` once a rank of this node (with launch.name=slurm: of the allocation) and wait for all of them.

    Rank 0 writes to the terminal and to logs/rank0.log, every other rank to logs/rank<N>.log. Must be called in the main
    thread: signals are handled there, and the ranks are ended with the thread that started them.
    Returns 0 if all ranks did, 75 if they stopped after a signal, else the exit code of the rank that failed first
    (1 if a signal ended it). The names of the signals that came are appended to `heard`, and to `cause` in words why that
    rank failed, where it is one of this node's: the others fail with it, of what they miss. Raises UserError for settings
    that cannot be started.
    """
    logs.mkdir(parents=True, exist_ok=True)
    heard = [] if heard is None else heard
    if launch.name == "slurm":
        return start_srun(command, launch, logs, log, heard)
    with meeting_file() as meeting:
        environments = local_environments(launch, meeting)
        ranks = [Rank(int(e["RANK"]), command, e, logs, echo=e["RANK"] == "0") for e in environments]
        group = Group(ranks, launch.grace_s, log, heard)
        first = group.run()
    if first is not None:
        if text := failure_text(first, ranks):
            log(text)
        if cause is not None:
            cause.append(cause_of(first, group.killed_for))
        return first.code if first.code > 0 else EXIT_OURS
    return EXIT_STOPPED if any(r.code != EXIT_DONE for r in ranks) else EXIT_DONE


def start_srun(command: list[str], launch: LaunchConfig, logs: Path, log: Logger, heard: list[str]) -> int:
    """One srun for all ranks. A signal goes on as USR1: srun answers INT with a status line and TERM by killing."""
    call, environment = allocation.srun_call(command, launch, ranks_per_node(launch), logs)
    srun = Rank(0, call, environment, logs, echo=True)
    allocation.clear_stopped(logs)
    started = time.time()
    group = Group([srun], launch.grace_s, log, heard, forward_as=signal.SIGUSR1, end_with=signal.SIGTERM)
    first = group.run()
    stopped = allocation.stopped(logs)
    if first is None or stopped == int(environment["WORLD_SIZE"]):  # all have saved, however srun itself was ended
        return EXIT_STOPPED if srun.code != EXIT_DONE or stopped else EXIT_DONE
    others = [p for p in logs.glob("rank*.log") if p != srun.log and p.stat().st_mtime >= started - 1]
    shown = tail(srun.log, srun.offset)
    for path in sorted(others, key=lambda p: p.stat().st_mtime):
        text = tail(path, 0)
        if "Traceback" in text and last_line(text) not in shown:
            log(f"a rank failed; the end of {path}:\n{text}")
            break
    # srun gives the highest code of the tasks, or 128 + the signal
    return first.code if 0 < first.code < 128 else EXIT_OURS


def local_environments(launch: LaunchConfig, meeting: Path) -> list[dict[str, str]]:
    """The environment of every rank of this node, with torch's names. On a single node they meet by the file `meeting`."""
    per_node, nodes = ranks_per_node(launch), allocation.nodes(launch)
    if nodes > 1:
        for name in ("node_rank", "host", "port"):
            if getattr(launch, name) is None:
                raise UserError(f"launch.nodes={nodes} needs launch.{name}: set it on every node, or launch=slurm")
    node = launch.node_rank or 0
    shared = {
        "WORLD_SIZE": per_node * nodes, "LOCAL_WORLD_SIZE": per_node, "MASTER_ADDR": launch.host or allocation.LOOPBACK,
        "MASTER_PORT": launch.port or allocation.free_port(),  # on one node no more than a name, of shared memory
        "OMP_NUM_THREADS": threads_per_rank(launch),
    }  # fmt: skip
    here = {**os.environ} if nodes > 1 else on_one_node(os.environ, meeting)
    variables = [{**shared, "LOCAL_RANK": k, "RANK": node * per_node + k} for k in range(per_node)]
    return [{**here, "PYTHONUNBUFFERED": "1", **{k: str(v) for k, v in added.items()}} for added in variables]


@dataclass
class Rank:
    """One started process: its exit code once it has ended (negative: the signal), its log, what copies its output."""

    number: int
    command: list[str]
    environment: dict[str, str]
    logs: Path
    echo: bool
    code: int = 0
    offset: int = 0
    copiers: list[threading.Thread] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.logs / f"rank{self.number}.log"

    def start(self) -> None:
        log = self.log.open("ab", buffering=0)
        self.offset = log.tell()
        out, err = (subprocess.PIPE, subprocess.PIPE) if self.echo else (log, subprocess.STDOUT)
        # A session of its own: a terminal's Ctrl-C reaches only the supervisor, which passes it on once.
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True, preexec_fn=die_with(os.getpid()),
        )  # fmt: skip
        if not self.echo:
            log.close()
        for source, target in ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr)):
            if source is not None:
                self.copiers.append(threading.Thread(target=copy, args=(source, target, log), daemon=True))
                self.copiers[-1].start()

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """Ends the rank and whatever it has started in its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


def die_with(parent: int) -> Callable[[], None]:
    """For the child, before exec: TERM when the supervisor is gone, even by kill -9."""
    prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec only the call itself is safe

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(EXIT_OURS)

    return ask


def copy(source: IO[bytes], target: IO[str], log: IO[bytes]) -> None:
    """Passes bytes on as they come, so that progress lines that end in a carriage return stay alive."""
    open_terminal = True
    while chunk := os.read(source.fileno(), 65536):
        log.write(chunk)
        if open_terminal:
            try:
                target.buffer.write(chunk)  # type: ignore[attr-defined]
                target.flush()
            except (OSError, ValueError):  # `mft ... | head`: the run goes on, the log is complete
                open_terminal = False


class Group:
    """The ranks of one call, watched until the last one has ended."""

    def __init__(
        self, ranks: list[Rank], grace_s: float, log: Logger, heard: list[str],
        forward_as: int | None = None, end_with: int | None = None,
    ):  # fmt: skip
        self.ranks, self.grace_s, self.log, self.heard = ranks, grace_s, log, heard
        self.forward_as, self.end_with = forward_as, end_with
        self.ended: queue.SimpleQueue[tuple[Rank, int]] = queue.SimpleQueue()
        self.alive: list[Rank] = []
        self.arrived: list[int] = []  # signals that wait to be passed on
        self.seen: set[int] = set()
        self.first: Rank | None = None  # the rank that failed first
        self.killed_for = ""  # why this process killed the ranks, if it did
        self.cut_off = False  # a rank was ended by a signal before it could listen
        self.plan: list[tuple[float, Callable[[], None]]] = []  # what to do when, by time.monotonic()

    def run(self) -> Rank | None:
        """The rank that failed first, or None."""
        try:
            with handling(lambda number, _: self.arrived.append(number)):
                for rank in self.ranks:
                    rank.start()
                    self.alive.append(rank)
                for rank in self.ranks:
                    threading.Thread(target=lambda r=rank: self.ended.put((r, r.process.wait())), daemon=True).start()
                while self.alive:
                    self.turn()
        finally:
            for rank in self.ranks if self.first else self.alive:  # a dead rank's own children too
                rank.kill()
        for copier in (c for rank in self.ranks for c in rank.copiers):
            copier.join(timeout=2)  # a child of a rank may hold the pipe open
        return self.first

    def turn(self) -> None:
        with contextlib.suppress(queue.Empty):
            self.note_end(*self.ended.get(timeout=0.05))
        while self.arrived:
            self.pass_on(self.arrived.pop(0))
        due = [action for at, action in self.plan if at <= time.monotonic()]
        self.plan = [(at, action) for at, action in self.plan if at > time.monotonic()]
        for action in due:
            action()

    def note_end(self, rank: Rank, code: int) -> None:
        rank.code = code
        self.alive.remove(rank)
        # A rank that was told to stop before it could listen has nothing to save: stopped, not failed.
        unheard = -code in self.seen or (self.seen and self.forward_as and code == 128 + self.forward_as)
        if unheard and not self.cut_off:  # so no rank has begun to train: the others wait for it in vain
            self.cut_off = True
            self.after(SETTLE_S, self.kill)
        if code in (EXIT_DONE, EXIT_STOPPED) or unheard or self.first or (self.cut_off and code < 0):
            return
        self.first = rank
        if not self.seen:  # otherwise the others may be saving: the grace period holds
            self.after(SETTLE_S, lambda: self.signal_all(signal.SIGTERM))
            self.after(SETTLE_S + KILL_AFTER_S, self.kill)

    def pass_on(self, number: int) -> None:
        if number in self.seen:
            if number == signal.SIGINT:
                self.killed_for = "a second interrupt: what came after the last save is lost"
                self.log("second interrupt: the ranks are killed")
                self.kill()
            return
        if not self.seen:
            self.after(self.grace_s, self.too_late)
        if not (self.seen and self.forward_as):
            self.signal_all(self.forward_as or number)
        self.seen.add(number)
        self.heard.append(signal.Signals(number).name)

    def too_late(self) -> None:
        self.killed_for = f"not having stopped within launch.grace_s={self.grace_s:g} seconds"
        self.log(f"the ranks have not stopped within launch.grace_s={self.grace_s:g} seconds: they are killed")
        self.kill()

    def kill(self) -> None:
        if self.end_with:  # srun must end its tasks on other nodes before it goes
            self.signal_all(self.end_with)
            self.end_with = None
            self.after(KILL_AFTER_S, self.kill)
            return
        for rank in self.alive:
            rank.kill()

    def signal_all(self, number: int) -> None:
        for rank in self.alive:
            rank.signal(number)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.plan.append((time.monotonic() + seconds, action))


def failure_text(first: Rank, ranks: list[Rank]) -> str:
    """One line, and the end of the failed rank's log unless rank 0 has shown the same on the terminal.

    Empty for a user's mistake that rank 0 has told.
    """
    shown = next((tail(r.log, r.offset) for r in ranks if r.echo), "")
    text = tail(first.log, first.offset)
    told = first.echo or not text or last_line(text) in shown
    if told and first.code == EXIT_USER:
        return ""
    how = f"exit code {first.code}" if first.code > 0 else f"signal {signal.Signals(-first.code).name}"
    line = f"rank {first.number} failed first ({how}); its output is in {first.log}"
    return line if told else f"{line}, which ends:\n{text}"


def cause_of(first: Rank, killed_for: str) -> str:
    """Why the rank that failed first did, in a line. `killed_for`: why this process killed it, if it did."""
    if first.code < 0 and killed_for:
        return f"the ranks were killed for {killed_for}"
    if first.code < 0:
        memory = " (out of memory?)" if -first.code == signal.SIGKILL else ""
        return f"rank {first.number} was ended by {signal.Signals(-first.code).name}{memory}"
    text = tail(first.log, first.offset)
    known = f": {last_line(text)}" if "Traceback" in text else f" with exit code {first.code}"
    return f"rank {first.number} failed{known}"


def tail(path: Path, offset: int) -> str:
    """The last traceback after byte `offset`, or the last lines; at most 60 lines."""
    with path.open("rb") as file:
        file.seek(max(offset, path.stat().st_size - 65536))
        lines = file.read().decode(errors="replace").rstrip().split("\n")[-TAIL_LINES:]
    starts = [i for i, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    return "\n".join(lines[starts[-1] :] if starts else lines)


def last_line(text: str) -> str:
    """Without the `[rank1]: ` that torch puts in front."""
    return re.sub(r"^\[rank\d+\]: ?", "", text.rsplit("\n", 1)[-1])
