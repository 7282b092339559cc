"""What grades the completions of a benchmark, by its answer type. A new type is a function and a line in GRADERS.

A grader takes complete records in order, each with `id`, `sample`, `completion` and its `gold`, and returns a score for
each: {"id", "sample", "gold", "answer", "correct", "status"} and, where it has more to say, further fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from mft_cli.eval.journal import Record
from mft_cli.schema import BenchmarkConfig, EvalConfig

OK, UNPARSED, TRUNCATED = "ok", "unparsed", "truncated"
GRADERS = {
    "number": "mft_cli.eval.grade_answers:grade_answers",
    "judged": "mft_cli.eval.grade_preferences:grade_preferences",
}


def grade(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """A score for each record, in order."""
    module, name = GRADERS[benchmark.answer_type].split(":")
    scores: list[Record] = getattr(import_module(module), name)(records, benchmark, config)
    return scores
