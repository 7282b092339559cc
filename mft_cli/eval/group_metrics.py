"""Benchmarks whose problems are variants of base problems, such as GSM-IC: accuracy by base problem, and against it.

After Shi et al. 2023 (arXiv 2302.00093, section 4). The words differ: what is `robust` here (a base problem counts only
if every variant is right) is their macro accuracy; `macro` here is the mean over base problems of the share that is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mft_cli.eval import stats
from mft_cli.eval.graders import gold_parts
from mft_cli.eval.journal import Record, read_lines
from mft_cli.schema import BenchmarkConfig


def group_metrics(
    records: Sequence[Record], scores: Sequence[Record], benchmark: BenchmarkConfig, out: Path
) -> dict[str, Any]:
    """{"groups": {...}} for a benchmark with `group`, else nothing. Notes the base problem in every score as `group`.

    problems           base problems
    accuracy_interval  95 % interval of the accuracy over variants, by a bootstrap over base problems
    macro_accuracy     mean over base problems of the share of variants that are right, with macro_interval
    robust_accuracy    share of base problems of which every variant (every sample) is right, with robust_interval
    clean_accuracy     accuracy on these base problems themselves: benchmark `clean`, evaluated beside this one; else null
    normalised_accuracy, normalised_robust_accuracy   accuracy and robust accuracy divided by clean_accuracy
    """
    groups: dict[str, list[bool]] = {}
    for record, score in zip(records, scores, strict=True):
        if benchmark.group is None or (group := gold_parts(record["gold"]).get("group")) is None:
            return {}
        score["group"] = group
        groups.setdefault(group, []).append(bool(score["correct"]))
    shares = [sum(right) / len(right) for right in groups.values()]
    robust = sum(all(right) for right in groups.values())
    found: dict[str, Any] = {
        "problems": len(groups),
        "accuracy_interval": list(bootstrap_ratio([(sum(g), len(g)) for g in groups.values()])),
        "macro_accuracy": math.fsum(shares) / len(groups),
        "macro_interval": list(stats.bootstrap_mean(shares)),
        "robust_accuracy": robust / len(groups),
        "robust_interval": list(stats.wilson(robust, len(groups))),
    }
    accuracy = sum(s["correct"] for s in scores) / len(scores)
    return {"groups": {**found, **against_clean(accuracy, robust / len(groups), list(groups), benchmark, out)}}


def bootstrap_ratio(pairs: Sequence[tuple[int, int]], seed: int = 0, draws: int = stats.DRAWS) -> tuple[float, float]:
    """95 % percentile interval of sum of (right) / sum of (all), groups drawn with replacement (Efron 1979)."""
    values = np.asarray(pairs, dtype=np.float64)
    drawn = np.random.default_rng(seed).multinomial(len(pairs), [1 / len(pairs)] * len(pairs), size=draws) @ values
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(low), float(high)


def against_clean(
    accuracy: float, robust: float, groups: list[str], benchmark: BenchmarkConfig, out: Path
) -> dict[str, Any]:
    """Accuracy on the clean base problems, and both accuracies divided by it; null where that is not known or zero."""
    clean = clean_accuracy(groups, out.parent / benchmark.clean / "scores.jsonl") if benchmark.clean else None
    return {
        "clean_accuracy": clean,
        "normalised_accuracy": accuracy / clean if clean else None,
        "normalised_robust_accuracy": robust / clean if clean else None,
    }


def clean_accuracy(groups: list[str], scores: Path) -> float | None:
    """Mean accuracy on the base problems `groups`; None unless all of them were scored."""
    right: dict[str, list[bool]] = {}
    for line in read_lines(scores)[0] if scores.is_file() else ():
        right.setdefault(str(line.get("group")), []).append(bool(line.get("correct")))
    if not all(group in right for group in groups):
        return None
    return math.fsum(sum(right[g]) / len(right[g]) for g in groups) / len(groups)
