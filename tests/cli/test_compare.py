"""mft compare: what is read, paired, corrected and said; consistency, domains, overlap and failure detection too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mft_cli.cli.compare import compare, main
from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.errors import UserError
from mft_cli.eval.score import score_file
from mft_cli.report import build
from mft_cli.report.compare.domains import domain_of
from mft_cli.report.read.folders import read_compared
from mft_cli.report.render.blocks import blocks
from mft_cli.report.summary import summarise
from mft_cli.stats import intervals
from tests.support.fake_runs import PROBLEMS, fake_evaluation, fake_run, write_completions


def two(root: Path) -> list[Path]:
    a, b = fake_run(root / "sft"), fake_run(root / "masked", method="masked_thought")
    for name, gain in (("gsm8k", 20), ("math500", 14)):
        fake_evaluation(a, name, correct=range(10))
        fake_evaluation(b, name, correct=range(5, 10 + gain))
    return [a, b]


def test_output_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = compare(two(tmp_path), tmp_path / "out")
    said = capsys.readouterr().out
    assert "+20/−5" in said
    assert "2 tests, p corrected for their number by Holm's method" in said
    assert "gained 20: test-10" in said
    assert "smallest true difference" in said
    first = next(pair for pair in summary.pairs if pair.benchmark == "gsm8k")
    assert first.agreement == pytest.approx(15 / PROBLEMS)
    assert f"{100 * (first.detectable or 0):.1f}" in said
    page = (tmp_path / "out/report.html").read_text()
    assert "Consistency across benchmarks" in page
    assert "Agreement of the runs" in page
    assert page.count('class="flip"') > 10
    flips = sum(len(pair.gained) + len(pair.lost) for pair in summary.pairs)
    shown = page.count('class="flip"')
    assert f"both completions of {shown} of {flips} flips: " in said
    assert (tmp_path / "out/flips.txt").read_text().count("\n---- ") == flips
    (agreement, _) = summary.agreements
    assert agreement.solved_by == [10, 25, 5]  # 30 to 39 by nobody; 5 to 9 by both
    assert agreement.same == pytest.approx(15 / 40)


def test_the_report_is_there_where_nobody_reads_the_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*words: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)  # mft compare ... | head
    with pytest.raises(BrokenPipeError):
        compare(two(tmp_path), tmp_path / "out")
    assert (tmp_path / "out/report.html").is_file()


def test_consistency_by_hand(tmp_path: Path) -> None:
    (one,) = summarise(read_compared(two(tmp_path))).consistency
    assert one.gains == pytest.approx([15 / 40, 9 / 40])
    assert one.mean == pytest.approx(12 / 40)
    assert one.spread == pytest.approx(abs(15 / 40 - 9 / 40) / 2**0.5)

    def variance(gained: int, lost: int, n: int = 40) -> float:
        mean = (gained - lost) / n
        return ((gained + lost) / n - mean**2) * n / (n - 1) / n

    parts = [variance(20, 5), variance(14, 5)]
    freedom = int(sum(parts) ** 2 / sum(v * v / 39 for v in parts))
    half = intervals.student_quantile(0.975, freedom) * sum(parts) ** 0.5 / 2
    assert one.interval == pytest.approx((0.3 - half, 0.3 + half))
    assert one.improved == 2


def test_seeds_are_pairs_and_a_hierarchy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = []
    for seed in (1, 2, 3):
        for method, gain in (("sft", 12), ("masked_thought", 18)):
            folders.append(fake_run(tmp_path / f"{method}-s{seed}", method=method, seed=seed))
            fake_evaluation(folders[-1], correct=range(seed, gain + seed))
    summary = compare(folders, tmp_path / "out")
    (pair,) = summary.group_pairs
    assert pair.difference == pytest.approx(6 / 40)
    assert pair.test.startswith("t on")
    assert pair.p_holm == pair.p
    assert pair.interval is not None
    assert pair.detectable is not None
    said = capsys.readouterr().out
    assert "3 pairs of runs with a common seed" in said
    assert "15 tests" in said  # every two of six runs


def test_several_completions_have_a_test_too(tmp_path: Path) -> None:
    folders = []
    for name, right in (("a", range(10)), ("b", range(25))):
        folders.append(fake_run(tmp_path / name, method="sft" if name == "a" else "masked_thought"))
        fake_evaluation(folders[-1], correct=right, samples=2)
    (pair,) = summarise(read_compared(folders)).pairs
    assert pair.test == "sign flips"
    assert pair.p is not None
    assert pair.p < 0.01


def test_evaluation_folders(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    runs = read_compared([a / "eval" / "gsm8k", b / "eval"])
    assert [[one.benchmark for one in run.evaluations] for run in runs] == [["gsm8k"], ["gsm8k", "math500"]]
    assert runs[0].config["method.name"] == "sft"  # the run around the folder says what it was
    bare = shutil.copytree(a / "eval" / "gsm8k", tmp_path / "scores")
    (alone,) = read_compared([bare])
    assert [(one.benchmark, one.label) for one in alone.evaluations] == [("gsm8k", "scores")]
    assert len(summarise([alone, *read_compared([b])]).pairs) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no run and no evaluation"):
        read_compared([tmp_path / "empty"])
    with pytest.raises(UserError, match="nothing to compare"):
        compare([a], tmp_path / "out")


# ---- domains --------------------------------------------------------------------------------------------------------


def test_domains_by_name_and_by_configuration() -> None:
    names = ("gsm8k_rft", "humaneval_plus", "ifeval", "mine", "code_alpaca", "tulu3_persona_if", "gpqa_diamond")
    assert [domain_of(name) for name in names] == [
        *("mathematics", "code", "instructions", "other", "code", "instructions", "science")
    ]
    assert domain_of("gsm8k", "arithmetic") == "arithmetic"


def test_cross_domain_table(tmp_path: Path) -> None:
    base = fake_run(tmp_path / "base", method=None)
    maths = fake_run(tmp_path / "maths")
    code = fake_run(tmp_path / "code", settings={"data.name": "code_alpaca"})
    for run, right in ((base, 5), (maths, 25), (code, 8)):
        fake_evaluation(run, "gsm8k", correct=range(right))
        fake_evaluation(run, "humaneval", correct=range(10 if run is code else 4))
    table = summarise(read_compared([base, maths, code])).domains
    assert table is not None
    assert table.columns == [("code", "humaneval"), ("mathematics", "gsm8k")]
    assert [(row[0], row[1]) for row in table.rows] == [
        ("not trained here", "base"), ("code", "code"), ("mathematics", "maths"),
    ]  # fmt: skip
    cell = table.rows[2][2][1]
    assert cell is not None
    assert (cell.in_domain, cell.gain, cell.accuracy) == (True, pytest.approx(20 / 40), pytest.approx(25 / 40))
    assert table.means[1][2] == {"code": 0.25, "mathematics": 0.2}


# ---- what metrics.json brings ---------------------------------------------------------------------------------------


def test_failure_detection_and_overlap_reach_the_report(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    place = run / "eval" / "gsm8k"
    place.mkdir(parents=True)
    measured = {"problems": 2, "of": 40, "training_questions": 9, "ids": ["p0", "p1"]}
    score_file(write_completions(place / "generations.jsonl", 4), "gsm8k", BenchmarkConfig(samples=4, markers=["####"]), place,
               extra={"overlap": measured, "contaminated": "trained on 2 of 40"})  # fmt: skip
    found = {block.id: block for block in blocks(summarise(read_compared([run])))}
    assert found["overlap"].rows[0][2] == "2 of 40"
    metrics = json.loads((place / "metrics.json").read_text())
    assert f"{metrics['failure_detection']['auroc']:.3f}" in found["failures"].rows[0][3]
    paths = build([run], tmp_path / "report")
    assert any(path.name == "risk-coverage-gsm8k.png" for path in paths.plots)
    assert "Failure detection" in paths.html.read_text()
    assert "risk-coverage-gsm8k.png" in paths.markdown.read_text()


def test_damaged_failure_detection_costs_itself_only(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    bad = {"auroc": "high", "risk_coverage": [[1, None]], "agreement": {"difference": []}, "interval": [3]}
    fake_evaluation(run, correct=range(9), metrics={"failure_detection": bad, "overlap": {"problems": "x"}})
    assert build([run], tmp_path / "report").html.is_file()


def test_baseline_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(folder) for folder in two(tmp_path)]
    main([*folders, f"out={tmp_path / 'out'}", "baseline=masked"])
    assert "sft − masked" in capsys.readouterr().out
    with pytest.raises(
        UserError, match="baseline=none: expected a run or a setting of this report, one of sft, masked"
    ):
        main([*folders, "baseline=none", f"out={tmp_path / 'other'}"])
