"""Verdicts on the steps of a solution whose truth is known."""

from __future__ import annotations

import json

import pytest

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.data.generated import generate
from mft_cli.eval.grading.graders import grade, more_metrics
from mft_cli.eval.grading.steps import verdicts

GOLD = {
    "steps": [{"name": "a", "value": 4}, {"name": "b", "value": 7}, {"name": "c", "value": 1}],
    "distractors": ["d"],
}


@pytest.mark.parametrize(
    ("completion", "right", "first", "irrelevant"),
    [
        ("a = 4; b = a + 3 = 4 + 3 = 7; c = b + a = 7 + 4 = 1. #### 1", 1.0, None, 0.0),
        ("a = 4; b = 7; c = 1. #### 1", 1.0, None, 0.0),
        ("a = 4; b = a + 3 = 4 + 3 = 8; c = 1. #### 1", 2 / 3, 1, 0.0),
        ("a = 4; d = 2; c = 1. #### 1", 2 / 3, 1, 1 / 3),
        ("a = 5; a = 4; b = 7; c = 1. #### 1", 2 / 3, 0, 0.0),  # the first statement counts
        ("a + b + c. #### 1", 0.0, 0, 0.0),
        ("", 0.0, 0, 0.0),
    ],
)
def test_verdicts(completion: str, right: float, first: int | None, irrelevant: float):
    assert verdicts(completion, GOLD) == {"right_steps": right, "first_wrong": first, "irrelevant": irrelevant}


@pytest.mark.parametrize("options", [{}, {"redundancy": "value"}, {"modulus": None, "wording": "sentences"}], ids=str)
def test_the_worlds_own_solutions_are_right_in_every_step(options: dict):
    records = [
        {"id": str(i), "completion": row["response"], "gold": json.dumps({k: row[k] for k in ("answer", "steps", "distractors")})}
        for i, row in enumerate(generate("generated:chains", "test", 40, options))
    ]  # fmt: skip
    benchmark = BenchmarkConfig(answer_type="steps", markers=["####"])
    scores = grade(records, benchmark, EvalConfig())
    assert all(s["correct"] and s["right_steps"] == 1 for s in scores)
    assert more_metrics(scores, benchmark)["steps"] == {
        "right_steps": 1.0,
        "irrelevant": 0.0,
        "first_wrong": {"none": 40},
    }
