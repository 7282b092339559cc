"""Whole completions as models write them, each with its verdict and with where the answer was read; one kind a `point`.

A wrong completion's gold is mostly the value that a careless reader would take: a second number, a heading, a step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mft_cli.answers.extraction import Answer
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.eval.grading.answers import read_answer
from mft_cli.eval.grading.graders import grade

CONFIGURATIONS = Path(__file__).parents[2] / "conf" / "eval"
ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "completions.jsonl").read_text(encoding="utf-8").splitlines()
]


@cache
def benchmark(name: str) -> BenchmarkConfig:
    """What the benchmark's own YAML says about answers."""
    keys = yaml.safe_load((CONFIGURATIONS / f"{name}.yaml").read_text(encoding="utf-8"))
    return BenchmarkConfig(
        **{k: keys[k] for k in ("answer_type", "markers", "gold_marker", "last_number") if k in keys}
    )


DRESSED: dict[str, Callable[[str], str]] = {  # what changes no answer
    "line ends": lambda text: text.replace("\n", "\r\n"),
    "no-break blanks": lambda text: text.replace(" ", "\u00a0"),
    "byte order mark": lambda text: "\ufeff" + text,
    "end token": lambda text: text + "<|im_end|>",
    "end of sequence": lambda text: text + "</s>\n",
    "emoji": lambda text: text + " 😊",
    "blank lines": lambda text: "\n\n" + text + "  \n\n\n",
    "a thought": lambda text: f"<think>\nMaybe \\boxed{{98}}? The answer is 97 or D.\n</think>\n\n{text}",
}


def read(row: dict[str, Any], text: str) -> Answer | None:
    record = {"gold": row["gold"], "completion": text, "finish_reason": "stop", "prompt": row.get("prompt")}
    return read_answer(record, benchmark(row["benchmark"]))


@pytest.mark.parametrize("dress", DRESSED)
def test_what_changes_no_answer(dress: str) -> None:
    for row in ROWS:
        text = row["completion"]
        answer = read(row, text)
        if dress == "a thought" and ("think>" in text or answer is None or answer.source == "last_number"):
            continue  # there the thought's box counts
        dressed = read(row, DRESSED[dress](text))
        assert (dressed and dressed.text.split()) == (answer and answer.text.split()), text


def test_enough_of_each() -> None:
    right = sum(row["correct"] for row in ROWS)
    assert len({row["completion"] for row in ROWS}) >= 400
    assert abs(2 * right - len(ROWS)) <= 0.1 * len(ROWS)
    assert len({row["point"] for row in ROWS}) >= 25


@pytest.mark.parametrize("number", range(len(ROWS)), ids=lambda i: f"{i}-{ROWS[i]['benchmark']}-{ROWS[i]['point']}")
def test_verdict(number: int) -> None:
    row = ROWS[number]
    record = {
        "id": "x",
        "sample": 0,
        **{k: row[k] for k in ("gold", "completion", "finish_reason")},
        "prompt": row.get("prompt"),
    }
    [score] = grade([record], benchmark(row["benchmark"]), EvalConfig(score_workers=1))
    assert score["correct"] is row["correct"], score
    assert score["answer_from"] == row.get("answer_from", score["answer_from"]), score
    assert score["status"] == row.get("status", score["status"])
    if score["answer"] is None:
        assert score["status"] != "ok"
    else:
        start, end = score["answer_span"]
        assert 0 <= start < end <= len(row["completion"])
