"""Letters of multiple-choice answers, exact text, and LaTeX answers in running text."""

from __future__ import annotations

import json

import pytest

from mft_cli.answers.choices import options
from mft_cli.answers.find import extract_choice, extract_math, extract_text
from mft_cli.answers.mathematics import equal_text
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.eval.grading.graders import grade

CHOICES = {"A": "a dog", "B": "12 meters", "C": "Mercury", "D": "12 meters"}
LETTERS = [
    ("The answer is C.", "C"), ("The answer is (C).", "C"), ("(C)", "C"), ("C", "C"), ("C.", "C"), ("C) Mercury", "C"),
    (r"So it is \boxed{C}.", "C"), (r"\boxed{\text{(C)}}", "C"), (r"\boxed{\textbf{(C) }Mercury}", "C"),
    ("Answer: C", "C"), ("**Answer: C**", "C"), ("The correct answer is **C**.", "C"), ("The answer is option C", "C"),
    ("<think>A or B? The answer is B</think> The answer is C.", "C"), ("I pick (C) because it is small.", "C"),
    ("Not A, since dogs bark.\nThe answer is C because of this.", "C"), ("The correct option is C", "C"),
    ("The answer is Mercury.", "C"), ("Mercury", "C"), (r"The answer is \text{Mercury}.", "C"),
    ("The answer is A dog.", "A"), ("The answer is A.", "A"), ("A: because", "A"),
    ("The answer is 12 meters.", None), ("I do not know.", None), ("", None), ("The answer is Z.", None),
    ("A dog barks and a cat does not", None), ("The answer is C.\n\nQuestion: next?\nThe answer is B.", "C"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "letter"), LETTERS)
def test_letters(text: str, letter: str | None) -> None:
    assert extract_choice(text, choices=CHOICES) == letter


def test_options_of_a_prompt() -> None:
    shown = "Example\n(A) x\n(B) y\nQuestion: which?\n(A) red\n(B) green\n(C) blue\nAnswer:"
    assert options(shown) == {"A": "red", "B": "green", "C": "blue"}
    assert options("A. one\nB. two") == {"A": "one", "B": "two"}
    assert options("no options (A) here") == {}


def test_choices_are_graded() -> None:
    gold = json.dumps({"answer": "B", "choices": {"A": "red", "B": "green"}})
    texts = ["The answer is B.", "green", r"\boxed{A}", "hm"]
    records = [{"id": str(i), "sample": 0, "gold": gold, "completion": text} for i, text in enumerate(texts)]
    scores = grade(records, BenchmarkConfig(answer_type="choice"), EvalConfig())
    assert [s["correct"] for s in scores] == [True, True, False, False]
    assert [s["status"] for s in scores] == ["ok", "ok", "ok", "unparsed"]


MATHEMATICS = [
    (r"The answer is $\frac12$ because it is half.", "0.5"), (r"so $\boxed{\frac{1}{2}}$.", "0.5"),
    ("The answer is even.", "even"), ("The answer is June 20.", "June 20"), ("The answer is $5$ million.", "$5$ million"),
    ("#### 27.0", "27"), (r"\boxed{50\%}", "50"), (r"The answer is $x=1$ and $x=2$.", "$x=1$ and $x=2$"),
    ("The answer is:\n\\[\n x^2 + 1 \n\\]\nas wanted.", "\\[\n x^2 + 1 \n\\]"), (r"\boxed{3} then \boxed{5}", "5"),
    ("the final answer is 4:30 p.m. on Monday the third of May", "4:30 p.m. on Monday the third of May"),
    ("It is 16-3=13", "13"), ("nothing", None), (r"<think>\boxed{1}</think>So $\boxed{2}$", "2"),
    ("The answer is 12 apples and that is what we wanted to find out.", "12"), (r"\boxed{a_{1}+\{2\}}", r"a_{1}+\{2\}"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer"), MATHEMATICS)
def test_mathematics(text: str, answer: str | None) -> None:
    assert extract_math(text) == answer


def test_text_is_exact_but_for_case_and_dress() -> None:
    assert extract_text("We see.\nThe answer is **Yes**.") == "Yes"
    assert extract_text("valid") == "valid"
    assert extract_text("one\ntwo") is None
    for answer in ("yes", "Yes.", " YES ", '"yes"', r"\text{yes}", "**yes**"):
        assert equal_text(gold="Yes", answer=answer)
    for answer in ("yes and no", "no", "", "yess", "y e s"):
        assert not equal_text(gold="Yes", answer=answer)
