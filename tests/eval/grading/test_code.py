"""Code benchmarks from completions to metrics; the canonical solutions of HumanEval and HumanEval+; mutants."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
import threading
from pathlib import Path

import pytest

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.errors import UserError
from mft_cli.eval.grading import code as grade_code
from mft_cli.eval.grading import code_runs
from mft_cli.eval.grading.code import FIELDS
from mft_cli.eval.grading.code import grade_code as grade
from mft_cli.eval.grading.code_runs import Verdict
from mft_cli.eval.grading.jail.examiner import TIMED_OUT
from mft_cli.eval.score import score_file
from tests.support.tiny import ROOT, data_dir, needs_data

BENCHMARK = BenchmarkConfig(answer_type="code", gold_fields=list(FIELDS))
PLUS = "humanevalplus/HumanEvalPlus-OriginFmt.jsonl.gz"
PLAIN = "humaneval/HumanEval.jsonl.gz"


def rows(name: str) -> list[dict[str, str]]:
    with gzip.open(data_dir() / name) as file:
        return [json.loads(line) for line in file]


def record(row: dict[str, str], completion: str, sample: int = 0, **more: object) -> dict[str, object]:
    gold = json.dumps({name: row[name] for name in FIELDS})
    return {"id": row["task_id"], "sample": sample, "completion": completion, "gold": gold, **more}


TASK = {
    "task_id": "t/0",
    "prompt": "def twice(x):\n    '''Two times x.'''\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert twice(3) == 6\n",
    "entry_point": "twice",
}


def test_from_completions_to_metrics(tmp_path):
    written = {
        "a": ("    return 2 * x\n", "stop"), "b": ("    return x\n", "stop"), "c": ("I do not know.", "stop"),
        "d": ("    while True: pass\n", "stop"), "e": ("    return 1 / 0\n", "length"), "f": ("    # let us", "length"),
    }  # fmt: skip
    lines = [record({**TASK, "task_id": id}, text, finish_reason=why) for id, (text, why) in written.items()]
    path = tmp_path / "generations.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = EvalConfig(code_timeout_s=1.0)
    metrics = score_file(path, "tiny_code", BENCHMARK, tmp_path, eval_config=config)
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [s["status"] for s in scores] == ["ok", "ok", "unparsed", "timed_out", "ok", "truncated"]
    assert [s["verdict"] for s in scores] == ["passed", "failed", "no_program", "timed_out", "raised", "no_program"]
    assert [s["correct"] for s in scores] == [True] + [False] * 5
    assert "ZeroDivisionError" in scores[4]["detail"]
    assert [s["gold"] for s in scores] == list("abcdef")  # the task's name, not its tests
    assert (metrics["accuracy"], metrics["timed_out"], metrics["retried"]) == (pytest.approx(1 / 6), 1, 1)
    assert metrics["verdicts"] == {"failed": 1, "no_program": 2, "passed": 1, "raised": 1, "timed_out": 1}
    assert metrics["sandbox"] in ("bubblewrap", "namespaces")


def test_equal_programs_run_once(monkeypatch):
    ran = []
    real = code_runs.run_job
    monkeypatch.setattr(grade_code, "run_job", lambda *a: ran.append(1) or real(*a))
    samples = ["    return 2 * x\n", "    return 2 * x\n\nprint(1)\n", "```python\ndef twice(x):\n    return x\n```"]
    scores = grade([record(TASK, text, n) for n, text in enumerate(samples)], BENCHMARK, EvalConfig())
    assert [s["correct"] for s in scores] == [True, True, False]
    assert scores[0]["answer"] == scores[1]["answer"] != scores[2]["answer"]
    assert len(ran) == 2


def test_what_ran_over_time_runs_again_alone(monkeypatch):
    """A machine that is too slow while several run: the second run decides, and nothing runs beside it."""
    real, lock = code_runs.run_job, threading.Lock()
    seen: dict[str, int] = {}
    running: list[str] = []
    beside = []

    def slow_when_busy(sandbox, job, limits):
        with lock:
            running.append(job.program)
            seen[job.program] = seen.get(job.program, 0) + 1
            again = seen[job.program] > 1
        found = real(sandbox, job, limits)
        with lock:
            if again:
                beside.append(len(running) - 1)
            running.remove(job.program)
        return found if again else Verdict(TIMED_OUT)

    monkeypatch.setattr(grade_code, "run_job", slow_when_busy)
    records = [record({**TASK, "task_id": str(n)}, f"    return {n % 2 + 1} * x  # {n}\n") for n in range(4)]
    for n, one in enumerate(records):
        one["completion"] = f"    y = {n}\n    return {n % 2 + 1} * x\n"
    scores = grade(records, BENCHMARK, EvalConfig(score_workers=4))
    assert [s["correct"] for s in scores] == [False, True, False, True]
    assert all(s["retried"] and s["status"] == "ok" for s in scores)
    assert (sorted(seen.values()), beside) == ([2, 2, 2, 2], [0, 0, 0, 0])


def test_without_a_sandbox_nothing_is_generated(monkeypatch):
    from mft_cli.eval.grading.graders import check_needs

    check_needs(BENCHMARK, EvalConfig())
    monkeypatch.setattr(grade_code, "open_sandbox", functools.partial(code_runs.open_sandbox, kinds=()))
    with pytest.raises(UserError, match=r"eval\.allow_unsandboxed=true"):
        check_needs(BENCHMARK, EvalConfig())
    check_needs(BENCHMARK, EvalConfig(allow_unsandboxed=True))


def test_a_gold_without_its_fields_is_an_error():
    with pytest.raises(UserError, match=r"problem x.*gold_fields: \[task_id, prompt, test, entry_point\]"):
        grade([{"id": "x", "completion": "a", "gold": '{"test": ""}'}], BENCHMARK, EvalConfig())


def test_tests_that_are_plain_assertions():
    row = {
        **TASK,
        "prompt": "Write a function twice that doubles.",
        "test": "assert twice(2) == 4\nassert twice('a') == 'aa'",
    }
    texts = ["```python\ndef twice(x):\n    return x + x\n```", "```python\ndef twice(x):\n    return x ** 2\n```"]
    scores = grade([record(row, text, n) for n, text in enumerate(texts)], BENCHMARK, EvalConfig())
    assert [s["correct"] for s in scores] == [True, False]


@needs_data
def test_canonical_solutions_of_humaneval_pass():
    """As the bare body and in a chat's fence: mostly the same program after cleaning, which then runs once."""
    tasks = rows(PLAIN)
    chat = "Sure!\n```python\n{}{}\n```\nThat is all."
    records = [
        record(t, text, n)
        for t in tasks
        for n, text in enumerate([t["canonical_solution"], chat.format(t["prompt"], t["canonical_solution"])])
    ]
    scores = grade(records, BENCHMARK, EvalConfig())
    assert [s for s in scores if not s["correct"]] == []
    assert len(scores) == 2 * 164
    different = sum(a["answer"] != b["answer"] for a, b in zip(scores[::2], scores[1::2], strict=True))
    assert different <= 40  # blank lines within docstrings, helper functions written twice


