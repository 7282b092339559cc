"""Worked examples before a problem whose options are ranked: which rows, their text, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mft_cli.config.schema.inputs import SourceConfig
from mft_cli.config.schema.likelihood import LikelihoodConfig
from mft_cli.data.files import BadRow
from mft_cli.data.shots import Shots, drawn
from mft_cli.data.sources import Row
from tests.support.harness import write_jsonl

ROWS = [{"question": f"Q{n}", "topic": "ab"[n % 2], "choices": ["no", "yes"], "answer": n % 2} for n in range(8)]


def shots(tmp_path: Path, seed: int = 0, **rule: Any) -> Shots:
    file = write_jsonl(tmp_path / "train.jsonl", ROWS)
    rule = {"shots": 2, "shots_path": str(file), **rule}
    return Shots(LikelihoodConfig(**rule), SourceConfig(path="other.jsonl", response=None), "mine", seed)


def asked(number: int) -> Row:
    return Row(number, f"rows.jsonl:{number}", meta=dict(ROWS[number]))


def test_preamble_then_each_example_with_its_right_option(tmp_path: Path):
    made = shots(tmp_path, preamble="About {{ topic }}.\n\n", shots_order="first", shots_same="topic")
    assert made.before(asked(5), "id") == "About b.\n\nQ1 yes\n\nQ3 yes\n\n"


def test_a_problem_is_never_an_example_of_itself(tmp_path: Path):
    made = shots(tmp_path, shots_order="first")
    assert made.before(asked(0), "id") == "Q1 yes\n\nQ2 no\n\n"
    everything = shots(tmp_path, shots=7)
    assert "Q3" not in everything.before(asked(3), "id")


def test_other_examples_for_every_problem_the_same_ones_again(tmp_path: Path):
    texts = {id: shots(tmp_path).before(asked(0), id) for id in map(str, range(12))}
    assert len(set(texts.values())) > 6
    assert texts == {id: shots(tmp_path).before(asked(0), id) for id in texts}
    assert texts != {id: shots(tmp_path, seed=1).before(asked(0), id) for id in texts}


def test_a_draw_is_a_permutation():
    rows = [Row(n, str(n)) for n in range(50)]
    order = [row.id for row in drawn(rows, 0, "id")]
    assert sorted(order) == list(range(50)) != order


def test_too_few_rows_are_told(tmp_path: Path):
    with pytest.raises(BadRow, match=r"likelihood\.shots=4, but only 3 rows with topic=b are there"):
        shots(tmp_path, shots=4, shots_same="topic").before(asked(1), "id")


def test_without_shots_no_source_is_read():
    made = Shots(LikelihoodConfig(preamble="P: "), SourceConfig(path="missing.jsonl"), "mine", 0)
    assert made.before(asked(0), "id") == "P: "


def test_a_local_copy_is_read_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_jsonl(tmp_path / "mine/train.jsonl", ROWS)
    monkeypatch.setenv("MFT_DATA_DIR", str(tmp_path))
    rule = LikelihoodConfig(shots=1, shots_split="train", shots_local=["mine/train.jsonl"], shots_order="first")
    made = Shots(
        rule, SourceConfig(path="owner/data", split="test", local=["mine/test.jsonl"], response=None), "mine", 0
    )
    assert made.before(asked(1), "id") == "Q0 no\n\n"
