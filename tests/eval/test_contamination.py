"""What a model was trained on travels with it: export, evaluation, metrics, report, and a run that goes on from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.data.questions import known, read_questions
from mft_cli.eval.contamination import overlap, reason, split_accuracy
from tests.support.tiny import mft, problems, tiny_overrides


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_trained_questions_reach_metrics_report_and_continued_runs(tiny_model: Path, tmp_path: Path) -> None:
    rows = problems(12)
    data = write(tmp_path / "train.jsonl", rows)
    # 4 of the 10 questions were trained on, in other letters; the benchmark's tags say nothing of it
    asked = [{**row, "question": row["question"].upper()} for row in problems(4)] + problems(6, first=100)
    test = write(tmp_path / "test.jsonl", asked)
    other = write(tmp_path / "other.jsonl", problems(9, first=200))
    evaluation = {
        "eval": "gsm8k", "eval.benchmarks.gsm8k.source.path": test, "eval.benchmarks.gsm8k.max_new_tokens": 4,
        "eval.engine": "hf", "eval.gold_logprob": "false", "eval.dtype": "float32",
    }  # fmt: skip
    first = tiny_overrides(tiny_model, data, run_dir=tmp_path / "a", **{"data.sources.local.rows": 11}, **evaluation)
    done = mft("train", "method=sft", *first, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stored = read_questions(tmp_path / "a" / "export")
    assert stored is not None
    assert len(stored) == 11  # the rows that were drawn, not the file's
    metrics = json.loads((tmp_path / "a/eval/gsm8k/metrics.json").read_text())
    trained = known([row["question"] for row in asked], stored)
    assert metrics["overlap"]["problems"] == sum(trained) >= 3
    assert metrics["overlap"]["training_questions"] == 11
    assert f"trained on {sum(trained)} of the 10 questions" in metrics["contaminated"]
    assert "accuracy_rest" in metrics["overlap"]
    assert "CONTAMINATED" in done.stdout

    again = tiny_overrides(tmp_path / "a" / "export", other, run_dir=tmp_path / "b", eval="none")
    done = mft("train", "method=sft", *again, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ids, texts = [str(i) for i in range(10)], [row["question"] for row in asked]
    inherited = overlap(tmp_path / "b" / "export", ids, texts)
    assert inherited is not None
    assert inherited["problems"] == sum(trained)
    assert inherited["training_questions"] == 20
    assert overlap(tiny_model, ids, texts) is None  # not known, which is not clean

    assert mft("report", "a", "out=r", cwd=tmp_path).returncode == 0
    for name in ("report.html", "report.md"):
        assert f"trained on {sum(trained)} of the 10 questions" in (tmp_path / "r" / name).read_text().replace("\\", "")


def test_reason_says_both_kinds() -> None:
    measured = {"problems": 2, "of": 8, "training_questions": 5, "ids": ["a", "b"]}
    assert reason(None, None) is None
    assert reason(None, measured | {"problems": 0}) is None
    assert reason("it says so", measured) == "it says so; the model was trained on 2 of the 8 questions (25.0 %)"


def test_accuracy_with_and_without_the_trained_problems() -> None:
    scores = [{"id": str(i), "correct": i < 3} for i in range(8)]
    metrics = {"overlap": {"problems": 2, "of": 8, "ids": ["0", "1"]}}
    split_accuracy(metrics, scores)
    assert metrics["overlap"]["accuracy_trained_on"] == 1.0
    assert metrics["overlap"]["accuracy_rest"] == pytest.approx(1 / 6)
    assert metrics["overlap"]["interval_rest"] == pytest.approx([0.0301, 0.5635], abs=1e-3)  # Wilson, 1 of 6
