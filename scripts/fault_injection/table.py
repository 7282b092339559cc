"""What came of the faults: counted by kind, and each fault that was not borne well in a line."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, field

KINDS = ("lost", "traceback", "silent")
MEANING = {
    "lost": "the same command does not get to the undisturbed result, or begins before its newest whole checkpoint",
    "traceback": "a traceback instead of a sentence, or something that does not end",
    "silent": "exit code 0 and another result",
}


@dataclass
class Line:
    """A row of the table."""

    faults: int = 0
    faulty: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


@dataclass
class Table:
    """All rows; `told` are the faults that were not borne."""

    lines: dict[str, Line] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def count(self, group: str, faults: int = 1) -> None:
        self.lines.setdefault(group, Line()).faults += faults

    def blame(self, group: str, kind: str, what: str) -> None:
        """A fault of `group` was not borne: printed at once, too."""
        self.lines.setdefault(group, Line()).faulty[kind] += 1
        self.told.append(f"{kind}: {group}: {what}")
        print(self.told[-1], file=sys.stderr, flush=True)

    def render(self) -> str:
        """Markdown."""
        heads = ["fault", "how many", *KINDS]
        lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
        for group, line in self.lines.items():
            lines.append([group, f"{line.faults:,}", *(str(line.faulty[kind]) for kind in KINDS)])
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    @property
    def clean(self) -> bool:
        return not self.told


def traceback_in(output: str) -> str:
    """The last line of a traceback in what a command printed; empty without one."""
    if "Traceback (most recent call last)" not in output:
        return ""
    after = output.rpartition("Traceback (most recent call last)")[2]
    return next(
        (line for line in after.splitlines()[1:] if re.match(r"\S*\w+(Error|Exception|Interrupt|\w*)\b:?", line)), "?"
    )
