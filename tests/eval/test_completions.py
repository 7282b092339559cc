"""Files of completions that others made: ids of published data, samples without numbers, unequal counts, golds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import SourceConfig
from mft_cli.errors import UserError
from mft_cli.eval.completions import arrange, group_by_problem
from mft_cli.eval.problems import OptionNames, load_problems
from mft_cli.eval.score import score_file
from mft_cli.files import file_digest
from mft_cli.report.read.runs import read_evaluation
from tests.support.sums import write_sums

NAMES = ["HumanEval/0", "HumanEval/1", "HumanEval/2"]


def benchmark(folder: Path, rows: list[dict], **more) -> BenchmarkConfig:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return BenchmarkConfig(source=SourceConfig(path=str(path), response="answer"), gold_marker="####", **more)


def write(folder: Path, lines: list[dict]) -> Path:
    path = folder / "lines.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rows(field: str, names: list) -> list[dict]:
    return [{field: name, "question": f"{i} + 1", "answer": f"#### {i + 1}"} for i, name in enumerate(names)]


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("task_id", NAMES),
        ("key", [1000, 1001, 1005]),
        ("id", [60, 61, 62]),
        ("id", [1, 2, 3]),  # from 1: two of them are places in the data, too
        ("unique_id", ["test/algebra/1.json", "test/algebra/2.json", "test/precalculus/807.json"]),
    ],
)
def test_ids_of_published_data(tmp_path: Path, field: str, names: list) -> None:
    lines = [{field: name, "completion": f"#### {i + 1}"} for i, name in enumerate(names)]
    metrics = score_file(write(tmp_path, lines[::-1]), "b", benchmark(tmp_path, rows(field, names)), tmp_path / "out")
    assert (metrics["n"], metrics["correct"]) == (3, 3)


def test_the_question_names_a_problem(tmp_path: Path) -> None:
    lines = [{"prompt": f"{i} + 1", "response": f"#### {i + 1}"} for i in range(3)]
    metrics = score_file(write(tmp_path, lines), "b", benchmark(tmp_path, rows("key", [5, 6, 7])), tmp_path / "out")
    assert metrics["correct"] == 3


def test_samples_without_numbers_are_numbered_in_order(tmp_path: Path) -> None:
    lines = [{"task_id": name, "completion": f"#### {s}"} for name in NAMES for s in (1, 2, 3)]
    metrics = score_file(write(tmp_path, lines), "b", benchmark(tmp_path, rows("task_id", NAMES)), tmp_path / "out")
    assert (metrics["samples"], metrics["correct"]) == (3, 3)
    scores = [json.loads(x) for x in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert [(s["sample"], s["answer"]) for s in scores[:3]] == [(0, "1"), (1, "2"), (2, "3")]


def test_the_completions_lie_beside_the_scores_by_our_ids(tmp_path: Path) -> None:
    lines = [{"task_id": name, "response": f"#### {i}"} for i, name in enumerate(NAMES)]
    made, out = benchmark(tmp_path, rows("task_id", NAMES)), tmp_path / "out"
    for _ in range(2):  # a second time replaces its own
        metrics = score_file(write(tmp_path, lines), "b", made, out)
    evaluation = read_evaluation("run", "run", "", out)
    texts = {key: row["completion"] for key, row in evaluation.completions().items()}
    assert texts == {(s["id"], 0): f"#### {i}" for i, s in enumerate(evaluation.scores)}
    assert metrics["generations_digest"] == file_digest(out / "generations.jsonl")


def test_an_evaluations_completions_are_never_replaced(tmp_path: Path) -> None:
    lines = [{"task_id": name, "completion": "#### 1"} for name in NAMES]
    made, out = benchmark(tmp_path, rows("task_id", NAMES)), tmp_path / "out"
    score_file(write(tmp_path, lines), "b", made, out, extra={"settings_digest": "0"})  # as mft eval does
    before = (out / "generations.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"out=.*: holds completions of an evaluation"):
        score_file(write(tmp_path, lines), "b", made, out)
    assert (out / "generations.jsonl").read_bytes() == before
    assert score_file(out / "generations.jsonl", "b", made, out)["correct"] == 1  # its own are scored again


def test_unequal_counts_name_the_problems_and_the_common_part_is_scored(tmp_path: Path) -> None:
    counts = {NAMES[0]: 3, NAMES[1]: 1, NAMES[2]: 2}
    lines = [{"task_id": name, "completion": f"#### {s + 1}"} for name, n in counts.items() for s in range(n)]
    file, made = write(tmp_path, lines), benchmark(tmp_path, rows("task_id", NAMES))
    told = r"3 of 9 completions are missing \(problem HumanEval/1 has 1 of 3, problem HumanEval/2 has 2 of 3\).*samples=min"
    with pytest.raises(UserError, match=told):
        score_file(file, "b", made, tmp_path / "out")
    metrics = score_file(file, "b", made, tmp_path / "out", common_samples=True)
    assert (metrics["n"], metrics["samples"], metrics["correct"]) == (3, 1, 1)


def test_the_common_part_of_a_problem_without_any_is_refused(tmp_path: Path) -> None:
    lines = [{"task_id": name, "completion": "#### 1"} for name in NAMES[:2]]
    with pytest.raises(UserError, match="problem HumanEval/2 has 0 of 1") as error:
        score_file(
            write(tmp_path, lines), "b", benchmark(tmp_path, rows("task_id", NAMES)), tmp_path, common_samples=True
        )
    assert "samples=min" not in str(error.value)
    assert "set eval.benchmarks.b.limit to the number of problems" in str(error.value)


def test_places_and_digests_still_name_problems(tmp_path: Path) -> None:
    made = benchmark(tmp_path, rows("task_id", NAMES))
    ids = [p.id for p in load_problems("b", made, 0)[0]]
    lines = [{"id": ids[0], "completion": "#### 1"}, *({"id": i, "completion": f"#### {i + 1}"} for i in (1, 2))]
    ordered, _ = arrange(write(tmp_path, []), "b", made, lines, None, EvalConfig())
    assert [line["id"] for line in ordered] == ids


def test_lines_without_id_or_text(tmp_path: Path) -> None:
    for line in ({"completion": "x"}, {"id": 1}, {"id": 1, "completion": 3}, {"id": 1, "completion": "", "sample": -1}):
        with pytest.raises(UserError, match="line 1 needs id, sample"):
            group_by_problem(tmp_path, [line])


# ---- golds ----------------------------------------------------------------------------------------------------------


def sums_with(folder: Path, golds: dict[int, str], n: int = 200) -> Path:
    path = write_sums(folder, n)
    lines = path.read_text().splitlines()
    for place, gold in golds.items():
        lines[place] = json.dumps({"question": f"{place} + 1", "answer": f"#### {gold}"})
    path.write_text("\n".join(lines))
    return path


def test_unreadable_golds_are_counted_and_shown(tmp_path: Path) -> None:
    path = sums_with(tmp_path, {3: "None", 7: "true"})
    made = BenchmarkConfig(source=SourceConfig(path=str(path), response="answer"), gold_marker="####")
    _, summary = load_problems("b", made, 0)
    assert "WARNING: 2 of 200 golds of b cannot be read as number" in summary
    assert ":4: 'None'" in summary
    assert ":8: 'true'" in summary


def test_more_than_a_hundredth_is_an_error_unless_it_is_allowed(tmp_path: Path) -> None:
    path = sums_with(tmp_path, {3: "None", 7: "true", 9: "five of them"})
    made = BenchmarkConfig(source=SourceConfig(path=str(path), response="answer"), gold_marker="####")
    with pytest.raises(
        UserError, match=r"3 of 200 golds.*eval.benchmarks.b.unreadable_golds=0.015 takes them"
    ) as error:
        load_problems("b", made, 0)
    assert str(error.value).count("'") == 6  # the first three rows
    made.unreadable_golds = 0.015
    assert len(load_problems("b", made, 0)[0]) == 200


def test_golds_in_the_file_are_read_too(tmp_path: Path) -> None:
    lines = [{"id": i, "completion": "#### 5", "gold": "a whole solution: 2 + 3 = 5"} for i in range(2)]
    with pytest.raises(UserError, match="2 of 2 golds of b cannot be read as number"):
        score_file(write(tmp_path, lines), "b", BenchmarkConfig(), tmp_path)


def test_a_bad_row_of_a_benchmark_is_told_without_the_keys_of_training(tmp_path: Path) -> None:
    path = write_sums(tmp_path, 3)
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(UserError, match="correct or remove the row; eval") as error:
        load_problems("b", BenchmarkConfig(source=SourceConfig(path=str(path), response="answer")), 0)
    assert "eval.benchmarks.b.source says" in str(error.value)
    assert "data.on_bad_row" not in str(error.value)


def test_advice_names_the_keys_of_the_command(tmp_path: Path) -> None:
    keys = OptionNames("data.sources.{name}", "data.sources.{name}", "solutions.questions")
    made = BenchmarkConfig(source=SourceConfig(path=str(write_sums(tmp_path, 3)), response="answer"), limit=5)
    with pytest.raises(UserError, match=r"^solutions.questions=5: there are only 3 problems"):
        load_problems("b", made, 0, keys=keys)
    made.gold_marker = "Answer:"
    with pytest.raises(UserError, match=r"correct the row or data.sources.b$"):
        load_problems("b", made, 0, keys=keys)
