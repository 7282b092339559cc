"""What an evaluation at a training's end would stop at is told before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from mft_cli.cli.train import run_training
from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.errors import UserError
from mft_cli.eval import preflight
from mft_cli.eval.evaluate import evaluate
from mft_cli.eval.preflight import check_planned, check_trained_model
from mft_cli.files import locked
from tests.support.sums import on_model, sums, write_sums
from tests.support.tiny import mft, tiny_overrides

LLAMA = {"hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 512}
RAW = PromptConfig(name="raw", kind="template", template="{question}\n")


def config(folder: Path, engine: str = "hf", **more) -> EvalConfig:
    benchmark = {k: more.pop(k) for k in ("prompt", "answer_type", "gold_marker") if k in more}
    made = sums(write_sums(folder, 5))
    for name, value in benchmark.items():
        setattr(made, name, value)
    return EvalConfig(benchmarks={"sums": made}, engine=engine, **more)


def test_what_is_right_passes(tmp_path: Path) -> None:
    check_planned(config(tmp_path), [])
    check_planned(config(tmp_path, engine="auto", decode="refine"), ["refine"])
    check_trained_model(config(tmp_path, max_model_len=512), LLAMA, "template", PromptConfig(), "cpu")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"decode": "refine"}, r"eval.decode=refine needs a head"),
        ({"tensor_parallel": 2}, r"eval.tensor_parallel=2 needs eval.engine=vllm"),
        ({"decode": "refine", "replicas": 2}, r"eval.replicas=2: eval.decode=refine runs in one process"),
        ({"prompt": PromptConfig(kind="template", template="Hello")}, r"eval.benchmarks.sums.prompt.template does not"),
        ({"gold_marker": "The answer:"}, r"no 'The answer:' in the gold"),
        ({"answer_type": "choice"}, r"5 of 5 golds of sums cannot be read as choice"),
    ],
)
def test_what_would_fail_after_the_training(tmp_path: Path, settings: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_planned(config(tmp_path, **settings), [])


def test_a_field_that_is_not_there(tmp_path: Path) -> None:
    asked = config(tmp_path)
    asked.benchmarks["sums"].source.question = "problem"
    with pytest.raises(UserError, match=r"no field 'problem'; fields: question, answer"):
        check_planned(asked, [])


@pytest.mark.parametrize(
    ("settings", "model", "template", "says"),
    [
        ({"max_model_len": 1024}, LLAMA, "t", r"eval.max_model_len=1024, but the model has 512 positions"),
        ({"engine": "vllm"}, {**LLAMA, "num_attention_heads": 8}, "t", r"no attention for heads of size 8"),
        ({"engine": "vllm"}, {**LLAMA, "head_dim": 20}, "t", r"no attention for heads of size 20"),
        ({}, LLAMA, None, r"eval=sums is asked with the chat prompt chat, but the tokenizer has no chat template"),
    ],
)
def test_a_model_that_cannot_be_evaluated_as_asked(tmp_path, monkeypatch, settings, model, template, says) -> None:
    monkeypatch.setattr(preflight, "choose_engine", lambda asked: (asked.engine, "1"))
    with pytest.raises(UserError, match=says):
        check_trained_model(config(tmp_path, **settings), model, template, PromptConfig(), "cpu")
    if template is None:
        check_trained_model(config(tmp_path), model, None, RAW, "cpu")


def test_a_training_is_refused_before_its_first_step(tmp_path: Path) -> None:
    from mft_cli.config.schema.runs import TrainConfig

    with pytest.raises(UserError, match=r"eval.decode=refine needs a head that this method does not train"):
        run_training(TrainConfig(eval=config(tmp_path, decode="refine"), run_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_context_above_the_models_is_told_before_the_first_step(tiny_model, problem_file, tmp_path: Path) -> None:
    more = {"run_dir": "run", "eval": "gsm_symbolic", "eval.engine": "hf", "eval.max_model_len": 1024}
    done = mft("train", *tiny_overrides(tiny_model, problem_file, **more), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "eval.max_model_len=1024, but the model has 512 positions" in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_two_evaluations_into_one_folder(tiny_model: Path, tmp_path: Path) -> None:
    asked = on_model(tiny_model, sums(write_sums(tmp_path, 2)))
    with locked(tmp_path / "eval", "busy"), pytest.raises(UserError, match="is in use by another evaluation"):
        evaluate(asked, tmp_path / "eval")
    assert not (tmp_path / "eval" / "sums").exists()
    assert evaluate(asked, tmp_path / "eval")["sums"]["n"] == 2
