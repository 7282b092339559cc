"""checkpoint.resume=false throws away once, and only when the new run has begun; scores belong to weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.errors import UserError
from mft_cli.files import read_json, write_json
from mft_cli.run_dir import RunDir
from mft_cli.train.checkpoint import steps_in
from mft_cli.train.restart import move_evaluations_away
from mft_cli.train.run import train
from tests.support.training import at_step, break_at, state_of, steps_logged, stop_at, training

AGAIN = {"resume": False}


@pytest.fixture
def finished(tiny_model, problem_file, tmp_path) -> Path:
    """The folder of a finished run that was evaluated."""
    run = train(training(tiny_model, problem_file, tmp_path / "run"))
    write_json(run / "eval" / "gsm8k" / "metrics.json", {"accuracy": 0.5})
    return run


def export_of(run: Path) -> bytes:
    return (run / "export" / "model.safetensors").read_bytes()


def test_a_stopped_run_goes_on_with_resume_false_in_the_command(tiny_model, problem_file, monkeypatch, finished):
    """What a requeued job does, whose command does not change."""
    whole = export_of(finished)
    again = training(tiny_model, problem_file, finished, checkpoint=AGAIN)
    stop_at(again, 3)
    assert state_of(finished)["step"] == 3
    seen: list[int] = []
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda: seen.append(4))
        at_step(patch, 1, lambda: seen.append(1))
        train(again)
    assert seen == [4]  # from step 3 on, not from the first
    assert export_of(finished) == whole
    assert steps_logged(finished / "metrics.jsonl") == [1, 2, 3, 4, 5]


def test_a_finished_run_is_trained_again_each_time_it_is_asked_for(tiny_model, problem_file, finished, monkeypatch):
    again = training(tiny_model, problem_file, finished, checkpoint=AGAIN)
    seen: list[int] = []
    at_step(monkeypatch, 1, lambda: seen.append(1))
    train(again)
    train(again)
    assert seen == [1, 1]
    assert not list(finished.glob("started_again.json"))


def test_scores_that_are_moved_away_in_the_same_second_stay_apart(tmp_path, monkeypatch):
    """Two commands in one second, or a clock that was set back."""
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    run = RunDir(tmp_path)
    for number in range(3):
        write_json(tmp_path / "eval" / "gsm8k" / "metrics.json", {"accuracy": number})
        move_evaluations_away(run, [tmp_path / "eval"])
    kept = sorted((tmp_path / "replaced").glob("*/eval/gsm8k/metrics.json"))
    assert [read_json(path)["accuracy"] for path in kept] == [0, 1, 2]


def test_other_settings_are_another_run(tiny_model, problem_file, finished, monkeypatch):
    again = training(tiny_model, problem_file, finished, checkpoint=AGAIN)
    stop_at(again, 3)
    other = training(
        tiny_model, problem_file, finished, checkpoint=AGAIN, train={"learning_rate": 0.02, "max_steps": 4}
    )
    train(other)
    assert steps_logged(finished / "metrics.jsonl") == [1, 2, 3, 4]


@pytest.mark.parametrize("broken", [{"data": {"max_length": 4, "on_long": "error"}}, {"model": {"path": "not_there"}}])
def test_a_refused_command_leaves_the_finished_run(tiny_model, problem_file, finished, broken):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name not in ("train.log", ".lock")}
    with pytest.raises(UserError):
        train(training(tiny_model, problem_file, finished, checkpoint=AGAIN, **broken))
    after = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name not in ("train.log", ".lock")}
    assert after == before


def test_what_is_replaced_is_there_until_the_first_save(tiny_model, problem_file, finished, monkeypatch):
    again = training(tiny_model, problem_file, finished, checkpoint={**AGAIN, "every_steps": 2})
    held: list[bool] = []

    def look() -> None:
        held.append(bool(steps_in(finished / ".set-aside" / "checkpoints")))

    at_step(monkeypatch, 1, look)
    at_step(monkeypatch, 3, look)
    train(again)
    assert held == [True, False]
    assert not (finished / ".set-aside").exists()


def test_a_kill_before_the_first_save_is_begun_again(tiny_model, problem_file, finished, monkeypatch):
    again = training(tiny_model, problem_file, finished, checkpoint=AGAIN)

    def die() -> None:
        raise KeyboardInterrupt

    break_at(again, 2, die, KeyboardInterrupt)
    assert steps_in(finished / ".set-aside" / "checkpoints") == [5]
    assert "second Ctrl-C" in state_of(finished)["message"]
    train(again)
    assert steps_logged(finished / "metrics.jsonl") == [1, 2, 3, 4, 5]
    assert not (finished / ".set-aside").exists()


def test_evaluations_of_replaced_weights_are_moved_away(tiny_model, problem_file, finished):
    train(training(tiny_model, problem_file, finished, checkpoint=AGAIN))
    assert not (finished / "eval").exists()
    kept = list(finished.glob("replaced/*/eval/gsm8k/metrics.json"))
    assert [read_json(path) for path in kept] == [{"accuracy": 0.5}]


def test_more_steps_move_the_scores_of_fewer_away(tiny_model, problem_file, finished):
    digest = read_json(finished / "export" / "mft.json")["weights_digest"]
    write_json(finished / "eval" / "gsm8k" / "metrics.json", {"accuracy": 0.5, "model": {"weights_digest": digest}})
    (finished / "eval" / "math").mkdir()
    (finished / "eval" / "math" / "metrics.json").write_text("{half")
    train(training(tiny_model, problem_file, finished))
    assert (finished / "eval" / "gsm8k").is_dir()  # the same weights: the run is done
    train(training(tiny_model, problem_file, finished, checkpoint={"retime": True}, train={"max_steps": 6}))
    assert read_json(finished / "export" / "mft.json")["weights_digest"] != digest
    assert not (finished / "eval").exists()
    assert "scores of other weights" in (finished / "train.log").read_text()


def test_an_export_has_the_digest_that_an_evaluation_takes(finished):
    from mft_cli.config.schema.inputs import ModelConfig
    from mft_cli.models.folder import open_model

    exported = json.loads((finished / "export" / "mft.json").read_text())
    assert open_model(ModelConfig(path=str(finished / "export"))).weights_digest == exported["weights_digest"]
