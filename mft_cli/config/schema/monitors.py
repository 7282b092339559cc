"""What a method logs besides the loss, as the report shows it: the report knows no method."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Monitor:
    """A figure over the optimizer steps. `field` is a field of the training lines of metrics.jsonl."""

    name: str  # of the figure's file
    title: str
    unit: str
    field: str


@dataclass(frozen=True)
class Column:
    """A field of a sample's rows: whole (a count), number, share (0 to 1) or text, and how it is written in a cell."""

    field: str
    kind: str
    form: str = "{}"

    def cell(self, value: float | str) -> str:
        return f"{100 * float(value):.1f} %" if self.kind == "share" else self.form.format(value)


@dataclass(frozen=True)
class SampleTable:
    """A table of the newest lines of samples.jsonl. `field` of a line holds its rows, each with all columns."""

    field: str
    title: str
    remark: str
    columns: tuple[Column, ...]
