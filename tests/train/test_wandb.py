"""Weights & Biases: which run there a folder belongs to, and what it is told."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from mft_cli.files import read_json
from mft_cli.run_dir import RunDir
from mft_cli.train.followers import send_scores
from mft_cli.train.run import train
from tests.support.training import stop_at, training

NAMES: dict[str, Any] = {"project": "p", "entity": "e", "group": "g", "tags": ["a", "b"], "job_type": "probe"}
WANDB = {"wandb": "offline", "wandb_project": "p", "wandb_entity": "e", "wandb_group": "g", "wandb_tags": ["a", "b"],
         "wandb_job_type": "probe"}  # fmt: skip
SCORES = {"eval/sums": {"digest": "1", "accuracy": 0.5, "interval": [0.1, 0.9], "n": 4, "gold_logprob": {"mean": -2.0}}}


class Opened:
    """What a fake wandb.init returned: the settings, rows and summary that it got."""

    def __init__(self, **settings: Any):
        self.settings, self.summary, self.rows, self.ended = settings, {}, [], False

    def log(self, numbers: dict[str, Any], step: int | None = None) -> None:
        self.rows.append((step, numbers))

    def finish(self) -> None:
        self.ended = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Opened]:
    """Every run that was opened in a module that stands for wandb."""
    runs: list[Opened] = []

    def init(**settings: Any) -> Opened:
        runs.append(Opened(**settings))
        return runs[-1]

    fake = types.ModuleType("wandb")
    fake.init, fake.Html = init, lambda text, inject: text  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return runs


def ids(opened: list[Opened]) -> list[str]:
    return [run.settings["id"] for run in opened]


def test_a_resume_is_the_same_run_and_a_retraining_another_one(tiny_model, problem_file, tmp_path, opened):
    stop_at(training(tiny_model, problem_file, tmp_path / "run", log=WANDB), 3)
    train(training(tiny_model, problem_file, tmp_path / "run", log=WANDB))
    train(training(tiny_model, problem_file, tmp_path / "run", log=WANDB, checkpoint={"resume": False}))
    assert ids(opened)[0] == ids(opened)[1] != ids(opened)[2]
    assert [step for step, _ in opened[1].rows] == [4, 5]
    assert all(run.ended for run in opened[1:])
    assert NAMES.items() <= opened[0].settings.items()


def test_two_folders_of_one_name_are_two_runs(tiny_model, problem_file, tmp_path, opened):
    for parent in ("a", "b"):
        train(training(tiny_model, problem_file, tmp_path / parent / "sft", log=WANDB))
    assert len(set(ids(opened))) == 2
    asked = opened[0].settings
    assert (asked["project"], asked["entity"], asked["group"], asked["tags"]) == ("p", "e", "g", ["a", "b"])
    assert (asked["job_type"], asked["resume"], asked["name"], asked["mode"]) == ("probe", "allow", "sft", "offline")


@pytest.mark.parametrize("damage", ["", "{half", "[1]", '{"id": 5}'])
def test_a_damaged_id_begins_another_run_there(tmp_path, opened, damage):
    from mft_cli.train.followers import tracker_id

    run = RunDir(tmp_path)
    first = tracker_id(run)
    assert tracker_id(run) == first
    run.wandb.write_text(damage)
    assert tracker_id(run) not in (first, 5)


def test_scores_and_the_report_are_sent_once(tiny_model, problem_file, tmp_path, opened):
    folder = train(training(tiny_model, problem_file, tmp_path / "run", log=WANDB))
    config = training(tiny_model, problem_file, folder, log=WANDB).log
    said: list[str] = []
    for _ in range(2):
        send_scores(RunDir(folder), config, SCORES, said.append)
    assert not said
    trained, scored = opened
    assert scored.settings["id"] == trained.settings["id"]
    assert scored.summary == {
        "eval/sums/accuracy": 0.5, "eval/sums/interval_low": 0.1, "eval/sums/interval_high": 0.9, "eval/sums/problems": 4,
        "eval/sums/gold_logprob": -2.0,
    }  # fmt: skip
    assert "<html" in scored.rows[0][1]["report"]
    send_scores(RunDir(folder), config, {"eval/sums": {**SCORES["eval/sums"], "digest": "2"}}, said.append)
    assert len(opened) == 3


def test_scores_that_cannot_be_sent_are_told(tmp_path, monkeypatch, tiny_model, problem_file):
    def refuse(**settings: Any) -> None:
        raise RuntimeError("no network")

    fake = types.ModuleType("wandb")
    fake.init = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    said: list[str] = []
    send_scores(RunDir(tmp_path), training(tiny_model, problem_file, tmp_path, log=WANDB).log, SCORES, said.append)
    assert said == ["the scores could not be sent to Weights & Biases: no network"]


def test_offline_the_installed_wandb_takes_all_of_it(tiny_model, problem_file, tmp_path):
    pytest.importorskip("wandb")
    folder = train(training(tiny_model, problem_file, tmp_path / "run", log=WANDB))
    said: list[str] = []
    send_scores(RunDir(folder), training(tiny_model, problem_file, folder, log=WANDB).log, SCORES, said.append)
    assert not said
    kept = read_json(folder / "wandb.json")
    assert len(list(Path(folder / "wandb").glob(f"offline-run-*-{kept['id']}"))) >= 1
    assert json.loads((folder / "state.json").read_text())["state"] == "done"
