"""Extraction of answers and exact equality."""

import json
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mft_cli.answers.equality import equal, equal_fast
from mft_cli.answers.extraction import cut_new_turn
from mft_cli.answers.find import extract
from mft_cli.answers.numbers import parse_number
from mft_cli.answers.reading import number_reader

# gold: everything that must be accepted for it
EQUAL = {
    "1000": ["1,000", "1000.0", "1000.", "1{,}000", r"1\,000", "$1,000", r"\$1,000", "$1,000.00", "1 thousand",
          "1e3", "1k",
             "01000", "+1000", "1000 dollars", "US$1000", "1000 USD", "€1000", "1000€", "£1,000", "$1000$", r"\(1000\)",
             r"\[1000\]", "**1000**", "`1000`", r"\boxed{1000}", r"$\boxed{1,000}$", r"\text{1000}", r"\mathbf{1000}",
             r"1000\text{ km}", "1\u202f000".replace("\u202f", ","), "10^3", r"10^{3}", r"5 \times 200",
             r"1 \times 10^3"],
    "0.5": ["1/2", ".5", "0.50", "0.500", r"\frac12", r"\frac{1}{2}", r"\dfrac{1}{2}", r"\tfrac12", r"\frac 1 2", "2/4",
            "1 / 2", "½", "(1/2)", "3/6", "0.5 hours", "$0.50", "5e-1", r"$\frac{1}{2}$"],
    "27": ["27.0", "27.00", "x=27", "x = 27", "$x = 27$", "20+7 = 27", "27 apples", "27 km/h", "27 minutes.",
          "27!".rstrip("!"),
           "= 27", "54/2", "27kg", "27 m", "27 square feet", "27-year", "27 / 1", r"27^\circ", "27°", r"3^3",
          r"\sqrt{729}",
           r"9\cdot 3", r"27\,\text{cm}", "27 US dollars", "Rs. 27", "(27)", "{27}".strip("{}"), "27 dozen"],
    "25": ["025", "0025", "25.000", "2.5e1", "100/4", "-(-25)", r"5^2", "y=25"],
    "-3": ["-3", "−3", "–3", "- 3", "-3.0", "-6/2", r"-\frac{6}{2}", "-$3", "$-3", "x=-3"],
    "2.5": ["2 1/2", r"2\frac{1}{2}", r"2\frac12", "5/2", "2.50", "2½", "$2.50", "25/10", "10/4"],
    "40%": ["40%", "40", r"40\%", "40 %", "40 percent", "40.0%", "40 per cent"],
    "1,450,000": ["1450000", "1.45 million", "$1,450,000", "1,450,000.00", "1.45e6"],
    "2/3": ["4/6", r"\frac{2}{3}", r"\frac23", r"\frac{4}{6}", "⅔"],
    "0": ["0", "-0", "0.0", "0/5", "$0", "zero".replace("zero", "00")],
    r"\sqrt{2}": [r"\sqrt{2}", r"\sqrt 2", r"\frac{2}{\sqrt{2}}", r"2^{1/2}"],
    r"\{1,2\}": [r"\{2,1\}", r"\{1, 2\}"],
    "(1,2)": ["(1,2)", "(1, 2)", r"\left(1,2\right)"],
}  # fmt: skip

