"""Perplexity of texts, as lm-evaluation-harness has it (`loglikelihood_rolling`), and how often the next token is guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.errors import UserError
from mft_cli.eval.grading.graders import OK
from mft_cli.eval.journal import Record
from mft_cli.files import JsonObject
from mft_cli.stats import intervals

UNITS = ("token", "word", "byte")


def grade_texts_read(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """`correct` is the share of a text's tokens that are the model's first choice. Raises UserError for other files."""
    return [score(record) for record in records]


def score(record: Record) -> Record:
    if not isinstance(record.get("logprob_sum"), float) or not record.get("tokens"):
        raise UserError(f"completion {record['id']} has no logprob_sum: only files of mft eval can be scored again")
    text = str(record["prompt"])
    return {
        "id": record["id"], "sample": record.get("sample", 0), "gold": record["gold"], "answer": None, "status": OK,
        "correct": record["first_choices"] / record["tokens"], "logprob_sum": record["logprob_sum"],
        "token": record["tokens"], "word": len(re.split(r"\s+", text)), "byte": len(text.encode()),
    }  # fmt: skip


def perplexity_metrics(scores: Sequence[Record]) -> Record:
    """exp(-log-likelihood / units) over all texts, by token, word and byte; 95 % by a bootstrap over texts, null for one."""
    metrics: JsonObject = {"texts": len(scores)}
    total = math.fsum(score["logprob_sum"] for score in scores)
    for unit in UNITS:
        count = sum(score[unit] for score in scores)
        pairs = [(score["logprob_sum"], score[unit]) for score in scores]
        bounds = intervals.bootstrap_ratio(pairs) if len(scores) > 1 else None
        metrics[unit] = {
            "perplexity": math.exp(-total / count), "count": count,
            "interval": [math.exp(-bound) for bound in reversed(bounds)] if bounds else None,
        }  # fmt: skip
    metrics["bits_per_byte"] = -total / metrics["byte"]["count"] / math.log(2)
    return {"perplexity": metrics}


def perplexity_lines(name: str, metrics: JsonObject) -> list[str]:
    """What a terminal shows."""
    shown = [f"{metrics[unit]['perplexity']:.4g} a {unit}" for unit in UNITS]
    bounds = metrics["token"]["interval"]
    shown[0] += f" [{bounds[0]:.4g}, {bounds[1]:.4g}]" if bounds else ""
    counts = f"{metrics['texts']:,} texts, {metrics['token']['count']:,} tokens"
    return [f"{name}: perplexity {', '.join(shown)}; {metrics['bits_per_byte']:.4f} bits a byte ({counts})"]
