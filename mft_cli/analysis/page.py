"""A self-contained HTML page of tables and plots, with the report's own template."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mft_cli.report.page import environment
from mft_cli.run_dir import write_atomically


@dataclass(frozen=True)
class Part:
    """One table."""

    title: str
    head: list[str]
    rows: list[list[str]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """One plot as PNG, for a light and for a dark page."""

    title: str
    light: bytes
    dark: bytes


def write_page(
    path: Path, title: str, sentences: list[str], parts: list[Part], pictures: dict[str, Picture],
    reading: list[str],
) -> None:  # fmt: skip
    """Tables first, then plots, then how to read them."""
    shown = [{"title": p.title, "light": as_data(p.light), "dark": as_data(p.dark)} for p in pictures.values()]
    text = environment().get_template("sweep.html.jinja").render(
        title=title, sentences=sentences, tables=parts, plots=shown, reading=reading, colours=[],
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )  # fmt: skip
    write_atomically(path, text)


def as_data(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()
