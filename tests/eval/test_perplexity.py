"""Perplexity of texts: files and rows, windows, numbers, pairing of two models, and agreement with lm-evaluation-harness."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import mft_cli
from mft_cli.errors import UserError
from mft_cli.eval.evaluate import evaluate
from mft_cli.eval.grading.perplexity import perplexity_lines, perplexity_metrics
from mft_cli.eval.ranking import windows
from mft_cli.report.wording import signed
from tests.support.harness import harness, write_jsonl

TEXTS = ["Tom has 7 apples and gives 2 of them to Ann.", "The answer is 4.\nIt is a number.  We add 5 and take 3 away."]


def evaluation(model: Path, path: Path, **more: Any) -> Any:
    settings = {
        "model.path": model, "eval.benchmarks.perplexity.source.path": path, "eval.engine": "hf", "eval.dtype": "float32",
        "launch.threads": 1, "launch.device": "cpu", **more,
    }  # fmt: skip
    return mft_cli.load_config("eval=perplexity", verb="eval", settings=settings)


def measured(model: Path, path: Path, out: Path, **more: Any) -> Any:
    return evaluate(evaluation(model, path, **more), out)["perplexity"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("texts") / "rows.jsonl", [{"text": text} for text in TEXTS])


def test_numbers_are_those_of_the_model(tiny_model: Path, tokenizer: Any, rows: Path, tmp_path: Path):
    metrics = measured(tiny_model, rows, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    total, count, hits = 0.0, 0, []
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        logprobs = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)
        total += float(logprobs.gather(1, ids[0, 1:, None]).sum().detach())
        count += ids.shape[1] - 1
        hits.append(float((logprobs.argmax(-1) == ids[0, 1:]).float().mean()))
    read = metrics["perplexity"]
    assert read["token"]["perplexity"] == pytest.approx(math.exp(-total / count), rel=1e-5)
    assert (read["texts"], read["token"]["count"], read["word"]["count"]) == (
        2,
        count,
        sum(len(t.split()) for t in TEXTS),
    )
    assert read["bits_per_byte"] == pytest.approx(-total / sum(len(t.encode()) for t in TEXTS) / math.log(2), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(sum(hits) / 2, abs=1e-6)
    low, high = read["token"]["interval"]
    assert low <= read["token"]["perplexity"] <= high
    assert metrics["gold_logprob"]["tokens"] == count


def test_a_text_file_is_one_text(tiny_model: Path, tmp_path: Path):
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join(TEXTS))
    metrics = measured(tiny_model, file, tmp_path / "out")
    assert metrics["n"] == metrics["perplexity"]["texts"] == 1
    assert metrics["perplexity"]["token"]["interval"] is None
    (record,) = (tmp_path / "out/perplexity/generations.jsonl").read_text().splitlines()
    assert json.loads(record)["prompt"] == "\n\n".join(TEXTS)


@pytest.mark.parametrize("length", [None, 9])
def test_it_agrees_with_lm_evaluation_harness(length: int | None, tiny_model: Path, rows: Path, tmp_path: Path):
    """In one window, and in several; theirs of n tokens predict n, ours hold n."""
    task = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    metric_list = [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")]
    task |= {"metric_list": metric_list}
    results = harness(tiny_model, "texts", task, {"test": rows}, max_length=length and length - 1)["results"]["texts"]
    read = measured(tiny_model, rows, tmp_path, **({"eval.max_model_len": length} if length else {}))["perplexity"]
    for unit in ("word", "byte"):
        assert read[unit]["perplexity"] == pytest.approx(results[f"{unit}_perplexity,none"], rel=1e-4)
    assert read["bits_per_byte"] == pytest.approx(results["bits_per_byte,none"], rel=1e-4)


def test_windows_predict_every_token_once():
    assert windows([1, 2, 3], 0, 8) == [([0], [1, 2, 3])]
    assert windows([1, 2, 3, 4, 5], 0, 3) == [([0], [1, 2]), ([2], [3, 4]), ([3, 4], [5])]


def test_two_models_are_paired_over_texts(
    tiny_model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folders = []
    for name, length in (("a", None), ("b", 5)):
        config = evaluation(
            tiny_model, rows, run_dir=str(tmp_path / name), **({"eval.max_model_len": length} if length else {})
        )
        folders.append(mft_cli.evaluate(config))
    summary = mft_cli.compare(*folders, out=tmp_path / "report")
    (pair,) = summary.pairs
    assert (summary.flips, summary.agreements, pair.same_text) == ([], [], None)  # nothing was generated
    said = capsys.readouterr().out
    assert f"  log-likelihood of a token, b − a: {signed(pair.gold and pair.gold.difference, 4)} [" in said
    assert "ALARM" not in said
    assert pair.refused == ""
    assert pair.gold is not None
    assert pair.gold.n == 2
    assert pair.gold.difference not in (None, 0)


def test_what_is_shown():
    scores = [{"logprob_sum": -20.0, "token": 10, "word": 8, "byte": 40}]
    metrics = perplexity_metrics(scores)["perplexity"]
    assert perplexity_lines("p", metrics) == [
        "p: perplexity 7.389 a token, 12.18 a word, 1.649 a byte; 0.7213 bits a byte (1 texts, 10 tokens)"
    ]


def test_refusals(tiny_model: Path, rows: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"eval\.benchmarks\.perplexity\.source\.path is empty"):
        mft_cli.load_config("eval=perplexity", verb="eval", settings={"model.path": tiny_model})
    with pytest.raises(UserError, match="answer_type=perplexity reads a model's own log-likelihoods once"):
        evaluation(
            tiny_model, rows, **{"eval.benchmarks.perplexity.samples": 2, "eval.benchmarks.perplexity.temperature": 1.0}
        )
    with pytest.raises(UserError, match=r"source\.response=null: perplexity needs the field with the text"):
        evaluation(tiny_model, rows, **{"eval.benchmarks.perplexity.source.response": None})
    with pytest.raises(UserError, match=r"no such file or folder"):
        evaluation(tiny_model, tmp_path / "missing.txt")
    words = ("eval=truthfulqa_mc1", "eval.benchmarks.truthfulqa_mc1.likelihood.shots=3")
    with pytest.raises(UserError, match=r"likelihood\.shots=3 needs rows that examples come from"):
        mft_cli.load_config(*words, verb="eval", settings={"model.path": tiny_model})
