"""Starts the ranks of a run, passes signals on, and ends them all when one of them dies."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mft_cli.config.checks import check_launch
from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.console import Logger
from mft_cli.data.files import OFFLINE
from mft_cli.distributed.causes import cause_of, cause_of_tasks, failure_text, last_line, tail
from mft_cli.distributed.cores import threads_of_rank
from mft_cli.distributed.meeting import meeting_file, on_one_node
from mft_cli.distributed.processes import Rank
from mft_cli.errors import EXIT_DONE, EXIT_OURS, EXIT_STOPPED, UserError
from mft_cli.signals import handling
from mft_cli.slurm import srun as allocation
from mft_cli.slurm.srun import place_from_slurm as place_from_slurm
from mft_cli.slurm.srun import rank_exit_code as rank_exit_code

SETTLE_S = 1.0  # after a failure the other ranks may still show that they fail of the same cause
KILL_AFTER_S = 5.0  # between TERM and KILL: after a failure the other ranks hang in a collective and save nothing
GRACE_S = 120.0  # where launch.grace_s does not say it
PORTS_TRIED = 3


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
    rank failed: the others fail with it, of what they miss. Raises UserError for settings
    that cannot be started.
    """
    logs.mkdir(parents=True, exist_ok=True)
    heard = [] if heard is None else heard
    if launch.name == "slurm":
        return start_srun(command, launch, logs, log, heard, cause)
    with meeting_file() as meeting:
        environments = local_environments(launch, meeting)
        ranks = [Rank(int(e["RANK"]), command, e, logs, echo=e["RANK"] == "0") for e in environments]
        group = Group(ranks, launch.grace_s or GRACE_S, log, heard)
        first = group.run()
    if first is not None:
        if text := failure_text(first, ranks):
            log(text)
        if cause is not None:
            cause.append(cause_of(first, group.killed_for))
        return first.code if first.code > 0 else EXIT_OURS
    return EXIT_STOPPED if any(r.code != EXIT_DONE for r in ranks) else EXIT_DONE


def start_srun(
    command: list[str], launch: LaunchConfig, logs: Path, log: Logger, heard: list[str], cause: list[str] | None = None
) -> int:
    """One srun for all ranks; where the port that was chosen is taken on the first node, another one with the next."""
    for attempt in range(PORTS_TRIED):
        call, environment = allocation.srun_call(command, launch, ranks_per_node(launch), logs, attempt)
        srun = Rank(0, call, environment, logs, echo=True)
        allocation.clear_marks(logs)
        started = time.time()
        # a signal goes on as USR1: srun answers INT with a status line and TERM by killing
        grace_s = launch.grace_s or GRACE_S
        group = Group([srun], grace_s, log, heard, forward_as=signal.SIGUSR1, end_with=signal.SIGTERM)
        first = group.run()
        if not allocation.port_was_taken(logs) or launch.port or heard:
            break
        log(
            f"port {environment['MASTER_PORT']} is taken on {environment['MASTER_ADDR']}: the ranks start again with another"
        )
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
    if cause is not None:
        cause.append(cause_of_tasks(srun, group.killed_for))
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
    here = OFFLINE | ({**os.environ} if nodes > 1 else on_one_node(os.environ, meeting))
    variables = [{**shared, "LOCAL_RANK": k, "RANK": node * per_node + k} for k in range(per_node)]
    return [{**here, "PYTHONUNBUFFERED": "1", **{k: str(v) for k, v in added.items()}} for added in variables]


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
