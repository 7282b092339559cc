"""Benchmarks of variants of base problems, GSM-IC above all: numbers by base problem, by kind of variant, and where shown."""

import json
from pathlib import Path

import pytest

from mft_cli.config import load
from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.eval.contamination import contamination
from mft_cli.eval.group_metrics import by_label
from mft_cli.eval.problems import load_problems
from mft_cli.eval.score import score_file, summary
from tests.support.tiny import data_dir, mft, needs_data, problems, tiny_overrides


def benchmark(name: str) -> BenchmarkConfig:
    return load.compose_eval([name]).eval.benchmarks[name]


def write_rows(folder: Path, name: str, rows: list) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(rows))


@pytest.fixture
def gsm_ic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three base problems with 4, 2 and 1 variants over the two files."""
    rows = [
        {
            "original_question": f"Base {b}?",
            "new_question": f"Base {b}, and a cat is {v}?",
            "answer": str(b),
            "n_steps": 2 + b // 2,
            "role_label": "overlapped" if v % 2 else "nonoverlapped",
            "sentence_template": f"A cat is {v}.",
        }
        for b, n in ((1, 4), (2, 2), (3, 1))
        for v in range(n)
    ]
    write_rows(tmp_path, "gsm_ic/GSM-IC_2step.json", rows[:5])
    write_rows(tmp_path, "gsm_ic/GSM-IC_mstep.json", rows[5:])
    monkeypatch.setenv("MFT_DATA_DIR", str(tmp_path))
    return tmp_path


def score(folder: Path, name: str, one: BenchmarkConfig, right: list[bool]) -> dict:
    found, _ = load_problems(name, one, 0)
    lines = [
        {"id": p.id, "sample": 0, "completion": f"#### {p.row.answer if r else 99}"}
        for p, r in zip(found, right, strict=True)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return score_file(folder / f"{name}.jsonl", name, one, folder / "eval" / name)


def test_gsm_ic_by_base_problem_and_against_the_clean_one(gsm_ic: Path):
    one, clean = benchmark("gsm_ic"), benchmark("gsm_ic_clean")
    assert one.limit == 4000
    one.limit = None
    assert [p.row.question for p in load_problems("gsm_ic_clean", clean, 0)[0]] == ["Base 1?", "Base 2?", "Base 3?"]
    right = [True, True, True, False, True, True, False]
    groups = score(gsm_ic, "gsm_ic", one, right)["groups"]
    assert groups["problems"] == 3
    assert groups["macro_accuracy"] == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert groups["robust_accuracy"] == pytest.approx(1 / 3)
    assert (groups["clean_accuracy"], groups["normalised_accuracy"]) == (None, None)  # not evaluated yet
    low, high = groups["accuracy_interval"]
    assert low == 0.0 < 5 / 7 < high == 1.0  # all draws of the one base problem that is wrong or right throughout
    score(gsm_ic, "gsm_ic_clean", clean, [True, False, True])
    metrics = score(gsm_ic, "gsm_ic", one, right)
    assert metrics["accuracy"] == pytest.approx(5 / 7)
    assert metrics["groups"]["clean_accuracy"] == pytest.approx(2 / 3)
    assert metrics["groups"]["normalised_accuracy"] == pytest.approx(5 / 7 / (2 / 3))
    assert metrics["groups"]["normalised_robust_accuracy"] == pytest.approx(1 / 2)
    score(gsm_ic, "gsm_ic_clean", clean, [False, False, False])
    assert score(gsm_ic, "gsm_ic", one, right)["groups"]["normalised_accuracy"] is None


def test_gsm_ic_by_kind_of_variant(gsm_ic: Path):
    one, clean = benchmark("gsm_ic"), benchmark("gsm_ic_clean")
    one.limit = None
    score(gsm_ic, "gsm_ic_clean", clean, [True, False, True])
    metrics = score(gsm_ic, "gsm_ic", one, [True, True, True, False, True, True, False])
    labels = metrics["groups"]["labels"]
    assert list(labels) == ["n_steps", "role_label", "sentence_template"]  # of the fields, those that the rows have
    assert {value: found["n"] for value, found in labels["role_label"].items()} == {"nonoverlapped": 4, "overlapped": 3}
    overlapped = labels["role_label"]["overlapped"]
    assert (overlapped["accuracy"], overlapped["problems"]) == (pytest.approx(2 / 3), 2)
    assert overlapped["robust_accuracy"] == 0.5  # of base problem 1 one of two such variants is wrong
    assert [found["accuracy"] for found in labels["n_steps"].values()] == [3 / 4, 2 / 3]
    said = summary(metrics)
    assert "3 base problems: accuracy over variants 71.4 % [0.0, 100.0]" in said
    assert "mean over base problems 58.3 %, every variant right 33.3 %" in said
    assert "base problems themselves 66.7 %; relative to that 1.071, every variant right 0.500" in said
    assert "gsm_ic: role_label=overlapped: 66.7 % [50.0, 100.0] of 3, every variant right 50.0 % of 2" in said


def test_rare_values_of_a_label_are_together():
    scores = [{"group": str(i), "correct": i % 2 == 0} for i in range(40)]
    found = by_label([{"sentence_template": f"{min(i, 20)}"} for i in range(40)], scores)["sentence_template"]
    assert len(found) == 13
    assert found["20"]["n"] == 20  # the most frequent has its own line
    assert found["9 others"]["n"] == 9


def test_gsm_ic_sample_is_a_seeded_draw(gsm_ic: Path):
    one = benchmark("gsm_ic")
    one.limit, one.problems = 4, 7
    found, where = load_problems("gsm_ic", one, 0)
    assert len(found) == 4
    assert "WARNING" not in where
    assert [p.id for p in load_problems("gsm_ic", one, 0)[0]] == [p.id for p in found]
    assert len({tuple(p.id for p in load_problems("gsm_ic", one, seed)[0]) for seed in range(5)}) > 1


@needs_data
def test_gsm_ic_is_made_of_gsm8k_train_rows():
    def questions(file: str) -> list[str]:
        lines = (data_dir() / file).read_text(encoding="utf-8").splitlines()
        return [" ".join(json.loads(line)["question"].split()) for line in lines]

    base = questions("gsm_ic_dev/gsm8k_validation.jsonl")  # what GSM-IC draws its base problems from
    assert len(base) == 1000
    assert set(base) <= set(questions("gsm8k/train.jsonl"))
    for name in ("gsm_ic", "gsm_ic_2step", "gsm_ic_mstep", "gsm_ic_clean"):
        tags = benchmark(name).source.derived_from
        assert contamination({"derived_from": ["gsm8k_train"]}, name, tags)
        assert not contamination({"derived_from": ["math_train"]}, name, tags)


def test_training_on_gsm8k_is_told_on_gsm_ic(tiny_model: Path, tmp_path: Path):
    rows = problems(12)
    (tmp_path / "gsm8k").mkdir()
    train = tmp_path / "gsm8k" / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    variants = [
        {"original_question": row["question"], "new_question": f"{row['question']} A cat is {age}.", "n_steps": 2,
         "answer": row["answer"].rpartition("#### ")[2], "number_label": "in_range"}
        for row in rows[:3] for age in (3, 4)
    ]  # fmt: skip
    write_rows(tmp_path, "gsm_ic/GSM-IC_2step.json", variants)
    write_rows(tmp_path, "gsm_ic/GSM-IC_mstep.json", variants[:1])
    evaluation = {
        "eval": "[gsm_ic_clean,gsm_ic]", "eval.benchmarks.gsm_ic.limit": 6, "eval.benchmarks.gsm_ic.max_new_tokens": 4,
        "eval.benchmarks.gsm_ic_clean.max_new_tokens": 4, "eval.engine": "hf", "eval.gold_logprob": "false",
        "eval.dtype": "float32", "run_dir": tmp_path / "run",
    }  # fmt: skip
    local = tiny_overrides(tiny_model, train, **evaluation, **{"data.validation.rows": 0})
    overrides = ["data=gsm8k" if o == "data=local" else o for o in local if "sources.local" not in o]
    done = mft("train", "method=sft", *overrides, cwd=tmp_path, env={"MFT_DATA_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run/eval/gsm_ic/metrics.json").read_text())
    assert "trained on 6 of the 6 questions or the base problems that they vary" in metrics["contaminated"]
    assert "made from gsm8k_train" in metrics["contaminated"]  # what data=gsm8k says of itself
    assert "WARNING: gsm_ic: CONTAMINATED" in done.stdout
    assert "gsm_ic: number_label=in_range: 0.0 %" in done.stdout
    assert mft("report", "run", "out=r", cwd=tmp_path).returncode == 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Variants and their base problems" in page
    assert "in_range" in page
    assert "the base problems that they vary" in page
