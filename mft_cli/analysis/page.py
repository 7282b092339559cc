"""A self-contained HTML page of tables and plots, with the report's own template."""

from __future__ import annotations

from pathlib import Path

from mft_cli.console import text_table
from mft_cli.files import JsonObject, write_atomically, write_json
from mft_cli.report.render.document import Picture, TextTable, tables_document
from mft_cli.report.render.page import render


def publish(
    out: Path, name: str, title: str, sentences: list[str], source: str, result: JsonObject, parts: list[TextTable],
    pictures: dict[str, Picture], reading: list[str],
) -> JsonObject:  # fmt: skip
    """Prints the tables and writes <name>.json, <name>.html and the pictures into `out`. Returns `result`.

    `sentences`: what was found; the page begins with them, and `source` (on what) comes after.
    """
    write_json(out / f"{name}.json", result)
    for part in parts:
        print(f"\n{part.title}")
        print("\n".join(text_table([tuple(part.head), *(tuple(row) for row in part.rows)])))
    for picture, image in pictures.items():
        (out / f"{picture}.png").write_bytes(image.light)
    document = tables_document(title, [*sentences, source], parts, list(pictures.values()), reading)
    write_atomically(out / f"{name}.html", render(document))
    files = ", ".join([f"{name}.json", f"{name}.html", *(f"{picture}.png" for picture in pictures)])
    print("\n" + "\n".join(sentences))
    print(f"\n{source}\nwritten to {out}: {files}")
    return result
