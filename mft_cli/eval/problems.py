"""A benchmark's problems: rows with an id that is the same everywhere, gold answers, and the seeded draw of `limit`."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import NamedTuple

from mft_cli.answers.find import extract
from mft_cli.answers.golds import is_readable
from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.data.files import BadRow
from mft_cli.data.options import right_letters
from mft_cli.data.sources import Row, get, load_rows, text
from mft_cli.errors import UserError
from mft_cli.eval.grading.graders import gold_parts
from mft_cli.files import digest_of
from mft_cli.rng import digest64


@dataclass(frozen=True)
class Problem:
    """`id`: digest of question and gold (a local copy and the hub's give the same); `number`: place in the data."""

    id: str
    number: int
    gold: str
    row: Row


class OptionNames(NamedTuple):
    """What the settings of the benchmark {name} are called on the command line, for messages."""

    benchmark: str = "eval.benchmarks.{name}"
    source: str = "eval.benchmarks.{name}.source"
    limit: str = "eval.benchmarks.{name}.limit"


EVAL_OPTIONS = OptionNames()


def load_problems(
    name: str, benchmark: BenchmarkConfig, seed: int, most: int | None = None, keys: OptionNames = EVAL_OPTIONS
) -> tuple[list[Problem], str]:
    """The problems after the draw of `limit` (else of at most `most`), in the data's order, and where they come from.

    Raises UserError for missing data, a row without a gold answer, more than `benchmark.unreadable_golds` of them that the
    answer type cannot read, or a limit above the number of rows.
    """
    keys = OptionNames(*(key.format(name=name) for key in keys))
    advice = f"correct or remove the row; {keys.source} says which fields are read"
    rows = load_rows(benchmark.source, name=name, seed=seed, advice=advice)
    problems, seen = [], dict[str, int]()
    for number, row in enumerate(rows.rows):
        gold = gold_answer(row, benchmark, name, keys.benchmark)
        id = digest_of([row.question, gold])
        seen[id] = seen.get(id, 0) + 1
        problems.append(Problem(id if seen[id] == 1 else f"{id}-{seen[id]}", number, gold, row))
    summary = rows.summary()
    if benchmark.problems is not None and len(problems) != benchmark.problems:
        summary += f"; WARNING: {name} was published with {benchmark.problems:,} problems, here are {len(problems):,}"
    if warning := unreadable_golds(name, benchmark, [(p.row.key, p.gold) for p in problems]):
        summary += f"; WARNING: {warning}"
    most = len(problems) if most is None else min(most, len(problems))
    return draw(keys.limit, problems, benchmark.limit or most, seed), summary


def unreadable_golds(name: str, benchmark: BenchmarkConfig, golds: list[tuple[str, str]]) -> str:
    """A sentence on the golds (place in the data, gold) that the answer type cannot read; empty if it reads all.

    Raises UserError if they are more than the share benchmark.unreadable_golds.
    """
    kind = benchmark.answer_type
    parts = [(key, gold_parts(gold)) for key, gold in golds]
    unreadable = [
        f"{key}: {part['answer'][:60]!r}"
        for key, part in parts
        if not is_readable(part["answer"], kind, part.get("choices") or ())
    ]
    if not unreadable:
        return ""
    told = f"{len(unreadable)} of {len(golds)} golds of {name} cannot be read as {kind} ({'; '.join(unreadable[:3])})"
    if len(unreadable) > benchmark.unreadable_golds * len(golds):
        raise UserError(
            f"{told}; correct the rows, or set eval.benchmarks.{name}.answer_type or .source.answer; "
            f"eval.benchmarks.{name}.unreadable_golds={math.ceil(1000 * len(unreadable) / len(golds)) / 1000:g} takes them as they are"
        )
    return f"{told}: an answer to them hardly ever counts as right"


def base_questions(problems: list[Problem], benchmark: BenchmarkConfig) -> list[str]:
    """The questions that the problems are variants of; empty for a benchmark without `group`."""
    return [text(p.row.meta, benchmark.group, p.row.key) for p in problems] if benchmark.group else []


def draw(key: str, problems: list[Problem], limit: int, seed: int) -> list[Problem]:
    """`limit` problems, the same for every model; a smaller limit draws a subset of a larger one's."""
    if limit == len(problems):
        return problems
    if limit > len(problems):
        raise UserError(f"{key}={limit}: there are only {len(problems)} problems; set it lower or to null")
    ranked = sorted(problems, key=lambda p: digest64("limit", seed, p.id))[:limit]
    return sorted(ranked, key=lambda p: p.number)


def gold_answer(row: Row, benchmark: BenchmarkConfig, name: str, key: str) -> str:
    """The gold of a row, in the form that `mft_cli.eval.grading.graders` states for the benchmark's answer type. UserError."""
    try:
        if benchmark.answer_type == "perplexity":
            return digest_of(row.response)
        if benchmark.answer_type == "likelihood":
            return right_letters(row.meta, benchmark.likelihood, row.key)
        parts = {field: get(row.meta, path, row.key) for field, path in map(named, benchmark.gold_fields)}
        if benchmark.answer_type in ("code", "instructions", "judged"):
            return json.dumps(parts)
        if "answer" not in parts:
            parts["answer"] = plain_answer(row, benchmark, name)
        if benchmark.group is not None:
            parts["group"] = digest_of([text(row.meta, benchmark.group, row.key)])[:16]
            if labels := {field: str(row.meta[field]) for field in benchmark.labels if field in row.meta}:
                parts["labels"] = labels
    except BadRow as problem:
        raise UserError(f"{problem}; correct the row or {key}") from None
    if row.choices:
        parts["choices"] = row.choices
    if isinstance(parts.get("tolerance"), str):
        parts["tolerance"] = float(parts["tolerance"])
    if benchmark.round_to_gold:
        parts["tolerance"] = half_a_digit(parts["answer"])
    parts["answer"] = str(parts["answer"]).strip()
    return parts["answer"] if parts.keys() == {"answer"} else json.dumps(parts)


def named(field: str) -> tuple[str, str]:
    """(name, path) of one of gold_fields: `name=path`, or a path that is its own name."""
    name, _, path = field.rpartition("=")
    return name or path, path


def plain_answer(row: Row, benchmark: BenchmarkConfig, name: str) -> str:
    """The answer field, else what the solution ends in, after `gold_marker` if there is one. Raises BadRow."""
    answer = row.response if row.answer is None else row.answer
    if benchmark.gold_marker is not None:
        _, marker, answer = answer.rpartition(benchmark.gold_marker)
        if not marker:
            raise BadRow(f"{row.key}: no {benchmark.gold_marker!r} in the gold")
    elif row.answer is None and benchmark.answer_type == "math":
        answer = last_boxed(answer) or ""
    elif row.answer is None:
        answer = extract(answer, markers=("####", *benchmark.markers)) or ""
    if not answer.strip():
        raise BadRow(f"{row.key}: no gold answer for benchmark {name}")
    return answer


def last_boxed(text: str) -> str | None:
    """What stands in the last \\boxed{...} of a solution, as it stands there; `\\boxed 2` holds 2."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest, depth = text[start + len("\\boxed") :], 0
    if not rest.startswith("{"):
        return rest.split()[0].rstrip("$.") if rest.strip() else None
    for position, token in ((m.start(), m.group()) for m in re.finditer(r"\\[{}]|[{}]", rest)):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth == 0:
            return rest[1:position]
    return None


def half_a_digit(answer: str) -> float:
    """Half a unit of a number's last decimal place: 0.05 of 93.5%, 0.5 of 380."""
    digits = re.search(r"\d(?:[\d,]*\d)?(?:\.(\d+))?", answer)
    return 0.5 * 10.0 ** -len(digits[1] or "") if digits else 0.0
