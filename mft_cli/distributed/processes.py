"""A process that this one has started as a rank: its output, its signals, its end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mft_cli.errors import EXIT_OURS

PR_SET_PDEATHSIG = 1


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
        # a full disk costs the log's lines; a pipe that nobody reads would stop the rank
        with contextlib.suppress(OSError):
            log.write(chunk)
        if open_terminal:
            try:
                target.buffer.write(chunk)  # type: ignore[attr-defined]
                target.flush()
            except (OSError, ValueError):  # `mft ... | head`: the run goes on, the log is complete
                open_terminal = False
