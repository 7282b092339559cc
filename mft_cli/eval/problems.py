"""A benchmark's problems: rows with an id that is the same everywhere, gold answers, and the seeded draw of `limit`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from mft_cli.answers import extract
from mft_cli.data.sources import BadRow, Row, get, load_rows
from mft_cli.errors import UserError
from mft_cli.rng import digest64
from mft_cli.run_dir import digest_of
from mft_cli.schema import BenchmarkConfig


@dataclass(frozen=True)
class Problem:
    """`id`: digest of question and gold (a local copy and the hub's give the same); `number`: place in the data."""

    id: str
    number: int
    gold: str
    row: Row


def load_problems(name: str, benchmark: BenchmarkConfig, seed: int) -> tuple[list[Problem], str]:
    """The problems after the draw of `limit`, in the data's order, and a line on where they come from.

    Raises UserError for missing data, a row without a gold answer, or a limit above the number of rows.
    """
    rows = load_rows(benchmark.source, name=name, seed=seed)
    problems, seen = [], dict[str, int]()
    for number, row in enumerate(rows.rows):
        gold = gold_answer(row, benchmark, name)
        id = digest_of([row.question, gold])
        seen[id] = seen.get(id, 0) + 1
        problems.append(Problem(id if seen[id] == 1 else f"{id}-{seen[id]}", number, gold, row))
    return draw(name, problems, benchmark.limit, seed), rows.summary()


def draw(name: str, problems: list[Problem], limit: int | None, seed: int) -> list[Problem]:
    """`limit` problems, the same for every model; a smaller limit draws a subset of a larger one's."""
    if limit is None or limit == len(problems):
        return problems
    if limit > len(problems):
        raise UserError(
            f"eval.benchmarks.{name}.limit={limit}: there are only {len(problems)} problems; set it lower or to null"
        )
    ranked = sorted(problems, key=lambda p: digest64("limit", seed, p.id))[:limit]
    return sorted(ranked, key=lambda p: p.number)


def gold_answer(row: Row, benchmark: BenchmarkConfig, name: str) -> str:
    """The gold answer of a row: gold_fields as JSON, else its answer field (else the solution), behind `gold_marker` if there is one."""
    if benchmark.gold_fields:
        try:
            named = [field.rpartition("=") for field in benchmark.gold_fields]
            return json.dumps({name or field: get(row.meta, field, row.key) for name, _, field in named})
        except BadRow as problem:
            raise UserError(f"{problem}; mend the row or eval.benchmarks.{name}.gold_fields") from None
    text = row.response if row.answer is None else row.answer
    if benchmark.gold_marker is not None:
        _, marker, text = text.rpartition(benchmark.gold_marker)
        if not marker:
            raise UserError(
                f"{row.key}: no {benchmark.gold_marker!r} in the gold; mend it or eval.benchmarks.{name}.gold_marker"
            )
    elif row.answer is None:
        text = extract(text, markers=benchmark.markers, last_number=benchmark.last_number) or ""
    if not text.strip():
        raise UserError(
            f"{row.key}: no gold answer for benchmark {name}; mend the row or eval.benchmarks.{name}.source"
        )
    return text.strip()
