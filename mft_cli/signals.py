"""Stop signals become a note, from a process's first lines on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from types import FrameType

from mft_cli.errors import STOP_SIGNALS, Stopped


class StopSignal:
    """Turns TERM, USR1 and INT into "finish the step, save, stop". A second INT ends the process at once."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.name == "SIGINT" and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def release(self) -> None:
        """The handlers of before: what comes from now on is no longer noted here. Look at `name` afterwards."""
        for number, handler in self.before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """TERM and USR1 (a SLURM job's end) end an evaluation with Stopped: what is generated is in its journal."""
    numbers = [s for s in STOP_SIGNALS if s != signal.SIGINT]

    def stop(number: int, frame: FrameType | None) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        name = signal.Signals(number).name
        raise Stopped(f"stopped by {name} during the evaluation; the completions that it has are kept", name)

    before = {s: signal.signal(s, stop) for s in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_forwarding(command: list[str]) -> int:
    """The exit code of a child process. TERM, USR1 and INT end it; then Stopped is raised: its journal is kept."""
    caught: list[str] = []
    children: list[subprocess.Popen[bytes]] = []

    def end_child(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number).name)
        for child in children:
            child.terminate()

    before = {s: signal.signal(s, end_child) for s in STOP_SIGNALS}  # before the child: it would be left behind
    try:
        children.append(subprocess.Popen(command))
        if caught:
            children[0].terminate()
        code = children[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise Stopped(f"stopped by {caught[0]} during the evaluation; the completions that it has are kept", caught[0])
    return code
