"""Dependence on the true graph: what is corrupted, and a model that can only look at what is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mft_cli.analysis import graph
from mft_cli.analysis.known_rows import known_rows, other_number
from mft_cli.config.compose import compose_values
from mft_cli.config.schema.inputs import PromptConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.validate import build
from mft_cli.data.chain_wording import vocabulary
from mft_cli.data.prompts import Renderer
from mft_cli.data.sources import Row
from mft_cli.errors import UserError
from mft_cli.models.new_model import tokenizer_of

WORDINGS = [{}, {"modulus": None, "wording": "sentences"}]


def laboratory(**options: object) -> TrainConfig:
    values = compose_values("train", ["model=local", "model.path=x", "data=chains", "prompt=raw"])
    values["data"]["sources"]["chains"]["options"] = options
    return build(TrainConfig, values)


@pytest.fixture
def renderer() -> Renderer:
    tokenizer = tokenizer_of(vocabulary())
    tokenizer.pad_token = tokenizer.eos_token
    return Renderer(tokenizer, PromptConfig(name="raw", kind="template", template="{question}\n"))


@pytest.mark.parametrize("options", WORDINGS, ids=str)
def test_every_definition_and_every_value_is_corrupted_by_itself(options: dict):
    for row in known_rows(laboratory(**options), 20, with_steps=True):
        variants = list(graph.corruptions(row, seed=0))
        definitions = [v for v in variants if v.value is None]
        assert len(definitions) == len(row.meta["steps"]) + len(row.meta["distractors"])
        assert [list(v.span) for v in definitions if list(v.span) in [s["definition"] for s in row.meta["steps"]]]
        for v in variants:
            assert (v.question != row.question) == (v.value is None)
            assert (v.response != row.response) == (v.value is not None)
        spans = [list(v.span) for v in definitions]
        assert all(step["definition"] in spans for step in row.meta["steps"])


class Knows(torch.nn.Module):
    """Predicts the response as it stands for a row if a step's own definition and needed values are there, else worse."""

    def __init__(self, row: Row, renderer: Renderer):
        super().__init__()
        self.clean, self.start, self.offsets = graph.encode(
            renderer, graph.Corrupted(row.question, row.response, (0, 0), None)
        )
        self.row, self.renderer = row, renderer
        question = renderer.tokenizer(row.question, return_offsets_mapping=True)["offset_mapping"]
        self.needs = []
        for (low, high), step in zip(graph.behind_names(row), row.meta["steps"], strict=True):
            spans = [row.meta["steps"][n]["value_at"] for n in step["needs"]]
            tokens = [
                t for t, (a, b) in enumerate(question) if a >= step["definition"][0] and b <= step["definition"][1]
            ]
            tokens += [
                self.start + t for t, (a, b) in enumerate(self.offsets) if any(b > s and a < e for s, e in spans)
            ]
            predicted = [self.start + t - 1 for t, (a, b) in enumerate(self.offsets) if a >= low and b <= high]
            self.needs.append((tokens, predicted))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        logits = torch.zeros(*input_ids.shape, 400)
        for i, ids in enumerate(input_ids.tolist()):
            for tokens, predicted in self.needs:
                if all(ids[t] == self.clean[t] for t in tokens):
                    for p in predicted:
                        logits[i, p, self.clean[p + 1]] = 5.0
        return type("Out", (), {"logits": logits})()


@pytest.mark.parametrize("options", WORDINGS, ids=str)
def test_a_model_that_follows_the_graph_has_an_auroc_of_one(renderer: Renderer, options: dict):
    for row in known_rows(laboratory(**options), 5, with_steps=True):
        facts = graph.measured(Knows(row, renderer), renderer, [row], 0, torch.device("cpu"))
        assert facts["auroc"] == 1.0
        assert facts["needed"] > 5
        assert facts["not_needed"] == 0


def test_rows_without_steps_are_refused(tmp_path: Path):
    values = compose_values("train", ["model=local", "model.path=x", "data=gsm_symbolic"])
    with pytest.raises(UserError, match=r"data.sources.gsm_symbolic: its rows carry no steps; take a generated world"):
        known_rows(build(TrainConfig, values), 2, with_steps=True)


def test_a_row_that_cannot_be_read_is_left_out_where_the_advice_is_followed(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1?", "answer": "2"}\nbroken\n')
    values = compose_values("train", ["model=local", "model.path=x", "data=local", "prompt=raw"])
    values["data"]["sources"]["local"] |= {
        "path": str(tmp_path / "rows.jsonl"), "question": "question", "response": "answer", "answer": "answer",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"rows\.jsonl:2.* data\.on_bad_row=drop"):
        known_rows(build(TrainConfig, values), 5, with_steps=False)
    values["data"]["on_bad_row"] = "drop"
    assert [row.answer for row in known_rows(build(TrainConfig, values), 5, with_steps=False)] == ["2"]


def test_another_number_has_as_many_digits():
    from random import Random

    for number in ("0", "7", "10", "99", "123"):
        others = {other_number(Random(i), number) for i in range(200)}
        assert number not in others
        assert {len(n) for n in others} == {len(number)}
