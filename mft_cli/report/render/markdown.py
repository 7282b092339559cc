"""A document as Markdown, next to the PNG files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from mft_cli.report import wording
from mft_cli.report.render.document import (
    Bullets,
    Cell,
    Document,
    Figures,
    Flips,
    Folded,
    Heading,
    Paragraph,
    Part,
    Table,
    Verbatim,
    Words,
)  # fmt: skip
from mft_cli.report.wording import NONE

SPECIAL = re.compile(r"([\\`*_\[\]<>|~#])")  # also stops raw HTML: names and warnings are untrusted
LISTED = 30  # problem ids listed for a direction
BOLD = ("strong", "kind", "tag", "alarm")


def render(document: Document) -> str:
    """The file's text."""
    lines = [f"# {cell(document.title)}", "", cell(document.subtitle), ""]
    for section in document.sections:
        lines += [f"## {cell(section.title)}", "", *printed(section.parts)]
    return "\n".join(lines) + "\n"


def printed(parts: Sequence[Part]) -> list[str]:
    return [line for part in parts for line in PRINTERS[type(part)](part)]


def cell(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    return SPECIAL.sub(r"\\\1", wording.one_line(str(text)))


def inline(parts: Cell) -> str:
    """What is drawn is left out."""
    return " ".join(in_markdown(part) for part in parts if isinstance(part, Words))


def in_markdown(words: Words) -> str:
    text = cell(f"{words.text}: {words.hint}" if words.hint else words.text)
    return f"**{text}**" if words.kind in BOLD else text


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A pipe table of plain texts, and an empty line."""
    return pipes([head, *([cell(value) for value in row] for row in rows)])


def pipes(rows: Sequence[Sequence[str]]) -> list[str]:
    """A pipe table of cells in Markdown, the head first, and an empty line."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{'|'.join(' --- ' for _ in rows[0])}|", *lines[1:], ""]


def drawn_table(part: Table) -> list[str]:
    """Without axes; a row that is shorter than the head ends in dashes."""
    shown = [i for i, column in enumerate(part.columns) if column.kind != "axis"]
    rows = [[inline(row[i]) if i < len(row) else NONE for i in shown] for row in part.rows]
    caption = [cell(part.caption), ""] if part.caption else []
    return [*caption, *pipes([[cell(part.columns[i].title) for i in shown], *rows])]


def bullets(part: Bullets) -> list[str]:
    return [*(f"- {inline(item)}" for item in part.items), ""]


def figures(part: Figures) -> list[str]:
    lines = []
    for picture in part.pictures:
        lines += [f"![{cell(picture.title)}]({picture.name}.png)", ""]
        if words := " ".join(text for text in (picture.numbers, picture.remark) if text):
            lines += [cell(words), ""]
    return lines


def flips(part: Flips) -> list[str]:
    """Which problems changed; the texts are in the page."""
    lines = ["Both completions of each are in flips.txt, some of each pair in report.html.", ""]
    for pair in (changed.pair for changed in part.pairs):
        lines.append(f"- {cell(pair.benchmark)}, {cell(pair.second)} − {cell(pair.first)}")
        lines += [f"  - {name}: {listed(ids)}" for name, ids in (("gained", pair.gained), ("lost", pair.lost))]
    return [*lines, ""]


def listed(ids: list[str]) -> str:
    """Problem ids; what is too many is counted."""
    words = ", ".join(map(cell, ids[:LISTED])) or "none"
    return words + (f" and {len(ids) - LISTED} more" if len(ids) > LISTED else "")


def heading(part: Heading) -> list[str]:
    return [f"### {cell(part.text)}", ""]


def paragraph(part: Paragraph | Verbatim) -> list[str]:
    return [cell(part.text), ""]


def folded(part: Folded) -> list[str]:
    return [f"#### {cell(part.title)}", "", *printed(part.parts)]


PRINTERS: dict[type, Callable[[Any], list[str]]] = {
    Table: drawn_table, Heading: heading, Paragraph: paragraph, Verbatim: paragraph, Bullets: bullets, Figures: figures, Flips: flips,
    Folded: folded,
}  # fmt: skip
