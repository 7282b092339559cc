"""What grades the completions of a benchmark, by its answer type. A new type is a function and a line in GRADERS.

A grader takes complete records in order, each with `id`, `sample`, `completion` and its `gold`, and returns a score for
each: {"id", "sample", "gold", "answer", "correct", "status"} and, where it has more to say, further fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from mft_cli.eval.journal import Record
from mft_cli.schema import BenchmarkConfig, EvalConfig

OK, UNPARSED, TRUNCATED = "ok", "unparsed", "truncated"
GRADERS = {
    "number": "mft_cli.eval.grade_answers:grade_answers",
    "code": "mft_cli.eval.grade_code:grade_code",
    "instructions": "mft_cli.eval.grade_instructions:grade_instructions",
}
# Further numbers in metrics.json, from complete scores.
MORE_METRICS = {
    "code": "mft_cli.eval.grade_code:code_metrics",
    "instructions": "mft_cli.eval.grade_instructions:instruction_metrics",
}
# What a grader cannot do without; asked before the first completion is paid for.
NEEDS = {
    "code": "mft_cli.eval.grade_code:need_sandbox",
    "instructions": "mft_cli.eval.grade_instructions:need_language_detection",
}


def check_needs(benchmark: BenchmarkConfig, config: EvalConfig) -> None:
    """Raises UserError if this machine cannot grade the benchmark: no sandbox, a package that is missing."""
    if benchmark.answer_type in NEEDS:
        _named(NEEDS[benchmark.answer_type])(config)


def grade(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """A score for each record, in order."""
    scores: list[Record] = _named(GRADERS[benchmark.answer_type])(records, benchmark, config)
    return scores


def more_metrics(scores: Sequence[Record], benchmark: BenchmarkConfig) -> dict[str, Any]:
    """What an answer type adds to metrics.json; nothing for most."""
    name = MORE_METRICS.get(benchmark.answer_type)
    found: dict[str, Any] = _named(name)(scores) if name else {}
    return found


def _named(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)
