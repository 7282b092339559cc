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
from mft_cli.train.run import train
from mft_cli.train.weights_and_biases import send_scores
from tests.support.training import stop_at, training

NAMES: dict[str, Any] = {"project": "p", "entity": "e", "group": "g", "tags": ["a", "b"], "job_type": "probe"}
WANDB = {"wandb": "offline", "wandb_project": "p", "wandb_entity": "e", "wandb_group": "g", "wandb_tags": ["a", "b"],
         "wandb_job_type": "probe"}  # fmt: skip
SCORES = {"eval/sums": {"digest": "1", "accuracy": 0.5, "interval": [0.1, 0.9], "n": 4, "gold_logprob": {"mean": -2.0}}}


class Opened:
    """What a fake wandb.init returned: the settings, rows and summary that it got."""

    def __init__(self, **settings: Any):
        self.settings, self.summary, self.rows, self.artifacts, self.ended = settings, {}, [], [], False

    def log(self, numbers: dict[str, Any], step: int | None = None) -> None:
        self.rows.append((step, numbers))

    def log_artifact(self, artifact: Artifact) -> None:
        self.artifacts.append(artifact)

    def finish(self) -> None:
        self.ended = True


class Artifact:
    def __init__(self, name: str, type: str):
        self.name, self.type, self.files = name, type, {}

    def add_file(self, path: str, name: str) -> None:
        self.files[name] = Path(path).read_bytes()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Opened]:
    """Every run that was opened in a module that stands for wandb."""
    runs: list[Opened] = []

    def init(**settings: Any) -> Opened:
        runs.append(Opened(**settings))
        return runs[-1]

    fake = types.ModuleType("wandb")
    fake.init, fake.Html = init, lambda text, inject: text  # type: ignore[attr-defined]
    fake.Table, fake.Artifact = lambda columns, data: (columns, data), Artifact  # type: ignore[attr-defined]
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
    from mft_cli.train.weights_and_biases import tracker_id

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


def evaluated(folder: Path) -> None:
    """Two completions as an evaluation leaves them, the journal in another order than the scores."""
    lines = {
        "generations": [{"id": i, "sample": 0, "prompt": f"{i}?", "completion": f"it is {i}"} for i in ("b", "a")],
        "scores": [{"id": i, "sample": 0, "answer": i, "gold": "a", "correct": i == "a"} for i in ("a", "b")],
    }
    folder.mkdir(parents=True)
    RunDir(folder.parents[1]).set_state("done")
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(("most", "ids_sent"), [(0, []), (1, ["a"]), (100, ["a", "b"])])
def test_completions_are_a_table(tiny_model, problem_file, tmp_path, opened, most, ids_sent):
    evaluated(tmp_path / "run/eval/sums")
    log = {**WANDB, "wandb_completions": most}
    said: list[str] = []
    send_scores(
        RunDir(tmp_path / "run"), training(tiny_model, problem_file, tmp_path, log=log).log, SCORES, said.append
    )
    tables = [row["eval/sums/completions"] for _, row in opened[0].rows if "eval/sums/completions" in row]
    assert not said
    assert [data[0] for _, rows in tables for data in rows] == ids_sent
    if most == 100:
        columns, rows = tables[0]
        assert dict(zip(columns, rows[0], strict=True)) == {
            "id": "a", "sample": 0, "prompt": "a?", "completion": "it is a", "answer": "a", "gold": "a", "correct": True,
        }  # fmt: skip


def test_masks_are_an_artifact_also_without_a_benchmark(tiny_model, problem_file, tmp_path, opened):
    log = {**WANDB, "wandb_artifacts": True}
    folder = train(
        training(tiny_model, problem_file, tmp_path / "run", log=log, method={"name": "mask_finetune", "layers": "all"})
    )
    (artifact,) = [artifact for run in opened for artifact in run.artifacts]
    assert (artifact.name, artifact.type) == ("run-parts", "model-parts")
    assert artifact.files == {"masks.mft": (folder / "export/masks.mft").read_bytes()}
    assert not [row for _, row in opened[-1].rows if any("completions" in name for name in row)]


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
    log = {**WANDB, "wandb_artifacts": True}
    folder = train(training(tiny_model, problem_file, tmp_path / "run", log=log, peft={"name": "lora"}))
    said: list[str] = []
    evaluated(folder / "eval/sums")
    send_scores(RunDir(folder), training(tiny_model, problem_file, folder, log=log).log, SCORES, said.append)
    assert not said
    assert [json.loads(file.read_text())["columns"][0] for file in folder.rglob("*.table.json")] == ["id"]
    kept = read_json(folder / "wandb.json")
    assert len(list(Path(folder / "wandb").glob(f"offline-run-*-{kept['id']}"))) >= 1
    assert json.loads((folder / "state.json").read_text())["state"] == "done"
