"""Grading of completions by verifiable instructions: each followed or not, strictly and loosely.

The gold is JSON with instruction_id_list, kwargs (one object of arguments an instruction) and prompt. A completion is
correct if it follows all of its instructions strictly.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.errors import UserError
from mft_cli.eval.grading.graders import OK, UNPARSED, visible_text
from mft_cli.eval.grading.ifeval import follows
from mft_cli.eval.grading.language import detector
from mft_cli.eval.journal import Record
from mft_cli.files import digest_of
from mft_cli.stats import intervals


def grade_instructions(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """A score for each record, with `instructions`, `strict` and `loose` (a truth value an instruction).

    Raises UserError for a gold without the fields, an unknown instruction, or where langdetect is needed and missing.
    """
    return [_score(record) for record in records]


def _score(record: Record) -> Record:
    instructions, arguments = read_gold(record)
    text = visible_text(record)
    strict = [follows(i, a, text) for i, a in zip(instructions, arguments, strict=True)]
    loose = [
        kept or any(follows(i, a, variant) for variant in loose_variants(text))
        for i, a, kept in zip(instructions, arguments, strict, strict=True)
    ]
    return {
        "id": record["id"], "sample": record.get("sample", 0), "gold": digest_of(record["gold"]), "answer": None,
        "correct": all(strict), "status": OK if text.strip() else UNPARSED,
        "instructions": instructions, "strict": strict, "loose": loose,
    }  # fmt: skip


def need_language_detection(config: EvalConfig) -> None:
    """Raises UserError if langdetect is not installed."""
    detector()


def read_gold(record: Record) -> tuple[list[str], list[dict[str, Any]]]:
    """The instructions of a problem and the arguments of each. Raises UserError if they are not there."""
    try:
        gold = json.loads(record["gold"])
        instructions, arguments = gold["instruction_id_list"], gold["kwargs"]
        return [str(i) for _, i in zip(arguments, instructions, strict=True)], [dict(a) for a in arguments]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"problem {record['id']}: the gold is not JSON with instruction_id_list and as many kwargs; an instruction "
            "benchmark needs gold_fields: [instruction_id_list, kwargs, prompt]"
        ) from None


def loose_variants(text: str) -> list[str]:
    """The text without its first line, its last, or both; and each of the four without asterisks (section 2.2)."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(part.replace("*", "") for part in cut)]


def instruction_metrics(scores: Sequence[Record]) -> dict[str, object]:
    """Prompt- and instruction-level accuracy, strict and loose, and each kind of instruction by itself.

    Intervals: Wilson for one verdict a problem, as the accuracy's; else a bootstrap over problems, since the
    instructions of one completion are not independent.
    """
    accuracies: dict[str, object] = {}
    for how in ("strict", "loose"):
        groups = _by_problem(scores, how)
        accuracies[f"prompt_{how}"] = _mean([[all(sample) for sample in group] for group in groups])
        accuracies[f"instruction_{how}"] = _mean([[ok for sample in group for ok in sample] for group in groups])
    return {"instruction_following": {**accuracies, "by_instruction": _by_instruction(scores)}}


def _by_problem(scores: Sequence[Record], how: str) -> list[list[list[bool]]]:
    groups: dict[str, list[list[bool]]] = defaultdict(list)
    for score in scores:
        groups[score["id"]].append(score[how])
    return list(groups.values())


def _mean(groups: list[list[bool]]) -> dict[str, object]:
    """The mean over all values; Wilson's interval, or a bootstrap over the groups (their sums over their counts)."""
    right, of = [sum(g) for g in groups], [len(g) for g in groups]
    value = math.fsum(right) / sum(of)
    weight = len(groups) / sum(of)  # linearised ratio: each group's excess over the mean
    if max(of) == 1 or value in (0.0, 1.0):  # a bootstrap of equal values has an interval of no width
        return {
            "value": value,
            "interval": list(intervals.wilson(round(value * len(groups)), len(groups))),
            "n": sum(of),
        }
    low, high = intervals.bootstrap_mean([value + weight * (r - value * n) for r, n in zip(right, of, strict=True)])
    return {"value": value, "interval": [max(0.0, low), min(1.0, high)], "n": sum(of)}


def _by_instruction(scores: Sequence[Record]) -> dict[str, object]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for score in scores:
        for name, strict, loose in zip(score["instructions"], score["strict"], score["loose"], strict=True):
            counts[name] = [a + b for a, b in zip(counts[name], (1, strict, loose), strict=True)]
    return {name: {"n": n, "strict": s, "loose": v} for name, (n, s, v) in sorted(counts.items())}
