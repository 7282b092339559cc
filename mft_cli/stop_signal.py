"""Stop signals become a note, from a process's first lines on."""

from __future__ import annotations

import signal
from types import FrameType

from mft_cli.errors import STOP_SIGNALS


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
