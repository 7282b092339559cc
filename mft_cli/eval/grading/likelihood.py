"""Grading of choice tasks by log-likelihood: acc, acc_norm, and the share of the probability that right options have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from string import ascii_uppercase

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.errors import UserError
from mft_cli.eval.grading.graders import OK
from mft_cli.eval.journal import Record
from mft_cli.stats import intervals

MEASURES = ("acc", "acc_norm", "right_mass")


def best(logprobs: Sequence[float], lengths: Sequence[float], normalise: str) -> int:
    """Place of the likeliest option, the first of equal ones; `normalise`=length divides by its characters."""
    values = [p / n for p, n in zip(logprobs, lengths, strict=True)] if normalise == "length" else list(logprobs)
    return values.index(max(values))


def grade_likelihood(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """Scores by the options' log-likelihoods, which a record holds. Raises UserError for one that has none."""
    return [score(record, benchmark.likelihood.normalise) for record in records]


def score(record: Record, normalise: str) -> Record:
    logprobs, lengths = record.get("option_logprobs"), record.get("option_lengths")
    if not logprobs or not lengths or len(logprobs) != len(lengths):
        raise UserError(f"completion {record['id']} has no option_logprobs: only files of mft eval can be scored again")
    right = [ascii_uppercase.index(letter) for letter in record["gold"].split(",")]
    plain, normal = best(logprobs, lengths, "none"), best(logprobs, lengths, "length")
    chosen = normal if normalise == "length" else plain
    largest = max(logprobs)
    weights = [math.exp(p - largest) for p in logprobs]
    return {
        "id": record["id"], "sample": record.get("sample", 0), "gold": record["gold"], "answer": ascii_uppercase[chosen],
        "correct": chosen in right, "status": OK, "acc": plain in right, "acc_norm": normal in right,
        "right_mass": math.fsum(weights[i] for i in right) / math.fsum(weights),
    }  # fmt: skip


def likelihood_metrics(scores: Sequence[Record]) -> Record:
    """acc, acc_norm and right_mass (TruthfulQA's MC2), each with its 95 % interval."""
    n = len(scores)
    metrics: Record = {}
    for name in MEASURES:
        values = [float(score[name]) for score in scores]
        whole = name != "right_mass"
        interval = intervals.wilson(round(sum(values)), n) if whole else intervals.bootstrap_mean(values)
        metrics[name] = {"value": math.fsum(values) / n, "interval": list(interval)}
    return {"likelihood": metrics}
