"""Benchmarks in a process beside the training: the scores and weights of those inside of it, whatever becomes of the process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mft_cli.errors import RankFailed, UserError
from mft_cli.train import beside
from mft_cli.train.beside import spare_gpus
from mft_cli.train.run import train
from tests.support.training import training

FILES = ("export/model.safetensors", "live/step-00000002/sums/generations.jsonl")


@pytest.fixture(autouse=True)
def no_last_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mft_cli.train.run.evaluate_exports", lambda run, config, log: None)


def run(model: Path, data: Path, folder: Path, live: str) -> None:
    """Two steps of a method whose token the export has not, then three problems."""
    benchmark = {
        "source": {"path": str(data), "question": "question", "response": "answer", "answer": None}, "max_new_tokens": 6,
        "gold_marker": "####", "limit": 5,
    }  # fmt: skip
    evaluation = {
        "benchmarks": {"sums": benchmark}, "engine": "hf", "every_steps": 2, "every_limit": 3, "live": live, "dtype": "float32"
    }  # fmt: skip
    settings: dict[str, Any] = {
        "eval": evaluation, "method": {"name": "masked_thought"}, "train": {"max_steps": 2},
        "checkpoint": {"best_by": "sums", "keep_best": True, "every_steps": 1},
    }  # fmt: skip
    train(training(model, data, folder, **settings))


def scores(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "time")}
        for line in lines
        if line["kind"] == "evaluation"
    ]


def texts(folder: Path) -> list[tuple[str, ...]]:
    lines = (folder / FILES[1]).read_text().splitlines()
    return [(row["id"], row["prompt"], row["completion"]) for row in map(json.loads, lines)]


def test_a_killed_evaluation_is_made_again_with_the_scores_and_weights_of_one_inside(
    tiny_model: Path, problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inside, apart = tmp_path / "inside", tmp_path / "beside"
    run(tiny_model, problem_file, inside, "inside")

    class Killed(subprocess.Popen[bytes]):
        def __init__(self, command: Sequence[str], **settings: Any):
            super().__init__([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], **settings)

    with monkeypatch.context() as patch:
        patch.setattr(beside.subprocess, "Popen", Killed)
        with pytest.raises(RankFailed, match=r"step 2 \(eval\.live=beside\) was ended by SIGKILL .*goes on from"):
            run(tiny_model, problem_file, apart, "beside")
    assert not scores(apart)
    assert not list((apart / "live").iterdir())  # nor the weights that it was given

    run(tiny_model, problem_file, apart, "beside")
    assert scores(apart) == scores(inside)
    assert texts(apart) == texts(inside)
    assert (apart / FILES[0]).read_bytes() == (inside / FILES[0]).read_bytes()
    assert json.loads((apart / "export-best/mft.json").read_text())["step"] == 2
    assert [folder.name for folder in (apart / "live").iterdir()] == ["step-00000002"]


def test_an_evaluation_has_gpus_that_no_rank_has():
    assert spare_gpus(["0", "1", "5"], {"LOCAL_WORLD_SIZE": "2"}) == ["5"]
    assert spare_gpus(["3", "4"], {}) == ["4"]
    with pytest.raises(UserError, match=r"2 ranks train on the 2 visible GPUs: set launch\.gpus lower"):
        spare_gpus(["0", "1"], {"LOCAL_WORLD_SIZE": "2"})
