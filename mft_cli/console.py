"""What a person sees: lines, progress, times."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

FIRST_S, TERMINAL_S, PLAIN_S = 4.0, 1.0, 30.0  # the first line, then how often


class TokenProgress:
    """Counts tokens and completions. Plain lines where the output is no terminal, one rewritten line where it is.

    The mean length of a completion is estimated from the first seconds on as tokens so far / completions so far: the
    maximum-likelihood estimate for lengths cut off by the present, if every token is as likely the last.
    """

    def __init__(self, name: str, total: int, max_tokens: int, stream: TextIO | None = None):
        self.name, self.total, self.max_tokens = name, total, max_tokens
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.start = time.monotonic()
        self.next, self.pause = self.start + FIRST_S, FIRST_S
        self.generated = self.finished = 0

    def tokens(self, count: int) -> None:
        """Called at every step of the engine, with the tokens of that step."""
        self.generated += count
        now = time.monotonic()
        if now >= self.next:
            self.pause = TERMINAL_S if self.terminal else min(PLAIN_S, self.pause * 2)
            self.next = now + self.pause
            print(self.line(now), file=self.stream, end="\r" if self.terminal else "\n", flush=True)

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
        left = max(0.0, self.expected_tokens() - self.generated) / max(rate, 1e-9)
        unsure = "at most" if self.finished < 3 else "about"
        speed = f", {rate:,.0f} tokens/s" if self.max_tokens > 1 else ""
        return f"{self.name}: {self.finished} of {self.total} done{speed}, {unsure} {span(left)} left"

    def expected_tokens(self) -> float:
        mean = self.generated / self.finished if self.finished >= 3 else float(self.max_tokens)
        return self.total * min(mean, float(self.max_tokens))

    def close(self) -> None:
        if self.terminal:
            print(" " * 79, file=self.stream, end="\r", flush=True)


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


class Progress:
    """One line of progress: a bar that rewrites itself on a terminal, a plain line now and then elsewhere."""

    def __init__(self, what: str, done: int, total: int, every_s: float = 10.0):
        self.what, self.total, self.first = what, total, done
        self.every_s = every_s
        self.start = time.monotonic()
        self.last = -math.inf
        self.bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, desc=what, dynamic_ncols=True, smoothing=0.1)

    def update(self, done: int, **shown: str) -> None:
        if self.bar is not None:
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update(done - self.bar.n)
            return
        now = time.monotonic()
        if now - self.last < self.every_s and done != self.total:
            return
        self.last = now
        steps = done - self.first
        left = duration((now - self.start) / steps * (self.total - done)) if steps else "?"
        more = "  ".join(f"{k} {v}" for k, v in shown.items())
        show(f"{self.what} {done}/{self.total}  {more}  left {left}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


Logger = Callable[[str], None]  # takes a line for the person who watches and for the log


def show(line: str) -> None:
    """One line on the standard output. The work goes on after a closed terminal or `mft ... | head`; the log is complete."""
    try:
        print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Log:
    """Prints a line and keeps it in the run's train.log."""

    def __init__(self, path: Path | None = None):
        self.path = path

    def __call__(self, line: str) -> None:
        if sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(line)
        else:
            show(line)
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
