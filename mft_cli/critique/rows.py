"""What a run writes: train.jsonl (and train.csv), malformed.jsonl, and the counts."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

from mft_cli.config.schema.critique import CritiqueRunConfig
from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.critique.response import Response
from mft_cli.critique.solutions import Solution
from mft_cli.critique.teacher import Teacher
from mft_cli.eval.grading.graders import grade
from mft_cli.eval.journal import Record, dump
from mft_cli.eval.second_pass import with_solution
from mft_cli.files import file_digest, write_atomically


def write_rows(config: CritiqueRunConfig, teacher: Teacher, out: Path) -> dict[str, Any]:
    """All rows that there are by now, in the order of questions and samples; returns counts and digests."""
    outcomes = [(s, o) for i, s in enumerate(teacher.solutions) if (o := teacher.outcome(i)) is not None]
    records = [{"id": s.id, "completion": r.answer, "gold": s.problem.gold} for s, (_, _, r) in outcomes]
    box_only = BenchmarkConfig(answer_type=config.solutions.answer_type, markers=[], last_number=False)
    scores = grade(records, box_only, config.eval)
    rows = [row(config, s, *o, score) for (s, o), score in zip(outcomes, scores, strict=True)]
    malformed = [m for i in range(len(teacher.solutions)) for m in bad_tries(teacher, i)]
    write_atomically(out / "train.jsonl", "".join(dump(r) for r in rows))
    write_atomically(out / "malformed.jsonl", "".join(dump(m) for m in malformed))
    if config.csv:
        write_atomically(out / "train.csv", table(rows))
    names = ["train.jsonl", "malformed.jsonl", *(["train.csv"] if config.csv else [])]
    reasons = Counter(m["reason"] for m in malformed)
    return {
        "solutions": len(teacher.solutions),
        "right_solutions": sum(s.match for s in teacher.solutions),
        "rows": len(rows),
        "answer_match": sum(r["answer_match"] for r in rows),
        "right_solutions_in_rows": sum(r["solution_match"] for r in rows),
        "corrected": sum(r["answer_match"] and not r["solution_match"] for r in rows),
        "broken": sum(r["solution_match"] and not r["answer_match"] for r in rows),
        "malformed_tries": len(malformed),
        "malformed_reasons": dict(sorted(reasons.items())),
        "given_up": len(teacher.solutions) - len(rows) - len(teacher.waiting()),
        "waiting": len(teacher.waiting()),
        "teacher_requests": teacher.budget.requests,
        "teacher_tokens": teacher.budget.tokens,
        "files": {name: file_digest(out / name) for name in names},
    }


def row(
    config: CritiqueRunConfig, solution: Solution, attempt: int, record: Record, found: Response, score: Record
) -> dict[str, Any]:
    """One training row: prompt, critique, answer_match, and where each came from."""
    return {
        "prompt": with_solution(config.row_prompt, solution.problem, solution.text).row.question,
        "critique": found.text,
        "answer_match": score["correct"],
        "id": solution.id,
        "source": solution.source,
        "row": solution.problem.row.key,
        "question": solution.problem.row.question,
        "gold": solution.problem.gold,
        "sample": solution.sample,
        "solution": solution.text,
        "solution_answer": solution.answer,
        "solution_match": solution.match,
        "solution_finish_reason": solution.finish_reason,
        "solution_seed": solution.seed,
        "solution_digest": solution.digest,
        "critique_answer": score["answer"],
        "critique_status": score["status"],
        "critique_try": attempt,
        "critique_seed": record["seed"],
        "critique_key": record["key"],
    }


def bad_tries(teacher: Teacher, index: int) -> list[dict[str, Any]]:
    """The malformed answers of one solution, each with its reason and text."""
    result = []
    for attempt in range(len(teacher.rounds)):
        record = teacher.record(index, attempt)
        if record is not None and isinstance(reason := teacher.read(record), str):
            kept = {k: record[k] for k in ("id", "try", "seed", "finish_reason", "completion_tokens", "completion")}
            result.append({**kept, "reason": reason, "critique_key": record["key"]})
    return result


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV. A line separator inside a text stays, in quotes."""
    file = io.StringIO()
    if rows:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file.getvalue()


def summary(counts: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    lines = [
        f"solutions: {counts['solutions']}, {counts['right_solutions']} of them right",
        f"rows: {counts['rows']} with a critique, {counts['answer_match']} verified (answer_match); the teacher corrected "
        f"{counts['corrected']} wrong solutions and broke {counts['broken']} right ones",
    ]
    if counts["malformed_tries"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in counts["malformed_reasons"].items())
        lines.append(
            f"malformed: {counts['malformed_tries']} answers kept aside ({reasons}); "
            f"{counts['given_up']} solutions given up"
        )
    return "\n".join(lines)
