"""What grades the completions of a benchmark, by its answer type. A new type is a function and a line in GRADERS.

A grader takes complete records in order, each with `id`, `sample`, `completion` and its `gold`, and returns a score for
each: {"id", "sample", "gold", "answer", "correct", "status"} and, where it has more to say, further fields. The types
number, math, choice and text add `answer_from` (marker, box, announcement, conclusion, last_number, choice, whole_text,
none) and `answer_span`, the characters [start, end) of the completion that were read, or null.

The gold of a problem is one text. What it holds, by answer type:

    number        a number as the file has it: "18", "1,000", "025", "27.0"
    math          LaTeX as the file has it, dollar signs and all; several answers stay in one text, between commas or
                  semicolons ("$69$,$84$", "36; 12"). Ratios and times ("5:6", "3:30 p.m.") and words ("\\text{Monday}",
                  "They are equal") are possible: they are compared as text.
    choice        the letter of the right option, A for the first; as JSON also `choices`
    steps         JSON of the benchmark's gold_fields (answer, steps, distractors): a solution whose every step is known
    text          the text; letter case, surrounding blanks and a final full stop do not count
    code          JSON of the benchmark's gold_fields (prompt, test, entry_point ...)
    instructions  JSON of the benchmark's gold_fields (instruction_id_list, kwargs ...)
    likelihood    the letters of the right options, A for the first, between commas
    perplexity    a digest of the text
    judged        JSON of the benchmark's gold_fields; a language model compares the completion with a reference

For number, math, choice and text the gold is either the plain answer or a JSON object; `gold_parts` reads both. Its keys:

    answer     the answer, text
    unit       math: the unit that the row states, or null; an answer may name it or leave it out
    tolerance  math and number: absolute difference that still counts as equal, or null (exact)
    multiple   math: true where the row says that `answer` lists several answers, all wanted, in any order
    group      the base problem that a variant was made from, a digest (benchmarks with `group`); not for comparison
    labels     what kind of variant it is, {field: value} (benchmarks with `labels`); not for comparison
    choices    choice: {letter: text of the option} in the order shown, so that an option's text can be answered too
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Required, TypedDict, cast

from mft_cli.answers.extraction import without_thoughts
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.eval.journal import Record

OK, UNPARSED, TRUNCATED = "ok", "unparsed", "truncated"
# Goes up whenever a completion may be read or compared otherwise than before: scores of two versions are not compared.
SCORING_VERSION = 4
GRADERS = {
    "number": "mft_cli.eval.grading.answers:grade_answers",
    "math": "mft_cli.eval.grading.answers:grade_answers",
    "choice": "mft_cli.eval.grading.answers:grade_choices",
    "text": "mft_cli.eval.grading.answers:grade_texts",
    "steps": "mft_cli.eval.grading.steps:grade_steps",
    "code": "mft_cli.eval.grading.code:grade_code",
    "instructions": "mft_cli.eval.grading.instructions:grade_instructions",
    "judged": "mft_cli.eval.grading.preferences:grade_preferences",
    "likelihood": "mft_cli.eval.grading.likelihood:grade_likelihood",
    "perplexity": "mft_cli.eval.grading.perplexity:grade_texts_read",
}
# Further numbers in metrics.json, from complete scores.
MORE_METRICS = {
    "number": "mft_cli.eval.grading.answers:answer_metrics",
    "math": "mft_cli.eval.grading.answers:answer_metrics",
    "choice": "mft_cli.eval.grading.answers:answer_metrics",
    "text": "mft_cli.eval.grading.answers:answer_metrics",
    "steps": "mft_cli.eval.grading.steps:step_metrics",
    "code": "mft_cli.eval.grading.code:code_metrics",
    "instructions": "mft_cli.eval.grading.instructions:instruction_metrics",
    "likelihood": "mft_cli.eval.grading.likelihood:likelihood_metrics",
    "perplexity": "mft_cli.eval.grading.perplexity:perplexity_metrics",
    "judged": "mft_cli.eval.grading.preferences:preference_metrics",
}
# What a grader cannot do without; asked before the first completion is paid for.
NEEDS = {
    "code": "mft_cli.eval.grading.code:need_sandbox",
    "instructions": "mft_cli.eval.grading.instructions:need_language_detection",
}


class GoldParts(TypedDict, total=False):
    """A gold answer and what the row says about it; the meaning of each key stands at the top of this file."""

    answer: Required[str]
    unit: str | None
    tolerance: float | None
    multiple: bool
    group: str
    labels: dict[str, str]
    choices: dict[str, str]


def gold_parts(gold: str) -> GoldParts:
    """A gold of the types number, math, choice and text as an object that has `answer` (see the top of this file)."""
    if gold.startswith('{"'):  # LaTeX never does
        try:
            parts = json.loads(gold)
        except ValueError:
            parts = None
        if isinstance(parts, dict) and isinstance(parts.get("answer"), str):
            return cast(GoldParts, parts)
    return {"answer": gold}


def visible_text(record: Record) -> str:
    """What a reader of the answer sees: the completion without its thoughts, "" while a thought is still open."""
    prompt = record.get("prompt")
    return without_thoughts(record["completion"], prompt if isinstance(prompt, str) else None)


def check_needs(benchmark: BenchmarkConfig, config: EvalConfig) -> None:
    """Raises UserError if this machine cannot grade the benchmark: no sandbox, a package that is missing."""
    if benchmark.answer_type in NEEDS:
        _named(NEEDS[benchmark.answer_type])(config)


def grade(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """A score for each record, in order."""
    scores: list[Record] = _named(GRADERS[benchmark.answer_type])(records, benchmark, config)
    return scores


def more_metrics(scores: Sequence[Record], benchmark: BenchmarkConfig) -> Record:
    """What an answer type adds to metrics.json; nothing for most."""
    name = MORE_METRICS.get(benchmark.answer_type)
    metrics: Record = _named(name)(scores) if name else {}
    return metrics


def _named(entry: str) -> Any:
    module, name = entry.split(":")
    return getattr(import_module(module), name)
