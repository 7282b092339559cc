"""What a report tells of files that are readable and not as they were written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.files import file_digest, write_sealed
from mft_cli.report.read.damage import metrics_digest
from mft_cli.report.read.runs import read_lines, read_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished and evaluated run's small files."""
    (tmp_path / "config.yaml").write_text("seed: 1\nmethod: {name: sft}\n")
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 2.5}\n')
    write_sealed(tmp_path / "run.json", {"started": "x", "config_digest": file_digest(tmp_path / "config.yaml")})
    logged = {"metrics.jsonl": file_digest(tmp_path / "metrics.jsonl")}
    write_sealed(
        tmp_path / "state.json", {"state": "done", "step": 1, "total_steps": 1, "seconds": 3.0, "logged": logged}
    )
    metrics = {"benchmark": "b", "n": 4, "accuracy": 0.5, "interval": [0.1, 0.9], "seconds": {"load": 1.0}}
    (tmp_path / "eval" / "b").mkdir(parents=True)
    sealed = {**metrics, "digest": metrics_digest(metrics)}
    (tmp_path / "eval" / "b" / "metrics.json").write_text(json.dumps(sealed))
    return tmp_path


def told(run: Path) -> list[str]:
    read = read_run(run, "run")
    return [note for notes in (read.notes, *(e.notes for e in read.evaluations)) for note in notes]


def test_whole_files_are_not_spoken_of(run: Path):
    assert told(run) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("config.yaml", "seed: 1", "seed: 3"), ("metrics.jsonl", "2.5", "2.7"), ("run.json", '"x"', '"y"'),
     ("state.json", "3.0", "7.0"), ("eval/b/metrics.json", "0.5", "0.7")],
)  # fmt: skip
def test_a_changed_number_is_told(run: Path, name: str, old: str, new: str):
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new, 1))
    assert told(run) == [f"{Path(name).name} is not as it was written: damaged or changed by hand"]


def test_a_file_that_is_gone_is_told(run: Path):
    (run / "metrics.jsonl").unlink()
    assert "metrics.jsonl is gone" in told(run)


@pytest.mark.parametrize("name", ["run.json", "state.json"])
def test_a_small_file_that_is_gone_is_told(run: Path, name: str):
    (run / name).unlink()
    assert told(run) == [f"{name} is missing, although this was a training: what it tells is not shown"]


@pytest.mark.parametrize("content", [None, b"", b"\n"])
def test_a_file_without_lines_has_none(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "samples.jsonl").write_bytes(content)
    notes: list[str] = []
    assert read_lines(tmp_path / "samples.jsonl", notes) == []
    assert notes == []
