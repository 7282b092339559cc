"""Tables of what a method samples, from the newest lines of a run's samples.jsonl: predicted against true text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mft_cli.config.schema.methods import method_classes
from mft_cli.config.schema.monitors import SampleTable
from mft_cli.report.read import fields
from mft_cli.report.read.runs import Run, read_rows

CHECKS = {"whole": fields.whole, "number": fields.number, "share": fields.share, "text": fields.text}


@dataclass(frozen=True)
class Sampled:
    """A method's table with the rows of one run; all cells are texts."""

    title: str
    remark: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def sample_tables(run: Run) -> list[Sampled]:
    """The tables in the last samples that the run wrote; none for methods and lines without them."""
    tables = [table for method in method_classes() for table in method.sample_tables]
    filled = [Sampled(t.title, t.remark, head_of(t), rows_of(t, run)) for t in tables]
    return [table for table in filled if table.rows]


def head_of(table: SampleTable) -> tuple[str, ...]:
    return ("step", "example", *(column.field for column in table.columns))


def rows_of(table: SampleTable, run: Run) -> list[tuple[str, ...]]:
    """Cells as in `head_of`. What cannot be read is left out."""
    notes: list[str] = []
    samples = read_rows(run.folder / "samples.jsonl", {"step": fields.whole, "row": fields.text}, ("step",), notes)
    samples = [s for s in samples if isinstance(s.get(table.field), list)]
    last = max((s["step"] for s in samples), default=0)
    checks: dict[str, Callable[[object], bool]] = {column.field: CHECKS[column.kind] for column in table.columns}
    rows = []
    for sample in (s for s in samples if s["step"] == last):
        lines = [line for line in sample[table.field] if isinstance(line, dict)]
        for line in fields.checked_lines(lines, checks, tuple(checks), "samples.jsonl", notes):
            cells = (column.cell(line[column.field]) for column in table.columns)
            rows.append((str(last), str(sample.get("row", "")), *cells))
    return rows
