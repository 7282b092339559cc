"""A self-contained HTML page of tables and plots, with the report's own template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mft_cli.files import write_atomically, write_json
from mft_cli.report.render.page import tables_page
from mft_cli.report.render.terminal import aligned


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
    write_atomically(out / f"{name}.html", tables_page(title, [source], parts, pictures.values(), reading))
    images = ", ".join(f"{picture}.png" for picture in pictures)
    print(f"\n{source}\nwritten to {out}: {name}.json, {name}.html, {images}")
    return result