@needs_data
def test_canonical_solutions_of_humaneval_plus_pass():
    """About a minute: the published tests call the reference and the candidate with large inputs."""
    tasks = rows(PLUS)
    scores = grade([record(t, t["canonical_solution"]) for t in tasks], BENCHMARK, EvalConfig())
    assert [s for s in scores if not s["correct"]] == []
    assert len(scores) == 164


@needs_data
def test_a_program_that_returns_none_passes_nowhere():
    """The prompt's own function, with its docstring and nothing else, on 30 problems."""
    scores = grade([record(t, "    return None\n") for t in rows(PLAIN)[:30]], BENCHMARK, EvalConfig())
    assert [s["gold"] for s in scores if s["correct"]] == []


@needs_data
def test_what_a_small_model_really_scores():
    tasks = {row["task_id"]: row for row in rows(PLAIN)}
    lines = (Path(__file__).parent / "smollm2_humaneval.jsonl").read_text().splitlines()
    records = [record(tasks[r["task"]], r["completion"], n) for n, r in enumerate(map(json.loads, lines))]
    scores = grade(records, BENCHMARK, EvalConfig())
    right = {s["gold"] for s in scores if s["correct"]}
    assert right == {f"HumanEval/{n}" for n in (23, 28, 42, 53, 55)}
    assert sum(s["status"] == "unparsed" for s in scores) == 8


@needs_data
def test_humaneval_plus_catches_mutants_that_humaneval_lets_pass():
    path = ROOT / "scripts" / "bench" / "code_mutants.py"
    spec = importlib.util.spec_from_file_location("code_mutants", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.run(data_dir(), [t["task_id"] for t in rows(PLAIN)[2:64:4]])
    assert len(found) >= 10
    killed, killed_plus = (sum(not row[name] for row in found) for name in ("humaneval", "humaneval_plus"))
    assert killed_plus >= killed >= 0.7 * len(found)
