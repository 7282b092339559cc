"""What a benchmark measures beside its accuracy stands in the page, in Markdown and in both terminal tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from mft_cli import report
from mft_cli.cli.compare import compare
from mft_cli.report.render.terminal import terminal_table
from tests.support.fake_runs import fake_evaluation, fake_run

VARIANTS = {
    "problems": 20, "accuracy_interval": [0.31, 0.69], "macro_accuracy": 0.512, "macro_interval": [0.3, 0.7],
    "robust_accuracy": 0.25, "robust_interval": [0.1, 0.5], "clean_accuracy": 0.8, "normalised_accuracy": 0.625,
    "normalised_robust_accuracy": 0.3125,
    "labels": {"role_label": {"overlapped": {
        "n": 12, "accuracy": 0.437, "accuracy_interval": [0.2, 0.6], "problems": 7, "robust_accuracy": 0.143,
        "robust_interval": [0.0, 0.5]}}},
}  # fmt: skip
SHARE = {"value": 0.618, "interval": [0.5, 0.7], "n": 9}
METRICS = {
    "groups": VARIANTS,
    "pass_at": {"1": 0.5, "4": 0.777},
    "majority_at": {"4": 0.666},
    "instruction_following": dict.fromkeys(
        ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose"), SHARE
    ),
    "verdicts": {"passed": 3, "timed_out": 1},
    "retried": 2,
    "sandbox": "bubblewrap",
    "preference": {
        "win_rate": 12.3,
        "standard_error": 1.5,
        "length_controlled_win_rate": 14.2,
        "judge": {"model": "j"},
    },
    "first_pass": {"accuracy": 0.411, "interval": [0.3, 0.5], "corrected": 5, "broken": 2},
}
EXPECTED = ["0.625", "51.2 %", "overlapped", "43.7 %", "4: 77.7 %", "4: 66.6 %", "61.8 %", "passed 3, timed_out 1", "bubblewrap",
            "12.3 % ± 1.5", "14.2 %", "41.1 %", "Variants and their base problems", "By kind of variant"]  # fmt: skip


def test_measures_are_shown_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [fake_run(tmp_path / name, method=None) for name in ("a", "b")]
    for folder, correct in zip(folders, (range(20), range(5, 25)), strict=True):
        fake_evaluation(folder, correct=correct, metrics=METRICS)
    paths = report.build(folders, tmp_path / "out")
    compare(folders, tmp_path / "compared")
    markdown = paths.markdown.read_text().replace("\\", "")
    for text in (paths.html.read_text(), markdown, terminal_table(folders), capsys.readouterr().out):
        for words in EXPECTED:
            assert words in text, words


def test_without_them_there_is_no_section(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "a", method=None)
    fake_evaluation(folder, correct=range(3))
    page = report.build([folder], tmp_path / "out").html.read_text()
    assert "base problems" not in page
    assert "Several completions" not in page
