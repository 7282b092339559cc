"""`mft data check`: which questions of the benchmarks stand in the training rows, before anything is trained."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mft_cli.config.schema.base import Values
from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.config.schema.inputs import DataConfig, SourceConfig
from mft_cli.console import text_table
from mft_cli.data.files import BadRow
from mft_cli.data.overlap import COUNTED, KINDS, LONG, SHORT, Hit, Index, Overlap, TrainingRow
from mft_cli.data.questions import questions_of
from mft_cli.data.sources import Row, keep, load_rows, make_row, open_rows, text
from mft_cli.eval.problems import load_problems
from mft_cli.files import write_json
from mft_cli.rng import digest64

TEXT_LIMIT = 400  # characters of a question or row that are shown


def check(data: DataConfig, asked: EvalConfig, seed: int, *, show: int = 3, out: Path | None = None) -> Values:
    """Print the table, write the JSON and return it. Raises UserError without data."""
    names, questions = [], []
    for name, benchmark in asked.benchmarks.items():
        problems, origin = load_problems(name, benchmark, asked.seed, asked.limit)
        print(f"{name}: {len(problems)} problems; {origin}", flush=True)
        names += [name] * len(problems)
        questions += [problem.row.question for problem in problems]
    started = time.perf_counter()
    index = Index(questions)
    bad: list[str] = []
    overlap = index.scan(training_rows(data, seed, bad))
    seconds = time.perf_counter() - started
    result = as_json(overlap, names, questions, show) | {
        "rows": overlap.scanned,
        "bad_rows": len(bad),
        "seconds": round(seconds, 3),
    }
    out = out or Path("outputs") / f"data-check-{data.name or 'data'}.json"
    write_json(out, result)
    print(
        "\n".join(table(result)),
        f"\n{overlap.scanned:,} training rows in {seconds:.1f} s ({overlap.scanned / seconds:,.0f} a second)",
        sep="",
    )
    print("\n".join(examples(result, show)))
    if bad:
        print(f"{len(bad):,} rows are of no use to training (first: {bad[0]})")
    print(f"written to {out}")
    return result


# ---- training rows --------------------------------------------------------------------------------------------------


def training_rows(data: DataConfig, seed: int, bad: list[str]) -> Iterator[TrainingRow]:
    """The rows of every source, one at a time where the source takes all of them; `bad` says which could not be read."""
    for name, source in data.sources.items():
        for row in source_rows(name, source, seed, bad):
            yield as_training_row(row)


def source_rows(name: str, source: SourceConfig, seed: int, bad: list[str]) -> Iterator[Row]:
    """As training reads them; a seeded draw (rows, fraction) needs all of them at once.

    A row that training cannot use is no reason to stop a check: it is counted, and its question is looked at.
    """
    if source.fraction < 1 or (source.rows is not None and not source.path.startswith("generated:")):
        read = load_rows(source, name=name, seed=seed, on_bad_row="drop")
        bad.extend(read.bad)
        yield from read.rows
        return
    opened, raw = open_rows(source, name)
    source = opened.source
    for number, key, values in raw:
        try:
            if isinstance(values, BadRow):
                raise values
            if keep(source, values, key):
                yield make_row(source, values, digest64(name, number), key)
        except BadRow as problem:
            bad.append(str(problem))
            if isinstance(values, dict) and source.layout == "question_response":
                with contextlib.suppress(BadRow):
                    yield Row(0, key, question=text(values, source.question, key))


def as_training_row(row: Row) -> TrainingRow:
    asked = tuple(questions_of(row))
    if row.messages is None:
        return TrainingRow(row.key, asked, (row.response,))
    return TrainingRow(row.key, asked, tuple(t["content"] for t in row.messages if t["role"] != "user"))


# ---- what is printed and written ------------------------------------------------------------------------------------


def as_json(overlap: Overlap, names: list[str], questions: list[str], show: int) -> Values:
    """Counts for each benchmark, all questions that count as contaminated, and some of the others."""
    totals = Counter(names)
    benchmarks: Values = {}
    for name, total in totals.items():
        hits = [hit for number, hit in sorted(overlap.hits.items()) if names[number] == name]
        kinds = Counter(hit.kind for hit in hits)
        counted = sum(kinds[kind] for kind in COUNTED)
        benchmarks[name] = {
            "problems": total,
            **{kind: kinds[kind] for kind in KINDS},
            "contaminated": counted,
            "share": counted / total,
            "training_rows": sum(any(names[q] == name for q in asked) for asked in overlap.row_keys.values()),
            "questions": [_shown(hit, questions) for hit in hits if hit.kind in COUNTED],
            "near_examples": [_shown(hit, questions) for hit in hits if hit.kind == "near"][: max(show, 20)],
        }
    return {"kinds": KINDS, "words": {"long": LONG, "short": SHORT}, "benchmarks": benchmarks}


def _shown(hit: Hit, questions: list[str]) -> Values:
    return {**asdict(hit), "question": questions[hit.question], "coverage": round(hit.coverage, 3)}


def table(result: Values) -> list[str]:
    """A line for each benchmark."""
    head = ("benchmark", "problems", *KINDS, "contaminated", "training rows")
    rows = [head]
    for name, counts in result["benchmarks"].items():
        share = f"{counts['contaminated']} ({100 * counts['share']:.1f} %)"
        rows.append(
            (name, str(counts["problems"]), *(str(counts[k]) for k in KINDS), share, str(counts["training_rows"]))
        )
    kinds = [f"  {kind}: {text}" for kind, text in KINDS.items()]
    return ["", *text_table(rows), "", f"contaminated = {' + '.join(COUNTED)}; near and phrase are not counted", *kinds]


def examples(result: Values, show: int) -> list[str]:
    """The first questions of each kind that counts, and of the near ones, each with its training row."""
    lines = []
    for name, counts in result["benchmarks"].items():
        for kind in (*COUNTED, "near"):
            source = counts["near_examples"] if kind == "near" else counts["questions"]
            for hit in [hit for hit in source if hit["kind"] == kind][:show]:
                lines += ["", f"{name}, {kind}: {hit['key']}", f"  question  {_short(hit['question'])}"]
                lines += [f"  row       {_short(hit['text'])}"] if kind != "exact" else []
    return lines


def _short(text: str) -> str:
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= TEXT_LIMIT else line[:TEXT_LIMIT] + " …"