UNEQUAL = {
    "5": ["500", "0.05", "5.0000001", "4.9999999999", "-5", "50", "5x", "5 x", "5y", "5 hours 30 minutes",
          "5 million", "5 or 6",
          "5 and 6", "5, 6", "5,6", "[5,6]", "(5,6)", "x>5", r"x \geq 5", "5^2", "5!", "five", "", " ", "5/2",
          "5 1/2", "5:00",
          "5 squared", "5 pi", r"5\pi", r"5\sqrt{2}", "5i", "5 halves", "5e3", "5k", "5 thousand", "5%", "55",
          "05.5", r"\frac15",
          "5-6", "5 to 6", "6=5=6", "5 plus", "3 5", "five 6", "no answer", "?", "5\0", "5;6"],
    "12": ["1,2", "1 2", "(1,2)", "{1,2}", r"\{1,2\}", "1.2", "1:2", "21", "12,12", "1/2", "1 or 2", "[1,2]"],
    "10000": ["10001", "10000.0001", "1000", "100000", "10,00", "10,0000", "9999.9999", "1,0000"],
    "1000": ["1,00", "1,0,0,0", "1.000", "1000 or 2000", "100,0"],
    "[1,2]": ["(1,2)", "[1,2)", "(1,2]", "1,2", "[1,3]", r"\{1,2\}"],
    "(1,2)": ["[1,2]", "(2,1)", "(1,2]"],
    "0.5": ["50%", "5", "0.05", ".05", "0.51", "1/3", "2/1"],
    "40%": ["0.4", "0.4%", "4%", "41%", "400"],
    "40": ["40%", r"40\%", "0.4", "40 percent"],
    "1/3": ["0.333333", "0.3333333333333333", "0.33", "33%", "3/1", "1.3"],
    "30": ["1:30", "30:00", "0:30"],
    "52": ["5²", "5^2"],
    r"\sqrt{2}": ["1.4142135623730951", "1.41", r"\sqrt{3}", "2"],
    "3.14": [r"\pi", "3.1415", "22/7"],
}  # fmt: skip

EXTRACTED = [
    ("She makes 9*2=18.\n#### 18", "18"),
    ("#### $18 per day", "18"),
    ("#### 18 dollars", "18"),
    ("#### 40%", "40"),
    ("#### 2,125", "2125"),
    ("#### -10", "-10"),
    ("####\n18", "18"),
    ("#### 18. She makes 18 dollars a day", "18"),
    ("#### 18<|im_end|>", "18"),
    ("#### 18 / 2 = 9", "9"),
    ("#### $5.00/hour for 3 days", "5"),
    ("The answer is $n=204$, where n>2.", "204"),
    ("The answer is\n\n$$\n42\n$$\n", "42"),
    ("The answer is 1.5 million dollars in 3 years", "1500000"),
    ("The answer is 2:30 pm", "2:30 pm"),
    ("The answer is the 20-year bond", "20"),
    ("#### 5\nno, wait\n#### 7", "7"),
    ("#### Step 1: sum\n5+5=10\n#### Step 2: done\nThe answer is 12.", "12"),
    ("so \\boxed{5} then \\boxed{6}, which is more than 7", "6"),
    ("We have \\boxed{\\frac{1}{2}} and", "0.5"),
    ("\\boxed{\\text{18 dollars}}", "18"),
    ("\\boxed{(1,2)}", "(1,2)"),
    ("\\boxed{5} and \\boxed{6", "5"),
    ("<think>\\boxed{3}</think>The answer is 4", "4"),
    ("<think> answer is 3 </think> ", None),  # thoughts are not answers, a box in them aside
    ("<think> so \\boxed{3} </think> ", "3"),
    ("The answer is **25**", "25"),
    ("**Final Answer**: 25", "25"),
    ("The final answer is $x = 12$.", "12"),
    ("Answer: 12 apples (3 each)", "12"),
    ("Answer: $$18$$", "18"),
    ("The answer is: \\[ \\boxed{42} \\]", "42"),
    ("The answer is $70,000.", "70000"),
    ("The answer is 5 + 3 which is 8", "8"),
    ("the answer is 5 apples and 3 pears, 8 in total", "8"),
    ("It is 16-3=13", "13"),
    ("from 3 to 5", "5"),
    ("The total is $1,234.50.", "1234.5"),
    ("ends with 3/4", "0.75"),
    ("- 5", "5"),
    ("temp is -$5", "-5"),
    ("the answer...5", "5"),
    ("no digits", None),
    ("", None),
    ("####", None),
    # a base model goes on with questions of its own; what it answers there does not count
    ("#### 18\n\nQuestion: How many?\nAnswer: 5\n#### 7", "18"),
    ("#### 18\n\nQ: more?\nA: 5\n#### 7", "18"),
    ("#### 18\n### Instruction:\nfoo 9\n### Response:\n#### 9", "18"),
    ("The answer is 18.\n\nQ: what is 2+2?\nA: The answer is 4.", "18"),
    ("\\boxed{18}\n\nProblem 2: what?\n\\boxed{4}", "18"),
    ("#### 18\n\n<|im_start|>user\n#### 4", "18"),
    # but a restated question in front of the first answer cuts nothing
    ("Question: there are 3\nAnswer: 4+4\n#### 8", "8"),
]


