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
class Case:
    """What one case came to."""

    counted: dict[str, int]  # faults by group
    blamed: list[list[str]]  # (group, kind, what happened) of those that were not borne
    seconds: float


@dataclass
class Table:
    """All cases. `journal`: a file that keeps each one that was tried, so that a stopped script goes on; cases that were not borne
    are tried again, and stay in the table until they are."""

    journal: Path | None = None
    part: tuple[int, int] = (1, 1)  # which of how many parts of the cases are this script's
    cases: dict[str, Case] = field(default_factory=dict)  # by the case's name; the latest try counts
    counted: dict[str, int] = field(default_factory=dict)  # of the case that is tried now, as is `blamed`
    blamed: list[list[str]] = field(default_factory=list)
    again: set[str] = field(default_factory=set)  # not borne in an earlier start, not tried since
    retrying: bool = False  # whether the case that is tried now was among them

    def __post_init__(self) -> None:
        for row in (row for _, _, row in read_jsonl(self.journal) if row) if self.journal else ():
            self.cases[row["case"]] = Case(row["counted"], row["blamed"], row["seconds"])
        self.again = {name for name, case in self.cases.items() if case.blamed}

    def untried(self, cases: Iterable[CaseT], group: str) -> Iterator[CaseT]:
        """Those that the journal has not, or has as not borne; what a case came to is kept when the next one is asked for."""
        part, parts = self.part
        for case in itertools.islice(cases, part - 1, None, parts):
            name = f"{group} {case}"
            self.retrying = name in self.again
            if self.retrying:
                self.again.remove(name)
                del self.cases[name]
            if name in self.cases:
                continue
            self.counted, self.blamed = {}, []
            start = time.monotonic()
            yield case
            self.cases[name] = Case(self.counted, self.blamed, round(time.monotonic() - start, 2))
            if self.journal:
                with open(self.journal, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"case": name, **vars(self.cases[name])}) + "\n")

    def count(self, group: str, faults: int = 1) -> None:
        self.counted[group] = self.counted.get(group, 0) + faults

    def blame(self, group: str, kind: str, what: str) -> None:
        """A fault of `group` was not borne: printed at once, too."""
        self.blamed.append([group, kind, what])
        print(f"{kind}: {group}: {what}", file=sys.stderr, flush=True)

    def faults(self, start: str) -> int:
        """How many were counted in groups whose names begin so."""
        return sum(n for case in self.cases.values() for group, n in case.counted.items() if group.startswith(start))

    @property
    def seconds(self) -> float:
        """Of all cases, those of earlier starts included."""
        return sum(case.seconds for case in self.cases.values())

    @property
    def lines(self) -> dict[str, Line]:
        lines: dict[str, Line] = {}
        for case in self.cases.values():
            for group, faults in case.counted.items():
                lines.setdefault(group, Line()).faults += faults
            for group, kind, _ in case.blamed:
                lines.setdefault(group, Line()).faulty[kind] += 1
        return lines

    @property
    def told(self) -> list[str]:
        """The faults that were not borne."""
        return [f"{kind}: {group}: {what}" for case in self.cases.values() for group, kind, what in case.blamed]

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
