"""Benchmarks whose problems are variants of base problems, such as GSM-IC: accuracy by base problem, and against it.

After Shi et al. 2023 (arXiv 2302.00093, section 4). The words differ: what is `robust` here (a base problem counts only
if every variant is right) is their macro accuracy; `macro` here is the mean over base problems of the share that is right.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.eval.grading.graders import gold_parts
from mft_cli.eval.journal import Record, read_lines
from mft_cli.eval.metrics_file import Metrics
from mft_cli.files import JsonObject
from mft_cli.stats import intervals

MOST_VALUES = 12  # of a label that are told apart: GSM-IC has hundreds of sentence templates


def group_metrics(
    records: Sequence[Record], scores: Sequence[Record], benchmark: BenchmarkConfig, out: Path
) -> JsonObject:
    """{"groups": {...}} for a benchmark with `group`, else nothing. Notes the base problem in every score as `group`.

    problems           base problems
    accuracy_interval  95 % interval of the accuracy over variants, by a bootstrap over base problems
    macro_accuracy     mean over base problems of the share of variants that are right, with macro_interval
    robust_accuracy    share of base problems of which every variant (every sample) is right, with robust_interval
    clean_accuracy     accuracy on these base problems themselves: benchmark `clean`, evaluated in the same run; else null
    normalised_accuracy, normalised_robust_accuracy   accuracy and robust accuracy divided by clean_accuracy
    labels             {field: {value: `of_label`}} for the fields `labels` of the benchmark that the rows have
    """
    if benchmark.group is None:
        return {}
    parts = [gold_parts(record["gold"]) for record in records]
    if any(part.get("group") is None for part in parts):
        return {}
    for part, score in zip(parts, scores, strict=True):
        score["group"] = part["group"]
    groups = by_base_problem(scores)
    bases = list(dict.fromkeys(part["group"] for part in parts))
    accuracy = sum(s["correct"] for s in scores) / len(scores)
    groups |= against_clean(accuracy, groups["robust_accuracy"], bases, benchmark, out)
    return {"groups": {**groups, "labels": by_label([part.get("labels") or {} for part in parts], scores)}}


def by_base_problem(scores: Sequence[Record]) -> JsonObject:
    """Accuracies over base problems of scores that have their `group`."""
    groups: dict[str, list[bool]] = {}
    for score in scores:
        groups.setdefault(score["group"], []).append(bool(score["correct"]))
    shares = [sum(right) / len(right) for right in groups.values()]
    robust = sum(all(right) for right in groups.values())
    return {
        "problems": len(groups),
        "accuracy_interval": list(intervals.bootstrap_ratio([(sum(g), len(g)) for g in groups.values()])),
        "macro_accuracy": math.fsum(shares) / len(groups),
        "macro_interval": list(intervals.bootstrap_mean(shares)),
        "robust_accuracy": robust / len(groups),
        "robust_interval": list(intervals.wilson(robust, len(groups))),
    }


def by_label(labels: Sequence[Mapping[str, str]], scores: Sequence[Record]) -> dict[str, JsonObject]:
    """The same for each value of each label; values beyond the MOST_VALUES most frequent are together as `others`."""
    by_name: dict[str, JsonObject] = {}
    for name in dict.fromkeys(name for label in labels for name in label):
        counts = Counter(label[name] for label in labels if name in label).most_common()
        kept = sorted(value for value, _ in counts[:MOST_VALUES])
        by_name[name] = {value: of_label([s for label, s in zip(labels, scores, strict=True) if label.get(name) == value])
                       for value in kept}  # fmt: skip
        rest = [s for label, s in zip(labels, scores, strict=True) if name in label and label[name] not in kept]
        if rest:
            by_name[name][f"{len(counts) - MOST_VALUES} others"] = of_label(rest)
    return by_name


def of_label(scores: Sequence[Record]) -> JsonObject:
    """`n` completions, their `accuracy`, and what `by_base_problem` says of them alone."""
    return {"n": len(scores), "accuracy": sum(s["correct"] for s in scores) / len(scores), **by_base_problem(scores)}


def group_lines(metrics: Metrics) -> list[str]:
    """What a terminal shows of a benchmark's groups: a line for all, and one for each value of each label."""
    groups, name = metrics.get("groups"), metrics["benchmark"]
    if not groups:
        return []
    low, high = groups["accuracy_interval"]
    lines = [
        f"{name}: {groups['problems']} base problems: accuracy over variants {100 * metrics['accuracy']:.1f} % "
        f"[{100 * low:.1f}, {100 * high:.1f}], mean over base problems {100 * groups['macro_accuracy']:.1f} %, "
        f"every variant right {100 * groups['robust_accuracy']:.1f} %"
    ]
    if groups["normalised_accuracy"] is None:
        lines.append(f"{name}: accuracy on the base problems themselves is not known, so none is relative to it")
    else:
        lines.append(
            f"{name}: base problems themselves {100 * groups['clean_accuracy']:.1f} %; relative to that "
            f"{groups['normalised_accuracy']:.3f}, every variant right {groups['normalised_robust_accuracy']:.3f}"
        )
    for label, values in groups.get("labels", {}).items():
        lines += [
            f"{name}: {label}={value}: {100 * part['accuracy']:.1f} % "
            f"[{100 * part['accuracy_interval'][0]:.1f}, {100 * part['accuracy_interval'][1]:.1f}] of {part['n']}, "
            f"every variant right {100 * part['robust_accuracy']:.1f} % of {part['problems']}"
            for value, part in values.items()
        ]
    return lines


def against_clean(
    accuracy: float, robust: float, groups: list[str], benchmark: BenchmarkConfig, out: Path
) -> JsonObject:
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
