"""What a person sees: lines, progress, times."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from mft_cli.errors import (
    EXIT_INTERRUPTED,
    EXIT_OURS,
    EXIT_STOPPED,
    EXIT_USER,
    RankFailed,
    Stopped,
    UserError,
    first_line,
    memory_problem,
)
from mft_cli.files import disk_advice, disk_problem

CLEAR = "\r\x1b[K"
FIRST_S, TERMINAL_S, PLAIN_S = 4.0, 1.0, 30.0  # the first line, then how often


class Progress:
    """One line of progress: rewritten on a terminal, a plain line now and then (ever more rarely) elsewhere."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.start = time.monotonic()
        self.next, self.pause = self.start + FIRST_S, FIRST_S

    def show(self, line: Callable[[], str], at_once: bool = False) -> None:
        """Print `line` if it is time to, or at once."""
        now = time.monotonic()
        if now < self.next and not at_once:
            return
        self.pause = TERMINAL_S if self.terminal else min(PLAIN_S, self.pause * 2)
        self.next = now + self.pause
        write(f"{CLEAR}{line()}" if self.terminal else f"{line()}\n", self.stream)

    def close(self) -> None:
        if self.terminal:
            write(CLEAR, self.stream)


class StepProgress(Progress):
    """Counts steps: "step 120/1319  loss 1.2345  left 2:03"."""

    def __init__(self, unit: str, done: int, total: int, stream: TextIO | None = None):
        super().__init__(stream)
        self.unit, self.first, self.total = unit, done, total

    def update(self, done: int, **shown: str) -> None:
        """`done` of all are finished; `shown` stands on the line."""
        self.show(lambda: self.line(done, shown), at_once=done == self.total)

    def line(self, done: int, shown: dict[str, str]) -> str:
        steps = done - self.first
        remaining = duration((time.monotonic() - self.start) / steps * (self.total - done)) if steps else "?"
        return "  ".join(
            [f"{self.unit} {done}/{self.total}", *(f"{k} {v}" for k, v in shown.items()), f"left {remaining}"]
        )


class TokenProgress(Progress):
    """Counts tokens and completions.

    The mean length of a completion is estimated from the first seconds on as tokens so far / completions so far: the
    maximum-likelihood estimate for lengths cut off by the present, if every token is as likely the last.
    """

    def __init__(self, name: str, total: int, max_tokens: int, stream: TextIO | None = None):
        super().__init__(stream)
        self.name, self.total, self.max_tokens = name, total, max_tokens
        self.generated = self.finished = 0

    def tokens(self, count: int) -> None:
        """Called at every step of the engine, with the tokens of that step."""
        self.generated += count
        self.show(lambda: self.line(time.monotonic()))

    def completion(self) -> None:
        self.finished += 1

    def examples(self, count: int) -> None:
        """For work that is counted in examples: each is one token and one completion."""
        self.finished += count
        self.tokens(count)

    def line(self, now: float) -> str:
        """Such as "gsm8k: 120 of 1319 done, 1,320 tokens/s, about 4 min left"."""
        seconds = max(now - self.start, 1e-6)
        rate = self.generated / seconds
        remaining_s = max(0.0, self.expected_tokens() - self.generated) / max(rate, 1e-9)
        unsure = "at most" if self.finished < 3 else "about"
        speed = f", {rate:,.0f} tokens/s" if self.max_tokens > 1 else ""
        return f"{self.name}: {self.finished} of {self.total} done{speed}, {unsure} {span(remaining_s)} left"

    def expected_tokens(self) -> float:
        mean = self.generated / self.finished if self.finished >= 3 else float(self.max_tokens)
        return self.total * min(mean, float(self.max_tokens))


def span(seconds: float) -> str:
    """A time for people: 45 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


Logger = Callable[[str], None]  # takes a line for the person who watches and for the log


def write(text: str, stream: TextIO) -> None:
    """The work goes on after a closed terminal or `mft ... | head`; the log is complete."""
    try:
        print(text, file=stream, end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def mend_streams() -> None:
    """A standard stream that is closed (`>&-`) becomes /dev/null: the next file would take its number, and what libraries print
    would go into it. Characters that the encoding of a terminal has not are escaped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Log:
    """Prints a line and keeps it in the run's train.log."""

    def __init__(self, path: Path | None = None):
        self.path = path

    def __call__(self, line: str) -> None:
        # a progress line may stand there
        write(f"{CLEAR}{line}\n" if sys.stdout.isatty() else f"{line}\n", sys.stdout)
        self.to_file(line)

    def to_file(self, line: str) -> None:
        """A full disk or a folder that is gone costs the line, not the run: the next save tells of them."""
        if self.path is not None:
            with contextlib.suppress(OSError), open(self.path, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%H:%M:%S')} {line}\n")


class quiet_transformers:
    """Progress bars and advice of transformers off, as a context."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.level)


NUMBER = re.compile(r"[+\N{MINUS SIGN}-]?\d")
UNKNOWN = ("", "-", "–")  # cells that say nothing, in a column of numbers too


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with a head: columns of equal width, those of numbers to the right (the first one never)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [index > 0 and _numbers(column[1:]) for index, column in enumerate(zip(*rows, strict=True))]
    lines = []
    for row in rows:
        cells = zip(row, widths, right, strict=True)
        lines.append("  ".join(text.rjust(width) if to_right else text.ljust(width) for text, width, to_right in cells))
    lines.insert(1, "  ".join("-" * width for width in widths))
    return [line.rstrip() for line in lines]


def _numbers(cells: Sequence[str]) -> bool:
    written = [cell for cell in cells if cell not in UNKNOWN]
    return bool(written) and all(NUMBER.match(cell) for cell in written)


def outcome_of(error: BaseException) -> tuple[int, str] | None:
    """(exit code, sentence); None for a defect of mft, which is shown as a traceback."""
    if isinstance(error, UserError):
        return EXIT_USER, str(error)
    if isinstance(error, Stopped):
        return EXIT_STOPPED, f"{error}; start the same command again to go on"
    if isinstance(error, RankFailed):
        return EXIT_OURS, str(error)
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted"
    if isinstance(error, OSError) and disk_problem(error):
        return EXIT_USER, f"{error}; {disk_advice(error)}, then start the same command again"
    if problem := memory_problem(error):
        return EXIT_USER, f"{problem} ({first_line(error)}); a smaller model, batch or length needs less"
    return None
