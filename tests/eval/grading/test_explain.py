"""The steps of a verdict, as `mft score --explain ID` prints them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import SourceConfig
from mft_cli.errors import UserError
from mft_cli.eval.grading.explain import explain_file
from mft_cli.eval.score import score_file

BENCHMARK = BenchmarkConfig(markers=["####"], last_number=True)
TEXTS = {
    "a": "<think>5?</think>#### Step 2: add\n\\boxed{7 \\text{ in 2 days}}",
    "b": "7 remain.",
    "c": "<think>7",
    "e": "Wait, the answer is 7? No.",
    "f": "So she has **7** eggs. This takes 9.",
    "d": "#### 7\n\nQuestion: and 8?\n#### 8",
}


@pytest.fixture
def completions(tmp_path: Path) -> Path:
    lines = [{"id": id, "completion": text, "gold": "7"} for id, text in TEXTS.items()]
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "g.jsonl"


@pytest.mark.parametrize(
    ("id", "steps"),
    [
        ("a", ["thoughts end at character 17", "read as '7'", "from box", "verdict: right, status ok"]),
        ("b", ["answer: '7' from last_number", "verdict: right"]),
        ("c", ["the thought is still open", "verdict: wrong, status unparsed"]),
        ("e", ["announcement: '7? No.': states nothing", "status unparsed"]),
        ("f", ["answer: '7' from conclusion, characters 13 to 14", "verdict: right"]),
        ("d", ["cut where a new question begins: 'Question: and 8?", "answer: '7' from marker"]),
    ],
)
def test_steps(completions: Path, id: str, steps: list[str]) -> None:
    text = explain_file(completions, "x", BENCHMARK, EvalConfig(), id)
    assert [step for step in steps if step not in text] == [], text


def test_a_file_that_lacks_other_problems_is_explained(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"question": f"{n}?", "answer": str(n)}) + "\n" for n in range(3)))
    (tmp_path / "g.jsonl").write_text(json.dumps({"id": 1, "completion": "#### 1 egg in 4 weeks"}) + "\n")
    benchmark = BenchmarkConfig(source=SourceConfig(path=str(data), response="answer"), markers=["####"])
    assert "verdict: right" in explain_file(tmp_path / "g.jsonl", "x", benchmark, EvalConfig(), "1")


def test_unknown_id(completions: Path) -> None:
    with pytest.raises(UserError, match=r"--explain z: .* has no such problem"):
        explain_file(completions, "x", BENCHMARK, EvalConfig(), "z")


def test_metrics_count_where_answers_come_from(completions: Path, tmp_path: Path) -> None:
    metrics = score_file(completions, "x", BENCHMARK, tmp_path / "s")
    assert metrics["answer_from"] == {"box": 1, "conclusion": 1, "last_number": 1, "marker": 1, "none": 2}
    assert metrics["scoring_version"] == 4
    assert any(
        "2 of 6 answers are a conclusion's number or the last number" in warning for warning in metrics["warnings"]
    )
    scores = [json.loads(line) for line in (tmp_path / "s" / "scores.jsonl").read_text().splitlines()]
    start, end = scores[0]["answer_span"]
    assert (scores[0]["answer_from"], TEXTS["a"][start:end]) == ("box", "7")
