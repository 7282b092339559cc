"""Grading of completions that are programs: cleaned, run against the benchmark's tests, and judged.

The gold is JSON with task_id, prompt, test and entry_point. The score keeps the task's name, not its tests.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.errors import UserError
from mft_cli.eval.grading.clean_code import completed, program_of
from mft_cli.eval.grading.code_runs import Job, SandboxFailure, Verdict, open_sandbox, run_job
from mft_cli.eval.grading.graders import OK, TRUNCATED, UNPARSED
from mft_cli.eval.grading.jail.examiner import PASSED, TIMED_OUT
from mft_cli.eval.grading.sandbox import Limits, Sandbox
from mft_cli.eval.journal import Record
from mft_cli.files import digest_of

FIELDS = ("task_id", "prompt", "test", "entry_point")
# A published test that cannot pass: HumanEval+ (its HumanEval-like file) unpacks the answer instead of the arguments.
# The repaired line is what the same authors' evalplus does for this task.
REPAIRS = {
    "HumanEval/32": (
        "assert _poly(*candidate(*inp), inp) <= 0.0001",
        "assert abs(_poly(*inp, candidate(*inp))) <= 0.0001",
    )
}


def grade_code(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """A score for each record, with `verdict`, `detail`, `seconds`, `retried` and `sandbox` besides the usual fields.

    Equal programs for one problem run once. Raises UserError for a gold without the fields, or if there is no sandbox.
    """
    golds: dict[str, dict[str, str]] = {}
    jobs: dict[tuple[str, str | None], Job] = {}
    keys = []
    for record in records:
        if record["gold"] not in golds:
            golds[record["gold"]] = read_gold(record)
        gold = golds[record["gold"]]
        program = program_of(record["completion"], gold["prompt"], gold["entry_point"])
        keys.append((gold["task_id"], program))
        if program is not None:
            jobs[keys[-1]] = Job(program, completed(gold["prompt"]), gold["test"], gold["entry_point"])
    verdicts, retried, kind = run_all(list(jobs.values()), config)
    outcomes = dict(zip(jobs, zip(verdicts, retried, strict=True), strict=True))
    return [_score(r, key, outcomes.get(key), kind) for r, key in zip(records, keys, strict=True)]


def need_sandbox(config: EvalConfig) -> None:
    """Raises UserError if no sandbox can be made here."""
    with open_sandbox(Limits(), allow_none=config.allow_unsandboxed):
        pass


def read_gold(record: Record) -> dict[str, str]:
    """The gold's fields, with known faults of published tests corrected. Raises UserError if one is missing."""
    try:
        gold = json.loads(record["gold"])
        fields = {name: str(gold[name]) for name in FIELDS}
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"problem {record['id']}: the gold is not JSON with {', '.join(FIELDS)}; a code benchmark needs "
            f"gold_fields: [{', '.join(FIELDS)}]"
        ) from None
    if fields["task_id"] in REPAIRS:
        fields["test"] = fields["test"].replace(*REPAIRS[fields["task_id"]])
    return fields


def run_all(jobs: Sequence[Job], config: EvalConfig) -> tuple[list[Verdict], list[bool], str]:
    """Verdicts in order, which of them come from a second run, and the kind of sandbox.

    `eval.score_workers` at a time; what ran over time runs once more, alone, so that a loaded machine gives the same.
    """
    if not jobs:
        return [], [], "none needed"
    limits = Limits(call_s=config.code_timeout_s)
    with open_sandbox(limits, allow_none=config.allow_unsandboxed) as sandbox:
        with ThreadPoolExecutor(config.score_workers) as pool:
            verdicts = list(pool.map(lambda job: _run(sandbox, job, limits), jobs))
        late = [i for i, verdict in enumerate(verdicts) if verdict.verdict == TIMED_OUT]
        for i in late:
            verdicts[i] = _run(sandbox, jobs[i], limits)
        return verdicts, [i in set(late) for i in range(len(jobs))], sandbox.kind


def _run(sandbox: Sandbox, job: Job, limits: Limits) -> Verdict:
    """One program; a sandbox that did not start says nothing about it and is tried once more."""
    try:
        return run_job(sandbox, job, limits)
    except (SandboxFailure, OSError):
        time.sleep(1)
    try:
        return run_job(sandbox, job, limits)
    except (SandboxFailure, OSError) as error:
        raise UserError(
            f"a sandbox of the kind {sandbox.kind} did not start, twice ({error}); free memory and processes on this "
            "machine, or set eval.score_workers lower"
        ) from None


def _score(record: Record, key: tuple[str, str | None], outcome: tuple[Verdict, bool] | None, kind: str) -> Record:
    task, program = key
    score = {"id": record["id"], "sample": record.get("sample", 0), "gold": task, "answer": None}
    if outcome is None:
        status = TRUNCATED if record.get("finish_reason") == "length" else UNPARSED
        return {**score, "correct": False, "status": status, "verdict": "no_program", "sandbox": kind}
    verdict, again = outcome
    return {
        **score, "answer": digest_of(program), "correct": verdict.verdict == PASSED,
        "status": TIMED_OUT if verdict.verdict == TIMED_OUT else OK, "verdict": verdict.verdict,
        "detail": verdict.detail, "seconds": verdict.seconds, "retried": again, "sandbox": kind,
    }  # fmt: skip


def code_metrics(scores: Sequence[Record]) -> dict[str, object]:
    """How many programs ended in which verdict, how many ran twice, and in which kind of sandbox."""
    return {
        "verdicts": dict(sorted(Counter(s["verdict"] for s in scores).items())),
        "retried": sum(bool(s.get("retried")) for s in scores),
        "sandbox": scores[0]["sandbox"] if scores else None,
    }
