"""A bold value in what an announcement announces is the answer, whatever numbers stand after it."""

from __future__ import annotations

import pytest

from mft_cli.answers.find import extract, extract_math


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("### Final Answer:\n\n**18**\n\nThis uses 9 eggs.", "18"),
        ("**Final Answer:**\n\n**18**\n\nThis uses 9 eggs.", "18"),
        ("## Answer\n**$18**\n\n*Check: 9 * 2 = 18, of 16 eggs*", "18"),
        ("**Final Answer:** Tom has **8 apples** left out of 11.", "8"),
        ("**Answer:** The flight takes **160 minutes** (2 hours and 40 minutes).", "160"),
        ("**Answer:** The walk takes **204** minutes.", "204"),
        ("The answer is that he buys **3** bags at **5** dollars, 15 in all.", "15"),  # two bold parts decide nothing
        ("**Answer: 18**", "18"),
        ("Answer: **18** of 20", "18"),
    ],
)
def test_numbers(text: str, answer: str):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("**Final Answer:** The area of the triangle is **12 cm** in all.", "12"),
        ("**Answer:** The walk takes **204** minutes for 3 people.", "204"),
        ("**Answer: 18**", "18"),
    ],
)
def test_mathematics(text: str, answer: str):
    assert extract_math(text, markers=(), last_number=False) == answer
