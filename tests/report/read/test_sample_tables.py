"""The report's tables of what a method samples, and curves of what only one method logs."""

import json
from pathlib import Path

from mft_cli import report
from mft_cli.report.read.runs import read_runs
from mft_cli.report.read.sample_tables import sample_tables
from mft_cli.report.render import plots
from tests.support.fake_runs import fake_run, write_lines


def chunk(number: int, predicted: object = "the sum is") -> dict[str, object]:
    return {
        "chunk": number, "loss": 2.5, "weight": 1.3, "steps": 4, "confidence": 0.125, "predicted": predicted,
        "true": "<b>so 3 + 4",
    }  # fmt: skip


def test_predicted_against_true_text(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=4)
    rows = [
        {"step": 2, "row": "a:1", "completion": "", "masked_chunks": [chunk(0)]},
        {"step": 4, "row": "a:1", "completion": "", "masked_chunks": [chunk(1), chunk(2, predicted=3), "no chunk"]},
        {"step": 4, "row": "a:2", "completion": "of another method"},
    ]
    write_lines(run / "samples.jsonl", rows)
    (table,) = sample_tables(read_runs([run])[0])
    assert table.head == ("step", "example", "chunk", "loss", "weight", "steps", "confidence", "predicted", "true")
    (cells,) = table.rows
    assert cells == ("4", "a:1", "1", "2.500", "1.30", "4", "12.5 %", "the sum is", "<b>so 3 + 4")
    paths = report.build([run], tmp_path / "out")
    page = paths.html.read_text(encoding="utf-8")
    assert "Masked chunks: run" in page
    assert "&lt;b&gt;so 3 + 4" in page
    assert "<b>so" not in page
    assert "the sum is" in paths.markdown.read_text(encoding="utf-8")


def test_no_samples_no_table(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=4)
    write_lines(run / "samples.jsonl", [{"step": 4, "row": "a:2", "completion": "x"}])
    assert sample_tables(read_runs([run])[0]) == []
    page = report.build([run], tmp_path / "out").html.read_text(encoding="utf-8")
    assert "Masked chunks" not in page


def test_its_metrics_are_drawn(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=4)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    own = {"masked_chunk_share": 0.3, "masked_loss": 5.0, "unmasked_loss": 2.0, "chunk_weight": 1.3, "mean_steps": 3.5}
    own |= {"removed_share": 0.1, "mask_changes": 0.01, "format_reward": 0.5, "tag_loss": 2.0}  # of the other methods
    write_lines(run / "metrics.jsonl", [{**row, **own} for row in rows])
    names = {plot.curve.field for plot in plots.draw(read_runs([run]))}
    assert own.keys() <= names
