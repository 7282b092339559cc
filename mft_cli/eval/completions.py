"""The lines of a file of completions: which problem and sample each one is; checked, complete and in order.

Files of `mft eval` name a problem by its digest. Others may name it by its place in the data (from 0), by an id of the
published data (HumanEval/0, IFEval's key, AIME's and MATH's ids), or by the question itself under `prompt`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.errors import UserError
from mft_cli.eval.journal import Record
from mft_cli.eval.problems import Problem, load_problems, unreadable_golds

ID_FIELDS = ("id", "task_id", "key", "unique_id", "question_id", "idx", "prompt")  # ours, then those of public samples
TEXT_FIELDS = ("completion", "response", "output", "solution")
PUBLIC_ID = re.compile(r"(?i)(?:.*_)?(?:id|key|idx)")  # fields of a benchmark's rows that may name its problems
MOST_TOLD = 3  # problems that an error names

ByProblem = dict[str, dict[int, Record]]  # id -> sample -> line


def arrange(
    path: Path, name: str, benchmark: BenchmarkConfig, records: list[Record], gold_by_id: dict[str, str] | None,
    config: EvalConfig, *, common_samples: bool = False, partial: bool = False,
) -> tuple[list[Record], dict[str, str]]:  # fmt: skip
    """The lines by problem and sample, each with its gold; and the gold answers by problem.

    `gold_by_id` null: the lines' own golds where all have one, else the benchmark's data. `common_samples`: where some
    problems have more samples than others, the first ones that all have. `partial`: completions may be missing.
    Raises UserError for a line without id or
    text, ids that the benchmark does not have, and double or missing completions.
    """
    by_problem = group_by_problem(path, records)
    shown: Mapping[str, str] = {}  # problem -> its name in the file
    if gold_by_id is not None:
        golds = gold_by_id
    elif all(r.get("gold") is not None for r in records):
        golds = {id: str(lines[min(lines)]["gold"]) for id, lines in by_problem.items()}
        if warning := unreadable_golds(name, benchmark, list(golds.items())):
            print(f"WARNING: {warning}", flush=True)
    else:
        problems, summary = load_problems(name, benchmark, config.seed, config.limit)
        print(f"{name}: {summary}", flush=True)
        golds, names = {p.id: p.gold for p in problems}, naming(problems, by_problem)
        shown = {id: public for public, id in names.items()}
        by_problem = {names.get(id, id): lines for id, lines in by_problem.items()}
    if unknown := sorted(by_problem.keys() - golds.keys()):
        raise UserError(f"{path}: benchmark {name} has no problem {unknown[0]} ({len(unknown)} such ids); check eval=")
    by_problem = {id: by_problem.get(id, {}) for id in golds}
    by_problem = first_samples(by_problem) if common_samples else by_problem
    if not partial:
        check_complete(path, name, by_problem, benchmark.samples if not common_samples else 1, shown)
    return [
        {**line, "id": id, "sample": sample, "gold": golds[id] if line.get("gold") is None else str(line["gold"])}
        for id, lines in by_problem.items()
        for sample, line in sorted(lines.items())
    ], golds


def group_by_problem(path: Path, records: Sequence[Record]) -> ByProblem:
    """The lines by id and sample; where no line has a `sample`, those of a problem are numbered in order."""
    in_order = not any("sample" in record for record in records)
    by_problem: ByProblem = {}
    for number, record in enumerate(records, 1):
        id = next((str(record[field]) for field in ID_FIELDS if field in record), None)
        text = next((record[field] for field in TEXT_FIELDS if field in record), None)
        lines = by_problem.setdefault((id or "").strip(), {})
        sample = len(lines) if in_order else record.get("sample", 0)
        if id is None or not isinstance(text, str) or not isinstance(sample, int) or sample < 0:
            raise UserError(f"{path}: line {number} needs id, sample (from 0) and completion (text)")
        if sample in lines:
            raise UserError(f"{path}: problem {id}, sample {sample} is there more than once; keep one line of each")
        lines[sample] = {**record, "completion": text}
    return by_problem


def naming(problems: Sequence[Problem], ids: Collection[str]) -> dict[str, str]:
    """The file's name of a problem -> the problem's id, by that kind of names which knows most of `ids`."""
    kinds = [{str(p.number): p.id for p in problems} | {p.id: p.id for p in problems}]
    for field in [f for f in problems[0].row.meta if PUBLIC_ID.fullmatch(f)]:
        kinds.append({str(p.row.meta.get(field)): p.id for p in problems})
    kinds.append({p.row.question.strip(): p.id for p in problems})
    return max(kinds, key=lambda names: len(names.keys() & set(ids)))


def first_samples(by_problem: ByProblem) -> ByProblem:
    """The first samples of every problem, as many as the problem with the fewest has; numbered from 0."""
    fewest = min(map(len, by_problem.values()))
    return {id: dict(enumerate(lines[s] for s in sorted(lines)[:fewest])) for id, lines in by_problem.items()}


def check_complete(path: Path, name: str, by_problem: ByProblem, samples: int, shown: Mapping[str, str]) -> None:
    """Raises UserError unless all problems have the same samples, `samples` or more; names those that lack some."""
    samples = max([samples, *(1 + max(lines) for lines in by_problem.values() if lines)])
    lacking = {id: len(lines) for id, lines in by_problem.items() if len(lines) < samples}
    if not lacking:
        return
    missing, total = sum(samples - count for count in lacking.values()), samples * len(by_problem)
    told = [f"problem {shown.get(id, id)[:60]} has {count} of {samples}" for id, count in lacking.items()][:MOST_TOLD]
    more = f", and {len(lacking) - MOST_TOLD} more problems" if len(lacking) > MOST_TOLD else ""
    advice = (
        "score what all have with samples=min"
        if min(lacking.values())
        else f"set eval.benchmarks.{name}.limit to the number of problems that were drawn for them"
    )
    raise UserError(
        f"{path}: {name}: {missing} of {total} completions are missing ({', '.join(told)}{more}); generate them, or {advice}"
    )
