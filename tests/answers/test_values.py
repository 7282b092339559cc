r"""Values, exact and in floating point, which spare most answers the algebra: never another value than the algebra's."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from mft_cli.answers import symbolic
from mft_cli.answers.equality import equal_fast
from mft_cli.answers.exact_values import Exact
from mft_cli.answers.forms import Form, read
from mft_cli.answers.values import exact_value, surely_differ, value

PAIRS = [Path(__file__).parent / name for name in ("equal_pairs.jsonl", "different_pairs.jsonl")]

MISREAD = "4(3)"  # the algebra's parser takes it for a mixed number: 7


def leaves(form: Form) -> Iterator[Form]:
    yield form
    for item in form.items:
        yield from leaves(item)


def test_values_are_those_of_the_algebra():
    rows = [json.loads(line) for file in PAIRS for line in file.read_text(encoding="utf-8").splitlines()]
    texts = {text for row in rows for text in (row["gold"], row["answer"]) if text != MISREAD}
    forms = {form.text: form for text in texts for form in leaves(read(text)) if form.kind == "expr"}
    known = {text: found for text, form in forms.items() if (found := value(form)) is not None}
    assert len(known) > 60
    for text, (number, size) in known.items():
        exact = complex(symbolic.value(forms[text]).evalf(30))
        assert abs(exact - number) <= 1e-9 * (1 + size), text


@pytest.mark.parametrize(
    "text",
    [r"2\frac12\pi", r"1/2\pi", r"\sqrt[3]{-8}\pi", "3!", r"\log 2", "x", "2^{100}", "2^3^2", r"\frac{1}{1-1}\pi",
     r"\frac{\pi}{\sqrt{2}-\sqrt{2}}", "e^2", "(" * 60 + r"\pi" + ")" * 60 + "(", r"\pi" * 50, "", "+"],
)  # fmt: skip
def test_what_has_no_certain_value(text: str):
    assert value(Form("expr", text)) is None


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\sqrt{51}", "6 - 5i"),
        ("3", r"\frac{3\sqrt{3}}{4}"),
        (r"\frac{3\sqrt{3}}{4}", r"\cot x"),
        ("5x - 7y + 11z + 4 = 0", "3"),
        ("28800", r"3 \sqrt{5}"),
        (r"\{\sqrt{2}, 3\}", r"\{\sqrt{2}, \pi\}"),
    ],
)
def test_far_off_answers_need_no_algebra(gold: str, answer: str):
    assert equal_fast(gold=gold, answer=answer) is False


def test_the_root_of_a_negative_number_is_on_one_side():
    found = value(Form("expr", r"\sqrt{-4}\sqrt[3]{8}")), value(Form("expr", r"\sqrt{-4}\pi"))
    assert found[0] is None
    assert found[1] is not None
    assert found[1][0].imag > 0  # the algebra's 2 i \pi; -4 - 0j has -2 i


def test_near_values_are_left_to_the_algebra():
    assert equal_fast(gold=r"\sqrt[3]{2}", answer=r"\frac{2}{\sqrt[3]{4}}") is None
    assert equal_fast(gold=r"\sqrt{3 + 2\sqrt{2}}", answer=r"1 + \sqrt{2}") is None
    assert not surely_differ(read(r"10^{10}\sqrt{2}"), read(r"10^{10}\sqrt{2} + 1"))  # rounding would hide the 1
    assert not surely_differ(read(r"\pi"), read("3.1"), Fraction(1, 10))
    assert surely_differ(read(r"\pi"), read("3.1"), Fraction(1, 100))


# ---- exact values ---------------------------------------------------------------------------------------------------


def test_exact_values_are_those_of_the_algebra():
    import sympy

    rows = [json.loads(line) for file in PAIRS for line in file.read_text(encoding="utf-8").splitlines()]
    texts = {text for row in rows for text in (row["gold"], row["answer"]) if text != MISREAD}
    forms = {form.text: form for text in texts for form in leaves(read(text)) if form.kind == "expr"}
    known = {text: found for text, form in forms.items() if (found := exact_value(form)) is not None}
    assert len(known) > 150
    for text, found in known.items():
        algebra = symbolic.value(forms[text])
        letters = {symbol.name: symbol for symbol in algebra.free_symbols} | {"pi": sympy.pi}
        ours = sum(
            sympy.Rational(c.numerator, c.denominator) * sympy.sqrt(radicand) * (sympy.I if imaginary else 1)
            * sympy.prod([letters[name] ** power for name, power in powers])
            for (radicand, imaginary, powers), c in found.terms.items()
        )  # fmt: skip
        assert sympy.simplify(algebra - ours) == 0, text


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", True),
        (r"\sqrt{12}", r"2\sqrt{3}", True),
        (r"\sqrt{2}-1", r"\frac{1}{1+\sqrt{2}}", True),
        (r"\frac{1}{\sqrt{2}+\sqrt{3}+\sqrt{5}}", r"\frac{2\sqrt{3}+3\sqrt{2}-\sqrt{30}}{12}", True),
        (r"\frac{1}{2+i}", r"\frac{2-i}{5}", True),
        (r"\frac{1}{(1+i)(1+\sqrt{2})}", r"\frac{(1-i)(\sqrt{2}-1)}{2}", True),
        (r"\sqrt{-4}\pi", r"2i\pi", True),
        (r"\sqrt{0.5}", r"\frac{\sqrt{2}}{2}", True),
        ("(x+1)^3", "x^3 + 3x^2 + 3x + 1", True),
        ("(a+5)(b+2)", "ab + 5b + 2a + 10", True),
        (r"\frac{x^2}{x}", "x", True),
        ("12", MISREAD, True),
        (r"10^{10}\sqrt{2}", r"10^{10}\sqrt{2} + 1", False),
        (r"\sqrt{2}", r"\frac{141421356237}{100000000000}", False),
        ("x^2 + 1", "x^2 + 2", False),
        ("y = 2x + 3", "2x - y + 3 = 0", True),
        ("2x + 4y = 6", "x + 2y - 3 = 0", True),
        ("2x + 4y = 6", "x + 2y = 4", False),
        (r"f(x) = 2x", "f(n) = 2n", None),  # a function's letter has any name: the algebra's matter
        ("x = f(3)", "x = 3f", None),
        (r"f^{-1}(6)", r"\frac{6}{f}", None),
        (r"\frac{x+1}{x^2-1}", r"\frac{1}{x-1}", None),
        (r"\frac{1}{\sqrt{2}-\sqrt{2}}", "x", None),
    ],
)
def test_exact_equality_at_once(gold: str, answer: str, same: bool | None):
    assert equal_fast(gold=gold, answer=answer) is same
    assert equal_fast(gold=answer, answer=gold) is same


def test_random_sums_agree_with_numbers():
    """Inverses, products and powers of random surds, against floating point."""
    generator = random.Random(0)

    def draw() -> Exact:
        parts = [Exact.number(Fraction(generator.randint(-9, 9), generator.randint(1, 9))) for _ in range(3)]
        roots = [Exact.number(Fraction(generator.randint(-30, 30))).sqrt() for _ in range(3)]
        return parts[0] + parts[1] * roots[0] + parts[2] * roots[1] * roots[2]

    def number(value: Exact) -> complex:
        return sum(complex(c) * radicand**0.5 * 1j**i for (radicand, i, _), c in value.terms.items())

    checked = 0
    for _ in range(200):
        first, second = draw(), draw()
        assert number(first * second) == pytest.approx(number(first) * number(second), rel=1e-9, abs=1e-6)
        if abs(number(first)) > 0.1:
            assert first / first == Exact.number(Fraction(1))
            assert number(second / first) == pytest.approx(number(second) / number(first), rel=1e-6, abs=1e-6)
            assert first**3 == first * first * first
            checked += 1
    assert checked > 150
