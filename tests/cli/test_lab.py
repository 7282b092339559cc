"""`mft lab` makes a model of the laboratory once, `lab:<name>` leads to it, and `mft claims run` trains from it, once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mft_cli.cli import claims, lab
from mft_cli.config import laboratory
from mft_cli.config.model_path import model_path
from mft_cli.errors import UserError
from mft_cli.sweep.claims import design

RECIPE = """# @package _global_
defaults:
  - override /data: chains
  - override /prompt: raw
model: {path: new:chains, new: {layers: 1, width: 16, heads: 2, feed_forward: 16}}
data: {sources: {chains: {split: facts, rows: 16}}}
train: {max_steps: 1, precision: fp32, global_batch_size: 4}
"""
CLAIM = """claim: One step is better than two, and than a third one on top.
source: {document: "000", section: none, published: none}
common: [experiment=laboratory, data.sources.chains.rows=8, train.global_batch_size=4]
arms: {one: [train.max_steps=1], two: [train.max_steps=2], on_top: [from=two, train.max_steps=1]}
contrasts: {gain: {one/chains_ordered: 1, two/chains_ordered: -1}}
seeds: [1]
benchmarks: [chains_ordered]
problems: 4
smallest: 0.02
budget_minutes: 1
"""


@pytest.fixture
def conf(monkeypatch, tmp_path: Path) -> Path:
    """A laboratory of one tiny model, beside the real configuration."""
    (tmp_path / "conf").symlink_to(laboratory.CONF)
    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_that_was_not_made_is_told(conf: Path):
    with pytest.raises(
        UserError, match="lab:lab_small: not made on this machine yet; run mft lab pretrain lab_small once"
    ):
        model_path("lab:lab_small")
    with pytest.raises(UserError, match=r"lab:lab_huge: no such model of the laboratory; valid: .*lab_small"):
        model_path("lab:lab_huge")


def test_another_recipe_is_another_model(conf: Path, monkeypatch):
    before = laboratory.lab_run("lab_small")
    assert before == laboratory.lab_run("lab_small")
    monkeypatch.setattr(laboratory, "VERSION", laboratory.VERSION + 1)
    assert laboratory.lab_run("lab_small") != before


@pytest.mark.parametrize("words", [[], ["pretrain"], ["make", "lab_small"], ["list", "more"]])
def test_what_it_does_not_know(words: list[str]):
    with pytest.raises(UserError, match="mft lab has the commands list and pretrain NAME"):
        lab.main(words)
    with pytest.raises(UserError, match="mft claims has the commands list, run NAME and report"):
        claims.main(words)


def test_pretrain_then_a_claim_from_nothing(conf: Path, monkeypatch, capsys):
    """A model, three runs, their evaluations, the verdict; the second time nothing is trained."""
    made: list[str] = []
    text = laboratory.CONF.joinpath("experiment", "pretrain_lab_small.yaml")
    own = conf / "own"
    (own / "experiment").mkdir(parents=True)
    for folder in laboratory.CONF.iterdir():
        if folder.name != "experiment":
            (own / folder.name).symlink_to(folder)
    for file in (laboratory.CONF / "experiment").glob("*.yaml"):
        (own / "experiment" / file.name).write_text(RECIPE if file == text else file.read_text())
    for module in ("mft_cli.config.compose", "mft_cli.config.laboratory"):
        monkeypatch.setattr(f"{module}.CONF", own)
    monkeypatch.setattr(design, "FOLDER", conf / "claims")
    design.FOLDER.mkdir()
    (design.FOLDER / "steps.yaml").write_text(CLAIM)
    lab.main(["list"])
    assert "lab_small: not made yet; mft lab pretrain lab_small" in capsys.readouterr().out
    claims.main(["run", "steps"])
    told = capsys.readouterr().out
    assert "3 runs of 3, 1 seed an arm, 4 problems" in told
    folders = {
        arm: design.overrides_of(design.read("steps"), arm, 1, Path("outputs/claims"))[-1] for arm in ("two", "on_top")
    }
    two, on_top = (Path(word.removeprefix("run_dir=")) for word in folders.values())
    assert yaml.safe_load((on_top / "config.yaml").read_text())["model"]["path"] == str(two / "export")
    assert "not committed when it first ran" in told
    monkeypatch.setattr("mft_cli.cli.train.run_training", made.append)
    claims.main(["run", "steps"])
    assert not made
    capsys.readouterr()
    claims.main(["report", "out=page.md"])
    assert Path("page.md").read_text() == capsys.readouterr().out
    lab.main(["list"])
    assert str(laboratory.lab_export("lab_small")) in capsys.readouterr().out
