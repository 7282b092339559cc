"""Stop signals become a note, or end what runs, from a process's first lines on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TypeAlias

from mft_cli.errors import EXIT_STOPPED, STOP_SIGNALS, Stopped

Handler: TypeAlias = Callable[[int, FrameType | None], object]
Handlers: TypeAlias = Mapping[int, "Handler | int | None"]


def install(handler: Handler, numbers: Sequence[signal.Signals] = STOP_SIGNALS) -> Handlers:
    """Installs `handler` and returns the handlers of before, for `restore`. Under nohup SIGHUP stays ignored."""
    caught = [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in caught}


def restore(handlers: Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def handling(handler: Handler, numbers: Sequence[signal.Signals] = STOP_SIGNALS) -> Iterator[None]:
    """Inside, `handler` gets these signals."""
    before = install(handler, numbers)
    try:
        yield
    finally:
        restore(before)


def ignore_stop_signals() -> None:
    """For the last steps of a process: SLURM sends several. Ctrl-C still ends it."""
    for number in STOP_SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)


class StopSignal:
    """Turns the stop signals into "finish the step, save, stop". A second INT ends the process at once."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.parent = os.getppid()
        self.before = install(self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.name == "SIGINT" and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    @contextlib.contextmanager
    def ending_with_parent(self) -> Iterator[None]:
        """Inside, the process ends at once where its parent has: for waits that a noted signal does not end, with nothing to save."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                if os.getppid() != self.parent:
                    os._exit(EXIT_STOPPED)

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def release(self) -> None:
        """The handlers of before: what comes from now on is no longer noted here. Look at `name` afterwards."""
        restore(self.before)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """A stop signal ends an evaluation with Stopped: what is generated is in its journal. A second INT interrupts."""

    def stop(number: int, frame: FrameType | None) -> None:
        ignore_stop_signals()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise Stopped(*stopped_in_evaluation(number))

    with handling(stop):
        yield


def run_forwarding(command: list[str]) -> int:
    """The exit code of a child process. A stop signal ends it; then Stopped is raised: its journal is kept.

    The child ends with this process, even if it is killed: a second one on the same files would follow.
    """
    caught: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def end_child(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for child in children:
            child.terminate()

    with handling(end_child):  # before the child is started: it would be orphaned
        children.append(subprocess.Popen(command, preexec_fn=die_with_parent))
        if caught:
            children[0].terminate()
        code = children[0].wait()
    if caught:
        raise Stopped(*stopped_in_evaluation(caught[0]))
    return code


PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PRCTL = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None  # looked up before any fork


def die_with_parent() -> None:
    """This process is killed when its parent ends, however that ends. Linux only; elsewhere it does nothing."""
    if PRCTL is not None:
        PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)


def stopped_in_evaluation(number: int) -> tuple[str, str]:
    """What Stopped is made of."""
    name = signal.Signals(number).name
    return f"stopped by {name} during the evaluation; the completions that it has are kept", name
