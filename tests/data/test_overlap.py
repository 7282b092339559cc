"""Overlap of benchmarks with training rows: planted by hand, and counted on real files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mft_cli.cli.data_check import check
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import DataConfig, SourceConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.data.overlap import COUNTED, Index, TrainingRow
from mft_cli.data.questions import digest, known, read_questions, words, write_questions
from mft_cli.errors import UserError
from tests.support.tiny import data_dir, mft, needs_data

STORY = (
    "A farmer named Wilma keeps 14 hens in a red barn behind the old mill. Every morning she collects 3 eggs from each "
    "hen, keeps 5 for her own kitchen and sells the rest in the village. How many eggs does she sell in a week?"
)
PHRASE = " The answer can be written as m over n, where m and n are relatively prime positive integers. Find m plus n."
SHORT = "Tom has 3 red apples and 4 green apples in all?"


def kind_of(question: str, *rows: str, response: str = "nothing") -> str | None:
    found = Index([question]).scan(TrainingRow(f"r{i}", (text,), (response,)) for i, text in enumerate(rows))
    return found.hits[0].kind if 0 in found.hits else None


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (STORY, "exact"),
        ("  " + STORY.upper().replace(".", " ;"), "normalised"),
        (STORY.replace("14", "14.0").replace("week?", "week"), "normalised"),
        ("Solve this. " + STORY + " Think step by step.", "ngram"),
        (STORY.replace("old mill", "old mill,  which is blue"), "near"),  # one place changed breaks 13 of its n-grams
        (STORY.replace("14", "15"), "near"),
        (STORY.replace("14", "15").replace("3 eggs", "4 eggs"), "near"),
        ("A train leaves at 3 o'clock and nobody knows where it goes.", None),
    ],
)
def test_kinds(row: str, kind: str | None) -> None:
    assert kind_of(STORY, row) == kind


def test_a_question_inside_a_response_counts() -> None:
    assert kind_of(STORY, "What was the task?", response="The task was: " + STORY) == "ngram"


def test_one_changed_number_at_the_end_is_no_contamination() -> None:
    question = STORY + " Take 7 days."
    assert kind_of(question, STORY + " Take 8 days.") == "near"
    assert kind_of(question, STORY + " Take 8 days.", response="7 7 7 days") == "near"  # numbers of another text


def test_stock_phrases_are_said_and_not_counted() -> None:
    question = "Two circles of radius 5 touch a line at different points while a third rolls between them." + PHRASE
    row = "A bag holds 12 balls and 3 of them are drawn one after the other without looking inside it." + PHRASE
    assert kind_of(question, row) == "phrase"


def test_short_questions_use_shorter_ngrams_and_tiny_ones_equality() -> None:
    assert kind_of(SHORT, "Please solve: " + SHORT) == "ngram"
    assert kind_of("What is 3 + 4?", "what is 3 + 4") == "normalised"
    assert kind_of("What is 3 + 4?", "What is 3 - 4?") is None
    assert kind_of("What is 3 + 4?", "First: what is 3 + 4? Then more.") is None


def test_a_better_row_replaces_a_worse_one_in_any_order() -> None:
    rows = [STORY.replace("14", "15"), STORY, "Well: " + STORY]
    for order in (rows, rows[::-1]):
        assert kind_of(STORY, *order) == "exact"


def test_many_rows_against_a_slow_reference() -> None:
    """Batches, hashes and the look-up give the coverage that sets of tuples give."""
    generator = np.random.default_rng(0)
    vocabulary = [f"w{chr(97 + i)}" for i in range(6)]
    draw = lambda n: " ".join(generator.choice(vocabulary, n))  # noqa: E731
    questions = [draw(12) for _ in range(30)]
    rows = [draw(40) + " " + (questions[i % 30][:25] if i % 3 else draw(5)) for i in range(4100)]
    found = Index(questions).scan(TrainingRow(str(i), (t,), ()) for i, t in enumerate(rows))
    grams = lambda t: {tuple(w[i : i + 8]) for w in [t.split()] for i in range(len(w) - 7)}  # noqa: E731
    sets = [grams(row) for row in rows]
    for number, question in enumerate(questions):
        best = max(len(grams(question) & s) / len(grams(question)) for s in sets)
        assert (found.hits[number].coverage if number in found.hits else 0.0) == pytest.approx(best)
    assert found.scanned == 4100


# ---- digests beside a model -----------------------------------------------------------------------------------------


def test_words_ignore_writing_and_keep_meaning() -> None:
    assert words("I've $1,000 or 10{,}000 or 10,\\!080, and 5.0!") == [
        *("ive", "1000", "or", "10000", "or", "10080", "and", "5")
    ]
    assert words("nine-year-old, x - 5") == ["nine", "year", "old", "x", "-", "5"]
    assert words("Ｆｕｌｌ ２") == ["full", "2"]


def test_file_of_digests(tmp_path: Path) -> None:
    digests = np.array([digest(words(STORY)), digest(words(SHORT)), digest(words(STORY))], dtype=np.uint64)
    write_questions(tmp_path, digests)
    assert (tmp_path / "training_questions.bin").stat().st_size == 16 + 2 * 8
    stored = read_questions(tmp_path)
    assert stored is not None
    assert known([STORY.lower(), "other", SHORT, "?!"], stored) == [True, False, True, False]
    assert read_questions(tmp_path / "nowhere") is None
    (tmp_path / "training_questions.bin").write_bytes((tmp_path / "training_questions.bin").read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        read_questions(tmp_path)


# ---- real files -----------------------------------------------------------------------------------------------------


def source(path: str, question: str, response: str, answer: str | None = None) -> SourceConfig:
    return SourceConfig(path=str((data_dir() or Path()) / path), question=question, response=response, answer=answer)


def benchmark(path: str, question: str, answer: str) -> BenchmarkConfig:
    return BenchmarkConfig(source=source(path, question, answer, answer))


REAL = {
    "gsm8k": lambda: BenchmarkConfig(source=source("gsm8k/test.jsonl", "question", "answer"), gold_marker="####"),
    "svamp": lambda: benchmark("svamp/SVAMP.json", "Body+Question", "Answer"),
    "aime24": lambda: benchmark("aime24/test.jsonl", "problem", "answer"),
    "math500": lambda: replace(benchmark("math500/test.jsonl", "problem", "answer"), answer_type="math"),
}


def checked(data: SourceConfig, names: list[str], out: Path) -> dict:
    config = TrainConfig(
        data=DataConfig(name="x", sources={"x": data}),
        eval=EvalConfig(benchmarks={n: REAL[n]() for n in names}),
    )
    return check(config.data, config.eval, config.seed, out=out / "found.json")["benchmarks"]


@needs_data
def test_the_contaminated_set_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = checked(source("llm_adapters_math/math_data.json", "instruction", "output"), ["gsm8k", "svamp"], tmp_path)
    assert found["gsm8k"]["exact"] == 1055
    assert found["svamp"]["exact"] + found["svamp"]["normalised"] == 800
    assert (found["svamp"]["exact"], found["svamp"]["contaminated"]) == (504, 800)
    said = capsys.readouterr().out
    assert "1055 (80.0 %)" in said
    assert "gsm8k, exact: " in said
    assert "3 rows are of no use to training" in said  # without an answer; they hold test questions all the same
    assert json.loads((tmp_path / "found.json").read_text())["benchmarks"]["gsm8k"]["training_rows"] >= 1055


@needs_data
def test_gsm8k_train_is_clean(tmp_path: Path) -> None:
    found = checked(source("gsm8k/train.jsonl", "question", "answer"), ["gsm8k", "svamp", "aime24"], tmp_path)
    assert [found[name]["contaminated"] for name in found] == [0, 0, 0]
    assert found["gsm8k"]["near"] == 1  # a plane of 1,200 miles where training has a train of 270
    assert found["gsm8k"]["phrase"] > 0


@needs_data
def test_stock_phrases_of_competitions_raise_no_alarm(tmp_path: Path) -> None:
    for path, question, answer in (
        ("math/test.jsonl", "problem", "solution"),
        ("aime25/aime25.jsonl", "prompt", "answer"),
    ):
        found = checked(source(path, question, answer), ["aime24"], tmp_path)
        assert found["aime24"]["contaminated"] == 0
        assert found["aime24"]["phrase"] >= 5
    found = checked(source("math/test.jsonl", "problem", "solution"), ["math500"], tmp_path)
    assert found["math500"]["contaminated"] == 500


def test_the_command(tmp_path: Path) -> None:
    rows = [{"question": STORY, "answer": "#### 259"}, {"question": SHORT, "answer": "#### 7"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "test.jsonl").write_text(json.dumps(rows[0] | {"question": STORY.lower()}) + "\n")
    done = mft(
        "data", "check", "data=local", "data.sources.local.path=train.jsonl", "data.sources.local.response=answer",
        "eval=gsm8k", "eval.benchmarks.gsm8k.source.path=./test.jsonl", "show=1", "out=o.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gsm8k, normalised: train.jsonl:1" in done.stdout
    one = json.loads((tmp_path / "o.json").read_text())["benchmarks"]["gsm8k"]
    assert {k: one[k] for k in ("problems", *COUNTED, "contaminated")} == Counter(problems=1, normalised=1, contaminated=1) | {
        "exact": 0, "ngram": 0,
    }  # fmt: skip
    assert mft("data", "check", "data=gsm_symbolic", "eval=none", cwd=tmp_path).returncode == 2
