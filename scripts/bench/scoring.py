"""Answers a second: extraction and comparison of completions on two worker processes, as `mft score` does it.

    MFT_DATA_DIR=... python scripts/bench/scoring.py [--workers 2] [--seconds-limit 5]

Without MFT_DATA_DIR the completions are made up. Four kinds: GSM8K-like (solution and "#### 72"), MATH-like with the
gold answer in a box (decided at once), MATH-like where the answer of another problem stands in the box (nearly all are
decided at once), and MATH-like with "0 +" before the gold: what is no plain number goes to the workers, whose
start is part of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from mft_cli.answers.extraction import boxed
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.eval.grading.graders import grade


def read(name: str) -> list[dict[str, Any]]:
    file = Path(os.environ.get("MFT_DATA_DIR", "")) / name
    if not os.environ.get("MFT_DATA_DIR") or not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def gsm8k() -> list[tuple[str, str]]:
    """(gold, completion): half with the marker, half in a sentence; a third of them wrong."""
    rows = read("gsm8k/test.jsonl") or [
        {"answer": f"Add 48 and {i}: 48+{i}={48 + i}.\n#### {48 + i}"} for i in range(1319)
    ]
    pairs = []
    for i, row in enumerate(rows):
        solution, _, gold = row["answer"].rpartition("####")
        said = gold.strip() if i % 3 else str(i)
        pairs.append((gold.strip(), f"{solution}\n#### {said}" if i % 2 else f"{solution}\nThe answer is ${said}."))
    return pairs


def math(shift: int, before: str = "") -> list[tuple[str, str]]:
    rows = read("math500/test.jsonl") or [
        {"answer": rf"\frac{{{i}\sqrt{{3}}}}{{7}}", "solution": rf"So \boxed{{{i}}}."} for i in range(1, 501)
    ]
    return [(row["answer"], completion(row, rows[(i + shift) % len(rows)], before)) for i, row in enumerate(rows)]


def completion(row: dict[str, Any], other: dict[str, Any], before: str) -> str:
    return str(row["solution"]).replace(boxed(row["solution"])[0], before + other["answer"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds-limit", type=float, default=5.0, help="eval.answer_timeout_s")
    options = parser.parse_args()
    config = EvalConfig(score_workers=options.workers, answer_timeout_s=options.seconds_limit)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {options.workers} workers")
    kinds = (
        ("GSM8K-like", "number", gsm8k()),
        ("MATH-like, gold", "math", math(0)),
        ("MATH-like, other", "math", math(1)),
        ("MATH-like, 0 + gold", "math", math(0, "0 + ")),
    )
    for name, kind, pairs in kinds:
        records = [
            {"id": str(i), "sample": 0, "gold": gold, "completion": text, "finish_reason": "stop"}
            for i, (gold, text) in enumerate(pairs)
        ]
        start = time.perf_counter()
        scores = grade(records, BenchmarkConfig(answer_type=kind, markers=["####"], last_number=True), config)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        right = sum(s["correct"] for s in scores)
        print(
            f"{name:19} {len(pairs):5} answers, {right:4} right, {seconds:6.2f} s: {len(pairs) / seconds:7.0f} answers/s"
        )


if __name__ == "__main__":
    main()
