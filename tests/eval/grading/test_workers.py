"""Answers that would hang, crash or fill the memory cost themselves and nothing else."""

import json
import time
from pathlib import Path

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.eval.grading.graders import grade
from mft_cli.eval.grading.workers import DIFFERENT, EQUAL, TIMED_OUT, compare
from mft_cli.eval.score import score_file


def test_slow_answers_are_killed_and_the_rest_is_right() -> None:
    pairs = [
        ("5", r"\sqrt{25}"),
        ("5", "9^{9^{9^9}}"),
        ("5", "{" * 10_000 + "5" + "}" * 10_000),
        ("5", "\0"),
        ("5", "2+3"),
        ("6", "2+3"),
    ]
    start = time.monotonic()
    found = compare([{"gold": g, "answer": a} for g, a in pairs], workers=2, timeout_s=1.0)
    assert [found[0], found[4], found[5], found[3]] == [EQUAL, EQUAL, DIFFERENT, DIFFERENT]
    assert found[1] == TIMED_OUT
    assert found[2] != EQUAL
    assert time.monotonic() - start < 60


HOSTILE = {
    "tower": r"\boxed{9^{9^{9^9}}}",
    "factorials": r"\boxed{((9!)!)!}",
    "braces": r"\boxed{" + "{" * 10_000 + "5" + "}" * 10_000 + "}",
    "open braces": r"\boxed{" * 10_000,
    "digits": r"\boxed{" + "9" * 3_000_000 + "}",
    "many digits behind the phrase": "The answer is " + "7" * 900,
    "nul": "\\boxed{5\0}",
    "fractions": r"\boxed{" + r"\frac{1}{" * 60 + "2" + "}" * 60 + "}",
    "roots": r"\boxed{" + r"\sqrt{2+" * 45 + "2" + "}" * 45 + "}",
    "signs": r"\boxed{" + r"\pm 1 " * 100 + "}",
    "commas": r"\boxed{" + "," * 900 + "}",
    "list": r"\boxed{" + ",".join(rf"\sqrt{{{i}}}" for i in range(100)) + "}",
    "brackets": r"\boxed{" + "(" * 450 + "1,2" + ")" * 450 + "}",
    "dollars": "The answer is " + "$" * 100_000,
    "phrases": "the answer is $" * 50_000,
    "text": r"The answer is " + r"\text{" * 100_000,
    "surrogate": "\\boxed{\ud800}",
    "matrix": r"\boxed{\begin{pmatrix}" + r"1 & 2 \\ " * 80 + r"\end{pmatrix}}",
    "sum": r"\boxed{\sum_{n=1}^{10^{9}} \frac{1}{n^{3/2}}}",
}


def test_hostile_latex_costs_its_time_and_one_wrong_answer() -> None:
    """Between good answers, which all stay right. Each hostile one may cost its limit and a new worker's start."""
    records = []
    for i, text in enumerate(HOSTILE.values()):
        records.append({"id": f"bad{i}", "sample": 0, "gold": r"\frac{\sqrt{3}}{2}", "completion": text})
        good = rf"So \boxed{{\sin 60^\circ + {i} - {i}}}."
        records.append({"id": f"good{i}", "sample": 0, "gold": r"\frac{\sqrt{3}}{2}", "completion": good})
    start = time.monotonic()
    scores = grade(records, BenchmarkConfig(answer_type="math"), EvalConfig(answer_timeout_s=2.0))
    assert time.monotonic() - start < 60
    assert [s["correct"] for s in scores[1::2]] == [True] * len(HOSTILE)
    assert [s["correct"] for s in scores[0::2]] == [False] * len(HOSTILE)
    assert scores[0]["status"] == "timed_out"


def test_nothing_to_compare_starts_nothing() -> None:
    assert compare([], workers=2, timeout_s=1.0) == []


def test_hostile_completions_in_a_file(tmp_path: Path) -> None:
    texts = ["#### 5", r"\boxed{9^{9^{9^9}}}", "#### " + "9" * 2_000_000, "{" * 20_000, "#### \0", r"\boxed{\sqrt{25}}"]
    lines = [{"id": str(i), "sample": 0, "completion": text, "gold": "5"} for i, text in enumerate(texts)]
    file = tmp_path / "generations.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = EvalConfig(answer_timeout_s=1.0, score_workers=1)
    metrics = score_file(file, "x", BenchmarkConfig(markers=["####"]), tmp_path, eval_config=config)
    assert (metrics["correct"], metrics["n"], metrics["timed_out"]) == (2, 6, 1)
    assert metrics["unparsed"] >= 2
