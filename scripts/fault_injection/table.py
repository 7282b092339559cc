"""What came of the faults: counted by kind, and each fault that was not borne well in a line."""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mft_cli.files import read_jsonl

KINDS = ("lost", "traceback", "silent")
MEANING = {
    "lost": "the same command does not get to the undisturbed result, or begins before its newest whole checkpoint",
    "traceback": "a traceback instead of a sentence, or something that does not end",
    "silent": "exit code 0 and another result",
}

CaseT = TypeVar("CaseT")


@dataclass
class Line:
    """A row of the table."""

    faults: int = 0
    faulty: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


@dataclass
class Table:
    """All rows; `told` are the faults that were not borne. `journal`: a file that keeps each case that was tried, so that a
    stopped script goes on; cases that were not borne are tried again."""

    journal: Path | None = None
    part: tuple[int, int] = (1, 1)  # which of how many parts of the cases are this script's
    lines: dict[str, Line] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of all cases, those of before included
    counted: dict[str, int] = field(default_factory=dict)  # of the case that is tried now, as is `blamed`
    blamed: list[list[str]] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        kept = {row["case"]: row for _, _, row in read_jsonl(self.journal) if row} if self.journal else {}
        for case, row in kept.items():
            if not row["blamed"]:
                self.take(case, row["counted"], [], row["seconds"])

    def untried(self, cases: Iterable[CaseT], group: str) -> Iterator[CaseT]:
        """Those that the journal has not, by their text; what a case came to is kept when the next one is asked for."""
        part, parts = self.part
        for case in itertools.islice(cases, part - 1, None, parts):
            if (name := f"{group} {case}") in self.tried:
                continue
            self.counted, self.blamed = {}, []
            start = time.monotonic()
            yield case
            row = {"counted": self.counted, "blamed": self.blamed, "seconds": round(time.monotonic() - start, 2)}
            self.take(name, **row)
            if self.journal:
                with open(self.journal, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"case": name, **row}) + "\n")

    def take(self, name: str, counted: dict[str, int], blamed: list[list[str]], seconds: float) -> None:
        self.tried.add(name)
        self.seconds += seconds
        for group, faults in counted.items():
            self.lines.setdefault(group, Line()).faults += faults
        for group, kind, what in blamed:
            self.lines.setdefault(group, Line()).faulty[kind] += 1
            self.told.append(f"{kind}: {group}: {what}")

    def count(self, group: str, faults: int = 1) -> None:
        self.counted[group] = self.counted.get(group, 0) + faults

    def blame(self, group: str, kind: str, what: str) -> None:
        """A fault of `group` was not borne: printed at once, too."""
        self.blamed.append([group, kind, what])
        print(f"{kind}: {group}: {what}", file=sys.stderr, flush=True)

    def faults(self, start: str) -> int:
        """How many were counted in groups whose names begin so."""
        return sum(line.faults for group, line in self.lines.items() if group.startswith(start))

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
