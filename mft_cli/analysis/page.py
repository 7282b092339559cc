"""A self-contained HTML page of tables and plots, with the report's own template."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mft_cli.report.page import environment
from mft_cli.report.terminal import aligned
from mft_cli.run_dir import write_atomically, write_json


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


def publish(
    out: Path, name: str, title: str, source: str, result: dict[str, Any], parts: list[Part],
    pictures: dict[str, Picture], reading: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Prints the tables and writes <name>.json, <name>.html and the pictures into `out`. Returns `result`."""
    write_json(out / f"{name}.json", result)
    for part in parts:
        print(f"\n{part.title}")
        print("\n".join(aligned([tuple(part.head), *(tuple(row) for row in part.rows)])))
    for picture, image in pictures.items():
        (out / f"{picture}.png").write_bytes(image.light)
    write_page(out / f"{name}.html", title, [source], parts, pictures, reading)
    images = ", ".join(f"{picture}.png" for picture in pictures)
    print(f"\n{source}\nwritten to {out}: {name}.json, {name}.html, {images}")
    return result


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
