"""A run of a model that takes no attention for packed sequences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models.kernels.test_own_attention import saved
from tests.support.tiny import mft, tiny_overrides


@pytest.mark.parametrize(("name", "engine"), [("falcon", []), ("stablelm", ["deepspeed=zero3"])])
def test_it_is_said_and_recorded(tmp_path: Path, tiny_model: Path, problem_file: Path, name: str, engine: list[str]):
    folder = with_tokenizer(saved(name, tmp_path / "model", 600), tiny_model)
    arguments = tiny_overrides(folder, problem_file, **{"train.max_steps": 2, "run_dir": "run"})
    done = mft("train", *arguments, *engine, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "takes no attention for packed sequences" in done.stdout
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["packing"], facts["attention"]) == (False, "sdpa")


def test_what_hides_positions_is_refused_before_the_first_step(tmp_path: Path, tiny_model: Path, problem_file: Path):
    folder = with_tokenizer(saved("stablelm", tmp_path / "model", 600), tiny_model)
    arguments = tiny_overrides(folder, problem_file, **{"run_dir": "run"})
    refused = mft("train", *arguments, "method=masked_thought", "method.drop_attention=true", cwd=tmp_path)
    assert refused.returncode == 2
    assert "cannot hide single positions" in refused.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def with_tokenizer(folder: Path, source: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    return folder
