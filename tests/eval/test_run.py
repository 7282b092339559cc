"""Evaluation from a folder to metrics: resume, reuse, contamination, and the errors that a user can mend."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.errors import UserError
from mft_cli.eval import evaluate
from mft_cli.eval import session as run
from mft_cli.eval.score import score_file
from tests.support.sums import killed, on_model, sums

FILES = ("generations.jsonl", "scores.jsonl")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [{"question": f"What is {i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))  # one problem is there twice
    return path


def make_config(model: Path, data: Path, engine: str = "hf", **benchmark) -> EvalRunConfig:
    made = sums(data, derived_from=("gsm8k_test",), **benchmark)
    return on_model(model, made, engine=engine, batch_size=4)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_killed_resumed_and_reused(model: Path, data: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    config = make_config(model, data, samples=2, temperature=0.8)
    metrics = evaluate.evaluate(config, tmp_path / "a")["sums"]
    assert (metrics["n"], metrics["samples"], metrics["gold_logprob"]["n"]) == (11, 2, 11)
    assert metrics["pass_at"].keys() == {"1", "2"}
    whole = tmp_path / "a" / "sums"
    half = killed(whole, tmp_path / "b" / "sums", {"generations.jsonl": 2 / 3})
    evaluate.evaluate(config, tmp_path / "b")
    for name in FILES:
        assert (half / name).read_bytes() == (whole / name).read_bytes()
    capsys.readouterr()
    monkeypatch.setattr(run, "load_engine", lambda *a, **k: pytest.fail("the engine was loaded again"))
    assert evaluate.evaluate(config, tmp_path / "a")["sums"] == metrics
    assert "reused" in capsys.readouterr().out


def test_score_round_trip_and_missing_or_double_lines(model: Path, data: Path, tmp_path: Path) -> None:
    config = make_config(model, data)
    metrics = evaluate.evaluate(config, tmp_path / "a")["sums"]
    benchmark = config.eval.benchmarks["sums"]
    lines = [json.loads(x) for x in (tmp_path / "a" / "sums" / "generations.jsonl").read_text().splitlines()]
    bare = [{k: line[k] for k in ("id", "sample", "completion", "finish_reason")} for line in lines]
    file = tmp_path / "bare.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in reversed(bare)))
    again = score_file(file, "sums", benchmark, tmp_path / "c")
    assert again["accuracy"] == metrics["accuracy"]
    assert (tmp_path / "c" / "scores.jsonl").read_bytes() == (tmp_path / "a" / "sums" / "scores.jsonl").read_bytes()
    right = [{"id": i, "sample": 0, "completion": f"#### {i + 1}"} for i in range(10)] + [
        {"id": 10, "completion": "#### 1"}
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in right))  # ids may be places in the data
    assert score_file(file, "sums", benchmark, tmp_path / "c")["accuracy"] == 1.0
    file.write_text("".join(json.dumps(line) + "\n" for line in right[:-1]))
    with pytest.raises(UserError, match="sums: 1 of 11 completions are missing"):
        score_file(file, "sums", benchmark, tmp_path / "c")
    file.write_text("".join(json.dumps(line) + "\n" for line in [*right, right[3]]))
    with pytest.raises(UserError, match="is there more than once"):
        score_file(file, "sums", benchmark, tmp_path / "c")


def test_truncated_counts_only_with_an_announced_answer(tmp_path: Path) -> None:
    texts = ["so 5 + 5 = 10 and", "#### 10\n\nQuestion: and now 7?\nAnswer", "#### 10", "#### 10\n"]
    file = tmp_path / "g.jsonl"
    lines = [{"id": i, "completion": t, "finish_reason": "length", "gold": "10"} for i, t in enumerate(texts)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = score_file(file, "x", BenchmarkConfig(markers=["####"]), tmp_path)
    scores = [json.loads(x) for x in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [s["correct"] for s in scores] == [False, True, False, True]
    assert metrics["truncated"] == 4
    assert "token limit" in metrics["warnings"][0]


def test_contamination_and_recorded_prompt(model: Path, data: Path, tmp_path: Path, capsys) -> None:
    prompt = {"name": "mine", "kind": "template", "template": "Q: {question}\nA: ", "stop": ["\n"]}
    (model / "mft.json").write_text(json.dumps({"derived_from": ["gsm8k_test"], "prompt": prompt}))
    metrics = evaluate.evaluate(make_config(model, data), tmp_path / "a")["sums"]
    assert "gsm8k_test" in metrics["contaminated"]
    assert metrics["prompt"]["name"] == "mine"
    assert "CONTAMINATED" in capsys.readouterr().out


def test_prompts_that_do_not_fit_are_counted(model: Path, data: Path, tmp_path: Path) -> None:
    config = make_config(model, data, limit=3)
    config.eval.max_model_len = 12
    metrics = evaluate.evaluate(config, tmp_path / "a")["sums"]
    assert (metrics["n"], metrics["correct"], metrics["truncated"]) == (3, 0, 3)
    assert "3 of 3 prompts do not fit" in metrics["warnings"][0]


def test_limit_draws_the_same_nested_problems(model: Path, data: Path, tmp_path: Path) -> None:
    drawn = []
    for limit in (3, 6):
        evaluate.evaluate(make_config(model, data, limit=limit), tmp_path / str(limit))
        lines = (tmp_path / str(limit) / "sums" / "scores.jsonl").read_text().splitlines()
        drawn.append({json.loads(line)["id"] for line in lines})
    assert len(drawn[0]) == 3
    assert drawn[0] < drawn[1]


def cut(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def no_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "cut off or damaged"),
        (lambda m: (m / "model.safetensors").unlink(), "no .safetensors"),
        (lambda m: (m / "config.json").unlink(), "config.json"),
        (lambda m: (m / "config.json").write_text("{"), "config.json"),
        (no_template, "chat template"),
    ],
)
def test_broken_folders_are_one_sentence(model: Path, data: Path, tmp_path: Path, damage, says: str) -> None:
    damage(model)
    config = make_config(model, data)
    config.eval.prompt = PromptConfig()
    with pytest.raises(UserError, match=says) as error:
        evaluate.evaluate(config, tmp_path / "a")
    assert "\n" not in str(error.value)


def test_other_mistakes(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        evaluate.evaluate(make_config(model, tmp_path / "none.jsonl"), tmp_path / "a")
    with pytest.raises(UserError, match="only 11 problems"):
        evaluate.evaluate(make_config(model, data, limit=12), tmp_path / "a")
    with pytest.raises(UserError, match="same completion"):
        evaluate.evaluate(make_config(model, data, samples=2), tmp_path / "a")


@pytest.mark.slow
def test_vllm_gives_the_same_completions(model: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("vllm")
    torch.manual_seed(0)
    # 8 is too small for it
    sizes = {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
    }
    tiny = LlamaConfig.from_pretrained(model, **sizes)
    LlamaForCausalLM(tiny).save_pretrained(model)
    completions = {}
    for engine in ("hf", "vllm"):
        evaluate.evaluate(make_config(model, data, engine), tmp_path / engine)
        lines = (tmp_path / engine / "sums" / "generations.jsonl").read_text().splitlines()
        completions[engine] = [{k: v for k, v in json.loads(line).items() if k != "key"} for line in lines]
    assert completions["hf"] == completions["vllm"]
