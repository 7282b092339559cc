"""Benchmarks inside of a training, and what goes by them: the best checkpoint, early stopping, resumes to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mft_cli.config import load
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.errors import UserError
from mft_cli.eval.evaluate import evaluate
from mft_cli.train.live import LiveEvaluation
from mft_cli.train.run import train
from mft_cli.train.state import TrainerState
from tests.support.training import state_of, stop_at, training

REFINE = {"name": "chunk_refine", "width": 32, "heads": 4, "layers": 1, "max_steps": 3, "chunk_size": 8}
ZERO3 = {"name": "zero3", "config": {"zero_optimization": {"stage": 3}}}
WEIGHTS = "export/model.safetensors"


def benchmark(data: Path) -> dict[str, Any]:
    return {
        "source": {"path": str(data), "question": "question", "response": "answer", "answer": None}, "max_new_tokens": 6,
        "gold_marker": "####", "limit": 5,
    }  # fmt: skip


def config_of(model: Path, data: Path, run: Path, /, **sections: Any) -> TrainConfig:
    evaluation = {
        "benchmarks": {"sums": benchmark(data)},
        "engine": "hf",
        "every_steps": 2,
        "every_limit": 3,
        **sections.pop("eval", {}),
    }
    return training(model, data, run, eval=evaluation, **sections)


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.fixture
def no_last_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what happens inside of the training."""
    monkeypatch.setattr("mft_cli.train.run.evaluate_exports", lambda run, config, log: None)


@pytest.mark.usefixtures("no_last_evaluation")
@pytest.mark.parametrize("method", ["sft", "masked_thought"])  # the latter has a token that its export has not
def test_scores_are_those_of_the_export_and_change_no_weight(
    method: str, tiny_model: Path, problem_file: Path, tmp_path: Path
):
    config = config_of(tiny_model, problem_file, tmp_path / "run", method={"name": method})
    train(config)
    logged = rows(tmp_path / "run", "evaluation")
    assert [row["step"] for row in logged] == [2, 4, 5]
    assert all(row["sums/n"] == 3 and row["sums/low"] <= row["sums"] <= row["sums/high"] for row in logged)
    live = tmp_path / "run/live/step-00000005/sums/generations.jsonl"
    values = {
        "model": {"path": str(tmp_path / "run/export")},
        "eval": {
            "benchmarks": {"sums": {**benchmark(problem_file), "limit": 3}}, "engine": "hf", "dtype": "float32",
            "gold_logprob": False,
        },
        "launch": {"threads": 1, "device": "cpu"},
    }  # fmt: skip
    evaluate(load.eval_config(values), tmp_path / "after")
    texts = [
        [(line["id"], line["prompt"], line["completion"]) for line in map(json.loads, file.read_text().splitlines())]
        for file in (live, tmp_path / "after/sums/generations.jsonl")
    ]
    assert texts[0] == texts[1]
    nothing = {"every_steps": 0, "every_limit": None}
    train(config_of(tiny_model, problem_file, tmp_path / "plain", eval=nothing, method={"name": method}))
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (tmp_path / "plain" / WEIGHTS).read_bytes()


@pytest.mark.usefixtures("no_last_evaluation")
@pytest.mark.parametrize("method", ["sft", "masked_thought"])
def test_perplexity_of_the_live_weights_is_that_of_the_export(
    method: str, tiny_model: Path, problem_file: Path, tmp_path: Path
):
    source = {"path": str(problem_file), "layout": "text", "question": "question", "response": "question"}
    texts = {"source": source, "answer_type": "perplexity", "limit": 3}
    run, asked = tmp_path / "run", {"benchmarks": {"texts": texts}}
    train(config_of(tiny_model, problem_file, run, method={"name": method}, eval=asked))
    values = {
        "model": {"path": str(run / "export")}, "launch": {"threads": 1, "device": "cpu"},
        "eval": {**asked, "engine": "hf", "dtype": "float32"},
    }  # fmt: skip
    exported = evaluate(load.eval_config(values), tmp_path / "export")["texts"]
    last = rows(run, "evaluation")[-1]
    assert last["texts/perplexity"] == pytest.approx(exported["perplexity"]["token"]["perplexity"], rel=1e-6)
    assert last["texts"] == exported["accuracy"]


SCORES = {1: 0.1, 2: 0.5, 3: 0.4, 4: 0.3, 5: 0.9}
BEST: dict[str, Any] = {"checkpoint": {"best_by": "sums", "keep_best": True, "every_steps": 1, "keep_last": 1}}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, no_last_evaluation: None) -> None:
    monkeypatch.setattr(LiveEvaluation, "__call__", lambda self, step: {"sums": SCORES[step], "sums/n": 3})


@pytest.mark.usefixtures("scripted")
def test_the_best_checkpoint_and_the_end_by_a_benchmark(tiny_model: Path, problem_file: Path, tmp_path: Path):
    config = config_of(
        tiny_model, problem_file, tmp_path / "run", eval={"every_steps": 1}, train={"stop_after": 2}, **BEST
    )
    train(config)
    state = state_of(tmp_path / "run")
    assert (state["state"], state["step"], state["total_steps"]) == ("done", 4, 5)
    best = json.loads((tmp_path / "run/export-best/mft.json").read_text())
    assert best["step"] == 2
    assert "step 4: no better sums in 2 measurements (train.stop_after)" in (tmp_path / "run/train.log").read_text()
    train(config)  # done: nothing is trained again
    assert len(rows(tmp_path / "run", "evaluation")) == 4


