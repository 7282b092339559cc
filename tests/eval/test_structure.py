"""A model with a critique's tags as special tokens: they stay in what is stored, and the format is a metric."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mft_cli.answers.critique_format import TAGS
from mft_cli.eval import session
from mft_cli.eval.engines.base import Engine, Request, Sampling, finish
from mft_cli.eval.engines.hf import HfEngine
from mft_cli.eval.evaluate import evaluate
from mft_cli.models.vocabulary import extend_model, structure_tokens
from tests.support.sums import lines, on_model, sums, write_sums

CRITIQUE = "<think><critique>good</critique><reasoning>2+2=4</reasoning></think><ans>\\boxed{4}</ans>"


@pytest.fixture
def critic(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with the eight tags."""
    folder = shutil.copytree(tiny_model, tmp_path / "critic")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    extend_model(model, tokenizer, list(TAGS))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Scripted(Engine):
    """Answers every request with the ids of one text and an end token."""

    def __init__(self, tokenizer, text: str):
        self.tokenizer, self.text = tokenizer, text

    def units(self, requests, done):
        return [[i] for i in range(len(requests)) if i not in done]

    def run(self, source, sampling, report, tokens):
        ids = [*self.tokenizer(self.text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        for unit in source.more(0):
            for index, _ in unit:
                report(index, finish(self.tokenizer, ids, sampling))

    def close(self):
        pass


@pytest.mark.parametrize(("text", "share"), [(CRITIQUE, 1.0), ("2+2=4", 0.0)])
def test_tags_are_stored_and_the_format_is_measured(critic: Path, tmp_path: Path, monkeypatch, capsys, text, share):
    monkeypatch.setattr(session, "load_engine", lambda loading, tokenizer, config: Scripted(tokenizer, text))
    metrics = evaluate(on_model(critic, sums(write_sums(tmp_path, 3)), gold_logprob=False), tmp_path / "eval")["sums"]
    stored = lines(tmp_path / "eval" / "sums" / "generations.jsonl")
    assert [line["completion"].replace(" ", "") for line in stored] == [text] * 3
    assert metrics["format_adherence"]["format"] == share
    assert json.loads((tmp_path / "eval" / "sums" / "metrics.json").read_text())["format_adherence"]["n"] == 3
    assert f"sums: format {100 * share:.1f} % (all tags" in capsys.readouterr().out


def test_a_model_without_the_tags_has_no_such_metric(tiny_model: Path, tmp_path: Path) -> None:
    metrics = evaluate(on_model(tiny_model, sums(write_sums(tmp_path, 2))), tmp_path / "eval")["sums"]
    assert "format_adherence" not in metrics


def test_a_tag_can_be_a_stop_text(critic: Path) -> None:
    """The loop stops at a special token's text, too, instead of going on to the token limit."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(critic).eval(), AutoTokenizer.from_pretrained(critic)
    tag = tokenizer.convert_tokens_to_ids("</ans>")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.get_output_embeddings().bias = torch.nn.Parameter(
            torch.zeros(len(tokenizer)).index_fill(0, torch.tensor(tag), 1.0)
        )
    sampling = Sampling(0.0, 1.0, ("</ans>",), (2,), kept_special=structure_tokens(tokenizer))
    made = {}
    HfEngine(model, tokenizer, 1).generate(
        [Request((1, 50, 60), 12)], set(), sampling, made.__setitem__, lambda count: None
    )
    assert (made[0].text, made[0].finish_reason, made[0].tokens) == ("", "stop", 1)