def pairs(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(gold, answer) for gold, answers in table.items() for answer in answers]


def test_enough_pairs() -> None:
    assert len(pairs(EQUAL)) >= 120
    assert len(pairs(UNEQUAL)) >= 80


@pytest.mark.parametrize(("gold", "answer"), pairs(EQUAL))
def test_equal(gold: str, answer: str) -> None:
    assert equal(gold=gold, answer=answer)


@pytest.mark.parametrize(("gold", "answer"), pairs(UNEQUAL))
def test_not_equal(gold: str, answer: str) -> None:
    assert not equal(gold=gold, answer=answer)


@pytest.mark.parametrize(("text", "answer"), EXTRACTED)
def test_extract(text: str, answer: str | None) -> None:
    assert extract(text) == answer


def test_markers_and_last_number_are_the_benchmarks_choice() -> None:
    assert extract("<answer>18</answer> so 3", markers=["<answer>"]) == "18"
    assert extract("it is 6", last_number=False) is None
    assert extract("#### 6, <ans> 5", markers=["<ans>"]) == "5"


def test_cut_new_turn_keeps_text_without_an_answer() -> None:
    text = "Let me see.\nQuestion: how many?\nAnswer"
    assert cut_new_turn(text, ["####"], number_reader(loose=True)) == text


@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_decimals_round_trip(units: int, places: int) -> None:
    value = Fraction(units, 10**places)
    sign = "-" if units < 0 else ""
    digits = str(abs(units)).rjust(places + 1, "0")
    whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
    text = f"{sign}{int(whole):,}" + (f".{part}" if places else "")
    number = parse_number(text)
    assert number is not None
    assert number.value == value
    answer = extract(f"So we get this.\n#### {text}")
    assert answer is not None
    assert equal_fast(gold=text, answer=answer) is True
    other = str(value + Fraction(1, 10**9))
    assert equal_fast(gold=text, answer=other) is False


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    answer = extract(text)
    assert answer is None or isinstance(answer, str)
    assert equal_fast(gold="5", answer=text) in (True, False, None)


HOSTILE = [
    "9" * 3_000_000, "\\boxed{" * 100_000, "{" * 10_000 + "}" * 10_000, "####" * 300_000, "answer is " * 200_000,
    "1," * 500_000, "\0" * 100_000, "Question: " * 100_000, "$" * 100_000, " " * 1_000_000, "\n" * 500_000,
          "1/" * 300_000,
    "answer" + "*" * 500_000, "#### " + " " * 500_000, ("answer is" + " " * 1000) * 300, "\\frac" * 1000 + "1",
          "\n \n>" * 90_000,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_fast(text: str) -> None:
    start = time.perf_counter()
    extract(text)
    equal_fast(gold="5", answer=text)
    equal_fast(gold="5", answer=text[:1000])
    assert time.perf_counter() - start < 2


def test_thousands_of_answers_a_second() -> None:
    text = "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether.\n" * 3 + "#### 72"
    start = time.perf_counter()
    for _ in range(3000):
        assert equal_fast(gold="72", answer=extract(text) or "")
    assert time.perf_counter() - start < 1.5


def test_every_gold_of_gsm8k_is_right_in_three_phrasings() -> None:
    folder = os.environ.get("MFT_DATA_DIR")
    file = Path(folder or "") / "gsm8k" / "test.jsonl"
    if not folder or not file.is_file():
        pytest.skip("needs MFT_DATA_DIR with gsm8k/test.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 1319
    for row in rows:
        gold = row["answer"].rpartition("####")[2].strip()
        for phrasing in (row["answer"], f"So the total is this. The answer is ${gold}.", f"Thus \\boxed{{{gold}}}."):
            assert equal_fast(gold=gold, answer=extract(phrasing) or "") is True, (gold, phrasing)