@pytest.mark.usefixtures("scripted")
def test_a_training_that_ends_early_measures_its_last_step(tiny_model: Path, problem_file: Path, tmp_path: Path):
    """A benchmark ends it at a step without a validation; a whole run validates after its last step, too."""
    data = {"validation": {"rows": 8, "every_steps": 3}}
    train(
        config_of(
            tiny_model, problem_file, tmp_path, eval={"every_steps": 1}, train={"stop_after": 2}, data=data, **BEST
        )
    )
    assert [row["step"] for row in rows(tmp_path, "validation")] == [3, 4]


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("keep_best", [True, False])
def test_a_resume_stops_where_the_whole_run_does(keep_best: bool, tiny_model: Path, problem_file: Path, tmp_path: Path):
    checkpoint = {**BEST["checkpoint"], "keep_best": keep_best}
    settings: dict[str, Any] = {"eval": {"every_steps": 1}, "train": {"stop_after": 2}, "checkpoint": checkpoint}
    whole, cut = (config_of(tiny_model, problem_file, tmp_path / name, **settings) for name in ("whole", "cut"))
    train(whole)
    stop_at(cut, 3)
    train(cut)
    for name in (WEIGHTS, *(["export-best/model.safetensors"] if keep_best else [])):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    assert [row["step"] for row in rows(tmp_path / "cut", "evaluation")] == [1, 2, 3, 4]


@pytest.mark.usefixtures("no_last_evaluation")
def test_early_stopping_by_the_validation_loss(tiny_model: Path, problem_file: Path, tmp_path: Path):
    config = training(
        tiny_model, problem_file, tmp_path / "run", train={"stop_after": 2, "learning_rate": 0.0},
        data={"validation": {"rows": 8, "every_steps": 1}},
    )  # fmt: skip
    train(config)
    assert [row["step"] for row in rows(tmp_path / "run", "validation")] == [1, 2, 3]
    assert state_of(tmp_path / "run")["step"] == 3


def test_what_is_the_best():
    state = TrainerState(step=1)
    assert state.take("validation_loss", 2.0, "validation_loss")
    assert not state.take("validation_loss", 2.0, "validation_loss")
    assert not state.take("validation_loss", float("nan"), "validation_loss")
    assert not state.take("gsm8k", 0.9, "validation_loss")
    assert (state.without_best, state.best_loss, state.best_step, state.best_score) == (2, 2.0, 1, None)
    state.step = 7
    assert state.take("validation_loss", 1.5, "validation_loss")
    assert (state.without_best, state.best_step) == (0, 7)


@pytest.mark.usefixtures("no_last_evaluation")
@pytest.mark.parametrize(
    "sections",
    [
        {"method": {"name": "mask_finetune", "layers": "all"}}, {"method": REFINE},
        {"peft": {"name": "lora", "rank": 2}}, {"method": {"name": "masked_thought", "drop_attention": True}},
    ],
    ids=["mask_finetune", "chunk_refine", "lora", "drop_attention"],
)  # fmt: skip
def test_other_models_in_training_generate_too(
    sections: dict[str, Any], tiny_model: Path, problem_file: Path, tmp_path: Path
):
    sections = {**sections, "train": {"max_steps": 2}}
    train(config_of(tiny_model, problem_file, tmp_path / "run", **sections))
    (row,) = rows(tmp_path / "run", "evaluation")
    assert row["sums/n"] == 3


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"checkpoint": {"best_by": "gsm8k"}}, r"checkpoint\.best_by=gsm8k: expected validation_loss or a benchmark"),
        ({"checkpoint": {"best_by": "sums"}, "eval": {"every_steps": 0}}, r"best_by=sums needs eval\.every_steps"),
        ({"eval": {"benchmarks": {}}}, r"eval\.every_steps=2: there is no benchmark"),
        (
            {"deepspeed": {"name": "zero3", "config": {"zero_optimization": {"stage": 3}}}},
            r"eval\.every_steps does not go with ZeRO stage 3",
        ),
        ({"train": {"stop_after": 2}, "eval": {"every_steps": 0}}, r"train\.stop_after need a validation split"),
    ],
)
def test_what_cannot_be_is_told_before(
    sections: dict[str, Any], told: str, tiny_model: Path, problem_file: Path, tmp_path: Path
):
    with pytest.raises(UserError, match=told):
        config_of(tiny_model, problem_file, tmp_path / "run", **sections)


def test_a_single_process_computes_on_the_machines_device(
    tiny_model: Path, problem_file: Path, tmp_path: Path, monkeypatch
):
    """DeepSpeed took the process group's device, which was the CPU for a process alone, also on a GPU."""
    import torch

    devices: list[torch.device] = []
    monkeypatch.setattr("mft_cli.train.run.set_up_device", lambda launch: torch.device("meta"))
    monkeypatch.setattr(
        "mft_cli.train.run.train_in", lambda run, config, ranks, *more, **named: devices.append(ranks.device)
    )
    monkeypatch.setattr("mft_cli.train.run.evaluate_exports", lambda run, config, log: None)
    train(training(tiny_model, problem_file, tmp_path))
    assert devices == [torch.device("meta")]
