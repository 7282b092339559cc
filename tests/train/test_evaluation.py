"""Evaluations at the end of a training: in a process of its own, or in the training's (eval.own_process)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.config.validate import build
from mft_cli.errors import UserError
from mft_cli.eval.evaluate import evaluate
from mft_cli.train.run import train
from tests.support.training import training

BENCHMARK = {
    "source": {"question": "question", "response": "answer", "answer": None}, "max_new_tokens": 6, "gold_marker": "####", "limit": 5,
}  # fmt: skip


def test_either_process_writes_the_same(tiny_model: Path, problem_file: Path, tmp_path: Path, monkeypatch):
    """The settings that another process would get give the same completions and scores as the training's own process."""
    asked: list[list[str]] = []

    def forwarded(command: list[str]) -> int:
        asked.append(command)
        frozen, out = (word.partition("=")[2] for word in command[-2:])
        evaluate(build(EvalRunConfig, json.loads(Path(frozen).read_text())), Path(out))
        return 0

    monkeypatch.setattr("mft_cli.train.evaluation.run_forwarding", forwarded)
    source = {**BENCHMARK["source"], "path": str(problem_file)}
    written = []
    for own in (True, False):
        run = tmp_path / f"own-{own}"
        settings = {"engine": "hf", "own_process": own, "benchmarks": {"sums": {**BENCHMARK, "source": source}}}
        train(training(tiny_model, problem_file, run, eval=settings))
        written.append([(run / "eval" / "sums" / f"{name}.jsonl").read_bytes() for name in ("generations", "scores")])
        assert "## Scores" in (run / "export" / "README.md").read_text()
    assert written[0] == written[1]
    assert len(asked) == 1


def test_a_mistake_in_the_trainings_process_is_told(tiny_model: Path, problem_file: Path, tmp_path: Path):
    source = {**BENCHMARK["source"], "path": str(tmp_path / "missing.jsonl")}
    settings = {"engine": "hf", "own_process": False, "benchmarks": {"sums": {**BENCHMARK, "source": source}}}
    with pytest.raises(UserError, match=r"missing\.jsonl"):
        train(training(tiny_model, problem_file, tmp_path / "run", eval=settings))
