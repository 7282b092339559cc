"""Processes that compare answers and are killed when one takes too long.

Each worker is a fresh interpreter that talks JSON lines over pipes. Not multiprocessing: fork is unsafe once torch has
threads, and spawn runs the user's __main__ again. A worker also arms the kernel's own timer for every answer, so that
it dies even if its parent was killed and it sits in one endless multiplication.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EQUAL, DIFFERENT, TIMED_OUT, FAILED = "equal", "different", "timed_out", "failed"
START_LIMIT_S = 120.0  # importing sympy on a busy machine
MEMORY_LIMIT = 4 << 30  # bytes of address space of a worker
PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])
CHILD = "import sys; sys.path.insert(0, {root!r}); from mft_cli.eval.grading.workers import child; child({seconds!r})"


def compare(questions: Sequence[Mapping[str, object]], *, workers: int, timeout_s: float) -> list[str]:
    """Answer questions, each the arguments of `answers.equal_slowly` (gold, answer ...), in order.

    One of EQUAL, DIFFERENT, TIMED_OUT, FAILED for each. Equal questions are asked once.
    An answer that crashes its worker or exhausts its memory is FAILED; it costs nothing but itself.
    """
    lines = [json.dumps(question, sort_keys=True) for question in questions]
    distinct = list(dict.fromkeys(lines))
    verdicts = dict(zip(distinct, _ask(distinct, workers, timeout_s), strict=True))
    return [verdicts[line] for line in lines]


def _ask(lines: Sequence[str], workers: int, timeout_s: float) -> list[str]:
    results = [FAILED] * len(lines)
    waiting = deque(range(len(lines)))
    pool = [Worker(timeout_s) for _ in range(min(workers, len(lines)))]
    try:
        while waiting or any(w.job is not None for w in pool):
            for worker in pool:
                if worker.job is None and waiting:
                    job = waiting.popleft()
                    worker.give(job, lines[job])
            _collect(pool, results)
    finally:
        for worker in pool:
            worker.stop()
    return results


def _collect(pool: list[Worker], results: list[str]) -> None:
    """Wait for the first answer or the first deadline."""
    busy = [w for w in pool if w.job is not None]
    wait = max(0.0, min(w.deadline for w in busy) - time.monotonic())
    readable, _, _ = select.select([w.out for w in busy], [], [], wait)
    for worker in busy:
        line = worker.read() if worker.out in readable else None
        if line == "ready":
            worker.deadline = time.monotonic() + worker.timeout_s  # the time limit starts with the work
            line = worker.read() if b"\n" in worker.buffer else None
        if line:
            results[worker.done()] = line
        elif line == "" or time.monotonic() > worker.deadline:
            results[worker.done()] = TIMED_OUT if line is None or worker.overdue() else FAILED
            worker.stop()


class Worker:
    """One killable process; started when it gets its first job, and again after it was killed."""

    job: int | None = None

    def __init__(self, timeout_s: float):
        self.timeout_s = timeout_s
        self.process: subprocess.Popen[bytes] | None = None
        self.deadline = 0.0
        self.buffer = b""

    @property
    def out(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def give(self, job: int, line: str) -> None:
        self.job = job
        if self.process is None:
            self._start()
        else:
            self.deadline = time.monotonic() + self.timeout_s
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.deadline = 0.0  # it died between two jobs; counted as failed by the reader

    def _start(self) -> None:
        self.buffer = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(root=PACKAGE_ROOT, seconds=self.timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.deadline = time.monotonic() + START_LIMIT_S

    def read(self) -> str | None:
        """A line, "" at the end of the stream, or None while a line is incomplete."""
        if b"\n" not in self.buffer:
            chunk = os.read(self.out, 4096)
            if not chunk:
                return ""
            self.buffer += chunk
        line, newline, self.buffer = self.buffer.partition(b"\n")
        if not newline:
            self.buffer = line
            return None
        return line.decode().strip()

    def overdue(self) -> bool:
        return time.monotonic() > self.deadline - 0.05 * self.timeout_s

    def done(self) -> int:
        job, self.job = self.job, None
        assert job is not None
        return job

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # unsent bytes of a job whose worker died
                        pipe.close()
            self.process = None


def child(seconds: float) -> None:
    """The worker's side: reads JSON lines from stdin, writes one word a line."""
    import resource
    import signal

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action is death, even inside C code
    from mft_cli.answers import symbolic

    symbolic.warm_up()  # imports and builds its parsers before the clock starts
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)
        print(_verdict(json.loads(line)), file=replies, flush=True)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _verdict(question: dict[str, Any]) -> str:
    from mft_cli.answers.equality import equal_slowly

    try:
        return EQUAL if equal_slowly(**question) else DIFFERENT
    except Exception:  # MemoryError and RecursionError among them
        return FAILED
