"""Every flip can be read: on the page up to a limit, in flips.txt whole; the graded answer is marked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli import report
from mft_cli.report.compare.flips import PER_PAIR, Marked, marked
from tests.support.fake_runs import NASTY, fake_evaluation, fake_run, write_lines


def test_the_answer_is_marked() -> None:
    assert marked("the answer is 42.", [14, 16], None) == Marked("the answer is ", "42", ".")
    assert marked("text", None, None) == Marked("text")


@pytest.mark.parametrize("span", [[2, 2], [3, 99]])
def test_a_span_outside_of_the_text_marks_nothing(span: list[int]) -> None:
    assert marked("text", span, 100) == Marked("text")


def test_a_long_text_keeps_its_answer() -> None:
    text = "a" * 5000 + "42" + "b" * 5000
    shown = marked(text, [5000, 5002], 600)
    assert shown.answer == "42"
    assert "more characters" in shown.before
    assert len(shown.before) + len(shown.after) < 600


def test_all_flips_are_in_the_file_and_the_answer_is_marked_on_the_page(tmp_path: Path) -> None:
    a, b = fake_run(tmp_path / "sft"), fake_run(tmp_path / "masked", method="masked_thought")
    fake_evaluation(a, correct=range(5), texts={7: NASTY})
    folder = fake_evaluation(b, correct=range(40), texts={7: NASTY[::-1]})
    rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    rows[6] |= {"answer_from": "marker", "answer_span": [0, 3]}
    write_lines(folder / "scores.jsonl", rows)
    paths = report.build([a, b], tmp_path / "out")
    text, page = paths.flips.read_text(encoding="utf-8"), paths.html.read_text(encoding="utf-8")
    assert text.startswith("==== gsm8k: masked − sft: 35 gained, 0 lost ====")
    assert all(f"---- gained test-{i}," in text for i in range(5, 40))
    assert "\x1b" not in text
    assert page.count('class="flip"') == PER_PAIR
    assert "15 not shown here" in page
    assert '<mark title="the answer that was graded">Let</mark>' in page
    assert "answer <bdi>42</bdi> (from marker)" in page
