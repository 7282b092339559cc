"""A page before it is laid out: a tree that `page` prints as HTML and `markdown` as Markdown, so that both say the same.

Every text is finished and untrusted; the printers escape it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from mft_cli.report.compare.flips import PairFlips


@dataclass(frozen=True)
class Words:
    """A text and what it is: "" (plain), run (a label with its colour), strong, code, quiet, sub (a line below), tight (one
    that is not broken), tag or alarm (a mark), or a verdict's class (higher, lower, open)."""

    text: str
    kind: str = ""
    hint: str = ""  # more about a mark: on the page, where the pointer rests on it


@dataclass(frozen=True)
class Track:
    """An interval on a drawn axis, places and width in percent: on the page alone."""

    run: str
    label: str  # the same in words
    value: str | None
    start: str | None
    width: str | None
    zero: str | None  # where 0 lies, if that is drawn
    kind: ClassVar[str] = "track"


Cell = Sequence[Words | Track]


@dataclass(frozen=True)
class Column:
    """`kind`: lead (the row's name), num (numbers), axis (a track between `ends`: on the page alone), or ""."""

    title: str
    kind: str = ""
    ends: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A row that is shorter than the head ends in a cell over all that is missing."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    style: str = "cards"
    part: ClassVar[str] = "table"


@dataclass(frozen=True)
class Heading:
    text: str
    part: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Paragraph:
    text: str
    quiet: bool = False
    part: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Verbatim:
    """A text with its lines, such as a prompt."""

    text: str
    part: ClassVar[str] = "verbatim"


@dataclass(frozen=True)
class Bullets:
    """`style`: notices (each item's own in `levels`), short, or quiet."""

    items: Sequence[Cell]
    style: str = ""
    levels: Sequence[str] = ()
    part: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Picture:
    """A plot as PNG, for a light and for a dark page, and the name of its file."""

    title: str
    light: bytes
    dark: bytes
    name: str = ""
    remark: str = ""
    numbers: str = ""  # what is drawn, in words
    alt: str = ""


@dataclass(frozen=True)
class Figures:
    pictures: Sequence[Picture]
    part: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Flips:
    """Problems whose outcome changed. The page holds both texts and a search, Markdown the problems' ids."""

    pairs: Sequence[PairFlips]
    part: ClassVar[str] = "flips"


@dataclass(frozen=True)
class Folded:
    """What one looks at second."""

    title: str
    parts: Sequence[Part]
    part: ClassVar[str] = "folded"


Part = Table | Heading | Paragraph | Verbatim | Bullets | Figures | Flips | Folded


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Document:
    title: str
    subtitle: str
    sections: Sequence[Section]
    footer: str = ""
    colours: dict[str, int] = field(default_factory=dict)  # a run's or an evaluation's label -> its colour's number


@dataclass(frozen=True)
class TextTable:
    """A table of texts; the first column names the row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


def tables_document(
    title: str,
    sentences: Sequence[str],
    tables: Sequence[TextTable],
    pictures: Sequence[Picture],
    reading: Sequence[str],
) -> Document:
    """Findings in sentences, tables, plots, and how to read them."""
    sections = [
        Section("short", "In short", [bullets(sentences, "short")]),
        *(Section(f"table-{i}", t.title, [plain_table(t.head, t.rows, t.caption)]) for i, t in enumerate(tables)),
        *([Section("plots", "Plots", [Figures(pictures)])] if pictures else []),
        Section("method", "How to read", [bullets(reading, "short")]),
    ]
    return Document(title, f"written {written_now()}", sections)


def written_now() -> str:
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", style: str = "cards") -> Table:
    columns = [Column(title, "" if i else "lead") for i, title in enumerate(head)]
    return Table(columns, [[(Words(text),) for text in row] for row in rows], caption, style)


def bullets(texts: Sequence[str], style: str = "") -> Bullets:
    return Bullets([(Words(text),) for text in texts], style)
