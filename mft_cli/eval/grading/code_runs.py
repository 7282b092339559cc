"""One program against one problem's tests: two sandboxes, one channel between them, and a supervisor that watches.

The tests run in the examiner's sandbox, the program in the candidate's; all that passes is plain data (jail/wire.py).
The verdict comes over a channel that only the examiner holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from mft_cli.eval.grading.jail.examiner import BAD_TEST, DIED, FAILED, PASSED, TIMED_OUT
from mft_cli.eval.grading.jail.wire import BadMessage, Channel, Gone, Overtime
from mft_cli.eval.grading.sandbox import (
    BUBBLEWRAP,
    NAMESPACES,
    NONE,
    Limits,
    Sandbox,
    make_sandbox,
    no_sandbox,
    resident_bytes,
    scratch_files,
    stop,
)

TOO_MUCH = "too_much"  # memory or files
POLL_S = 0.05
KINDS = (BUBBLEWRAP, NAMESPACES)


class SandboxFailure(Exception):
    """The sandbox itself did not start; says nothing about the program."""


@dataclass(frozen=True)
class Job:
    """One program and what it is examined with. `prompt`: the benchmark's text, run with the tests if it is Python."""

    program: str
    prompt: str
    test: str
    entry_point: str


@dataclass(frozen=True)
class Verdict:
    """`verdict`: passed, failed, raised, timed_out, died, too_much or bad_test (the test failed before any call)."""

    verdict: str
    detail: str = ""
    calls: int = 0
    seconds: float = 0.0


@contextlib.contextmanager
def open_sandbox(limits: Limits, *, allow_none: bool = False, kinds: tuple[str, ...] = KINDS) -> Iterator[Sandbox]:
    """The first kind of sandbox that works here, tried with a real program. Raises UserError if none does."""
    reasons: dict[str, str] = {}
    trial = Job("def one():\n    return 1\n", "", "assert one() == 1", "one")
    for kind in (*kinds, NONE) if allow_none else kinds:
        with contextlib.ExitStack() as stack:
            try:
                sandbox = stack.enter_context(make_sandbox(kind, limits))
                outcome = run_job(sandbox, trial, limits)
            except (SandboxFailure, OSError) as error:
                reasons[kind] = str(error)[:300]
                continue
            if outcome.verdict == PASSED:
                yield sandbox
                return
            reasons[kind] = f"a trial ended in {outcome.verdict} {outcome.detail}"
    raise no_sandbox(reasons)


def run_job(sandbox: Sandbox, job: Job, limits: Limits) -> Verdict:
    """Run one program's tests. Raises SandboxFailure if a side did not start."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        pair = _Pair(sandbox, job, limits, stack)
        verdict = pair.watch()
    return Verdict(verdict.verdict, verdict.detail, verdict.calls, round(time.monotonic() - started, 3))


class _Pair:
    """Examiner and candidate of one job, alive until the stack that owns them is closed."""

    def __init__(self, sandbox: Sandbox, job: Job, limits: Limits, stack: contextlib.ExitStack):
        self.sandbox, self.limits, self.stack = sandbox, limits, stack
        self.scratch: int | None = None
        self.errors: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        folder = (
            stack.enter_context(tempfile.TemporaryDirectory(prefix="mft-program-")) if sandbox.kind == NONE else "/"
        )
        ours, theirs = self._sockets(), self._sockets()
        between = self._sockets()
        self.verdicts, self.control = ours[0], theirs[0]
        paper = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        paper.write(json.dumps(self._paper(job)).encode())
        paper.seek(0)
        self.examiner = self._start("examiner", (between[0], ours[1]), paper.fileno(), folder)
        self.candidate = self._start("candidate", (between[1], theirs[1]), subprocess.DEVNULL, folder)
        for end in (*between, ours[1], theirs[1]):
            end.close()

    def _paper(self, job: Job) -> dict[str, object]:
        limits = self.limits.for_jail()
        return {
            **job.__dict__, "call_s": self.limits.call_s, "limits": limits,
            "examiner_limits": {**limits, "memory_bytes": 2 * self.limits.memory_bytes},
        }  # fmt: skip

    def _sockets(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for end in pair:
            self.stack.enter_context(end)
        return pair

    def _start(
        self, side: str, ends: tuple[socket.socket, socket.socket], stdin: int, folder: str
    ) -> subprocess.Popen[bytes]:
        process = self.sandbox.start(side, (ends[0].fileno(), ends[1].fileno()), stdin, self.errors, folder)
        self.stack.callback(stop, process)
        return process

    def watch(self) -> Verdict:
        """Wait for the verdict, the time limit, or a limit that only an onlooker can hold."""
        deadline = time.monotonic() + self.limits.start_s + self.limits.total_s()
        while time.monotonic() < deadline:
            waiting = [self.verdicts] if self.scratch is not None else [self.verdicts, self.control]
            readable, _, _ = select.select(waiting, [], [], POLL_S)
            if self.control in readable:
                self._receive_scratch()
                deadline = time.monotonic() + self.limits.total_s()
            if self.verdicts in readable:
                return self._verdict()
            if used := self._too_much():
                return Verdict(TOO_MUCH, used)
        if self.scratch is None:
            raise SandboxFailure(f"nothing was heard in {self.limits.start_s:g} s")
        return Verdict(TIMED_OUT, f"all calls together took more than {self.limits.total_s():g} s")

    def _receive_scratch(self) -> None:
        words, fds, _, _ = socket.recv_fds(self.control, 64, 1)
        if not fds:
            raise SandboxFailure(self._said() or "the candidate's side did not start")
        self.stack.callback(os.close, fds[0])
        self.scratch = fds[0]
        self.filtered = words == b"filtered"

    def _verdict(self) -> Verdict:
        try:
            message = Channel(self.verdicts).receive(self.limits.start_s)
        except (Gone, Overtime, BadMessage):
            if self.scratch is None:
                raise SandboxFailure(self._said() or "the examiner's side did not start") from None
            return Verdict(DIED, "the tests' process ended without a verdict, perhaps over the memory of an answer")
        return Verdict(message["verdict"], message["detail"], message["calls"])

    def _said(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read(4000).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _too_much(self) -> str:
        if resident_bytes(self.candidate.pid) > self.limits.memory_bytes:
            return f"more than {self.limits.memory_bytes >> 20} MiB of memory in all its processes"
        inside = self.scratch is not None and self.sandbox.kind != NONE
        if inside and self.scratch is not None and scratch_files(self.scratch) > self.limits.scratch_files:
            return f"more than {self.limits.scratch_files} files"
        return ""


__all__ = ["BAD_TEST", "DIED", "FAILED", "PASSED", "TIMED_OUT", "TOO_MUCH", "Job", "Verdict", "open_sandbox", "run_job"]
