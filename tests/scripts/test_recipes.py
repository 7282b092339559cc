"""docs/papers: every preset of a paper stands there beside what was published, and the pages are current."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mft_cli.config.compose import CONF
from mft_cli.errors import UserError
from scripts import recipes

PRESETS = {p.stem for p in (CONF / "experiment").glob("paper_*.yaml")}


@pytest.mark.parametrize("page", sorted(recipes.pages()), ids=lambda page: page.stem)
def test_the_page_is_current(page: Path):
    assert page.read_text() == recipes.pages()[page](), "run python scripts/recipes.py"


def test_every_preset_of_a_paper_is_there_once():
    named = [
        r["preset"] for paper in recipes.PAPERS.glob("*.yaml") for r in yaml.safe_load(paper.read_text())["recipes"]
    ]
    assert sorted(named) == sorted(PRESETS)


@pytest.mark.parametrize(
    ("recipe", "trouble"),
    [
        ({"values": {"train.epochs": [3, "line 1"]}}, "train.epochs is published as 3 and set to 10; say why"),
        (
            {"values": {"train.epochs": [10, "line 1"]}, "differs": {"train.epochs": "no"}},
            "says why it differs, and it does not",
        ),
        ({"values": {"train.epoch": [10, "line 1"]}}, "no key train.epoch"),
        ({"values": {}, "differs": {"train.epochs": "no"}}, "differs names train.epochs"),
    ],
)
def test_a_difference_needs_its_reason(recipe: dict[str, Any], trouble: str):
    with pytest.raises(UserError, match=trouble):
        list(recipes.rows({"preset": "p", **recipe}, {"train": {"epochs": 10}}))


def test_numbers_are_compared_as_numbers():
    assert recipes.same(1e-5, "1e-5")
    assert recipes.same(0.1, 0.1)
    assert not recipes.same("4-7", "4-8")
    assert not recipes.same(4, "4-7")
