"""Predicted against true text of masked chunks, from the newest samples of a run (method=chunk_refine)."""

from __future__ import annotations

from dataclasses import dataclass

from mft_cli.report.read import fields
from mft_cli.report.read.runs import Run, read_rows

CHUNK: dict[str, fields.Check] = {
    "chunk": fields.whole, "loss": fields.number, "weight": fields.number, "steps": fields.whole,
    "confidence": fields.share, "predicted": fields.text, "true": fields.text,
}  # fmt: skip
HEAD = ("step", "example", "chunk", "loss", "weight", "steps", "confidence", "predicted", "true")


@dataclass(frozen=True)
class ChunkRow:
    """One masked chunk; all cells are texts."""

    cells: tuple[str, ...]  # as in HEAD


def chunk_rows(run: Run) -> list[ChunkRow]:
    """The masked chunks in the last samples that the run wrote; none for other methods and for lines without them."""
    notes: list[str] = []  # what cannot be read is left out
    samples = read_rows(run.folder / "samples.jsonl", {"step": fields.whole, "row": fields.text}, ("step",), notes)
    samples = [s for s in samples if isinstance(s.get("masked_chunks"), list)]
    last = max((s["step"] for s in samples), default=0)
    rows = []
    for sample in samples:
        if sample["step"] != last:
            continue
        chunks = [c for c in sample["masked_chunks"] if isinstance(c, dict)]
        for c in fields.checked_lines(chunks, CHUNK, tuple(CHUNK), "samples.jsonl", notes):
            numbers = (f"{c['loss']:.3f}", f"{c['weight']:.2f}", str(c["steps"]), f"{100 * c['confidence']:.1f} %")
            position = (str(last), str(sample.get("row", "")), str(c["chunk"]))
            rows.append(ChunkRow((*position, *numbers, c["predicted"], c["true"])))
    return rows
