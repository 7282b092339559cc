"""The reference of every difference: the plainest run, or the one that is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mft_cli.errors import UserError
from mft_cli.report.read.runs import read_runs
from mft_cli.report.summary import Summary, summarise
from tests.support.fake_runs import fake_evaluation, fake_run


def four(root: Path) -> list[Path]:
    """Alphabetically the least plain one comes first."""
    runs = [
        fake_run(root / "a-masked", method="masked_thought"),
        fake_run(root / "b-lora", settings={"peft.name": "lora"}),
        fake_run(root / "c-sft"),
        fake_run(root / "d-pretrained", method=None),
    ]
    for number, run in enumerate(runs):
        fake_evaluation(run, correct=range(10 + number))
    return runs


def labels(summary: Summary) -> list[str]:
    return [run.label for run in summary.runs]


def test_the_plainest_run_is_the_reference(tmp_path: Path) -> None:
    summary = summarise(read_runs(four(tmp_path)))
    assert labels(summary) == ["d-pretrained", "c-sft", "b-lora", "a-masked"]
    assert [(pair.first, pair.second) for pair in summary.pairs[:3]] == [
        ("d-pretrained", x) for x in labels(summary)[1:]
    ]


def test_an_evaluation_of_an_export_is_not_plain(tmp_path: Path) -> None:
    sft = fake_run(tmp_path / "sft")
    (tmp_path / "sft/export").mkdir()
    (tmp_path / "sft/export/mft.json").write_text("{}")
    again = fake_run(tmp_path / "again", method=None, settings={"model.path": str(tmp_path / "sft/export")})
    for run in (sft, again):
        fake_evaluation(run, correct=range(9))
    assert labels(summarise(read_runs([again, sft]))) == ["sft", "again"]


@pytest.mark.parametrize("name", ["a-masked", "folder"])
def test_a_named_run_is_the_reference(tmp_path: Path, name: str) -> None:
    runs = four(tmp_path)
    summary = summarise(read_runs(runs), str(runs[0]) if name == "folder" else name)
    assert labels(summary) == ["a-masked", "d-pretrained", "c-sft", "b-lora"]
    assert {pair.first for pair in summary.pairs[:3]} == {"a-masked"}


def test_a_setting_with_seeds_is_the_reference(tmp_path: Path) -> None:
    for method in ("sft", "masked_thought"):
        for seed in (1, 2):
            fake_evaluation(
                fake_run(tmp_path / f"{method}-s{seed}-x", method=method, seed=seed), correct=range(9 + seed)
            )
    (plain,) = summarise(read_runs([tmp_path])).group_pairs
    assert (plain.first, plain.second) == ("sft (2 seeds)", "masked_thought (2 seeds)")
    (pair,) = summarise(read_runs([tmp_path]), "masked_thought").group_pairs
    assert (pair.first, pair.second) == ("masked_thought (2 seeds)", "sft (2 seeds)")


def test_an_unknown_baseline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"baseline=other: expected .* one of a-masked, b-lora, c-sft, d-pretrained"):
        summarise(read_runs(four(tmp_path)), "other")
