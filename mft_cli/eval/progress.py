"""What is printed while completions are generated: how many are done, tokens a second, time left."""

from __future__ import annotations

import sys
import time
from typing import TextIO

FIRST_S, TERMINAL_S, PLAIN_S = 4.0, 1.0, 30.0  # the first line, then how often


class Progress:
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
