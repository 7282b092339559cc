"""Grading of solutions whose every step is known (`generated:chains`): the final answer, and the steps on the way.

The gold is JSON with answer, steps and distractors, as the world's rows hold them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.eval.grading.answers import answer_metrics, grade_answers
from mft_cli.eval.journal import Record

STATEMENT = re.compile(r"\s*([A-Za-z]+)\s*=(?:.*=)?\s*(-?\d+)\s*")  # b = a + 3 = 7 says that b is 7


def grade_steps(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """The scores of answer type number, each with what `verdicts` says of its steps. Raises UserError as those do."""
    scores = grade_answers(records, replace(benchmark, answer_type="number"), config)
    for record, score in zip(records, scores, strict=True):
        score |= verdicts(record["completion"], json.loads(record["gold"]))
    return scores


def verdicts(completion: str, gold: Record) -> Record:
    """right_steps: share of the needed steps that are stated with their value; first_wrong: the first that is not, from 0.

    irrelevant: share of the stated steps that the answer does not need. A name's first statement counts.
    """
    stated: dict[str, int] = {}
    for part in re.split(r"[;.]", completion.partition("####")[0]):
        if match := STATEMENT.fullmatch(part):
            stated.setdefault(match[1], int(match[2]))
    right = [stated.get(step["name"]) == step["value"] for step in gold["steps"]]
    needed = {step["name"] for step in gold["steps"]}
    return {
        "right_steps": sum(right) / len(right),
        "first_wrong": right.index(False) if not all(right) else None,
        "irrelevant": sum(name not in needed for name in stated) / max(1, len(stated)),
    }


def step_metrics(scores: Sequence[Record]) -> Record:
    """Means over completions, and how often each step is the first wrong one (from 0; null: none is)."""
    first = Counter("none" if s["first_wrong"] is None else str(s["first_wrong"]) for s in scores)
    means = {name: fmean(score[name] for score in scores) for name in ("right_steps", "irrelevant")}
    return {**answer_metrics(scores), "steps": {**means, "first_wrong": dict(sorted(first.items()))}}
