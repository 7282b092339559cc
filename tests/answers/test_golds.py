"""Golds that an answer type cannot read."""

import pytest

from mft_cli.answers.golds import is_readable

SOLUTION = "He has 3 apples and buys 4 more, so that he then has 3 + 4 = 7 apples in the basket, which is the answer."


@pytest.mark.parametrize("gold", ["18", "1,000", "025", "27.0", "-3", "93.5%", "$5", "1/2", "2 1/2", "x = 5"])
def test_numbers(gold: str) -> None:
    assert is_readable(gold, "number")


@pytest.mark.parametrize("gold", ["None", "true", "#### 5", SOLUTION, "", "nan", "2 + 3 = 5", "He has 2 + 3 = 5"])
@pytest.mark.parametrize("answer_type", ["number", "choice"])
def test_what_is_no_number_and_no_letter(gold: str, answer_type: str) -> None:
    assert not is_readable(gold, answer_type)


@pytest.mark.parametrize("gold", ["\\frac{1}{2}", "They are equal", "\\text{Monday}", "5:6", "3:30 p.m.", "$69$,$84$"])
def test_mathematics(gold: str) -> None:
    assert is_readable(gold, "math")


@pytest.mark.parametrize("gold", ["None", "true", "#### 5", SOLUTION, "x" * 400])
def test_what_is_no_mathematical_answer(gold: str) -> None:
    assert not is_readable(gold, "math")


def test_choices_and_texts() -> None:
    assert is_readable("(B)", "choice")
    assert is_readable("E", "choice", "ABCDE")
    assert not is_readable("E", "choice", "ABCD")
    assert not is_readable("b", "choice")
    assert is_readable("None", "text")
