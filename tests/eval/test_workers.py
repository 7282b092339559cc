"""Answers that would hang, crash or fill the memory cost themselves and nothing else."""

import json
import time
from pathlib import Path

from mft_cli.eval.score import score_file
from mft_cli.eval.workers import DIFFERENT, EQUAL, TIMED_OUT, compare
from mft_cli.schema import BenchmarkConfig, EvalConfig


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


def test_nothing_to_compare_starts_nothing() -> None:
    assert compare([], workers=2, timeout_s=1.0) == []


def test_hostile_completions_in_a_file(tmp_path: Path) -> None:
    texts = ["#### 5", r"\boxed{9^{9^{9^9}}}", "#### " + "9" * 2_000_000, "{" * 20_000, "#### \0", r"\boxed{\sqrt{25}}"]
    lines = [{"id": str(i), "sample": 0, "completion": text, "gold": "5"} for i, text in enumerate(texts)]
    file = tmp_path / "generations.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = EvalConfig(answer_timeout_s=1.0, score_workers=1)
    metrics = score_file(file, "x", BenchmarkConfig(), tmp_path, eval_config=config)
    assert (metrics["correct"], metrics["n"], metrics["timed_out"]) == (2, 6, 1)
    assert metrics["unparsed"] >= 2
