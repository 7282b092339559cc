"""Equality of mathematical expressions by math-verify, made exact where both sides are numbers.

Imported only in the worker processes: sympy is slow to import, and an answer such as 9^{9^{9^9}} never comes back.
math-verify's own time limits are signals that a long multiplication of big integers does not notice; they are off.
"""

from __future__ import annotations

import logging
from typing import Any

from mft_cli.exact_numbers import clean, parse_number

logging.getLogger("math_verify").setLevel(logging.ERROR)


def same_expression(*, gold: str, answer: str) -> bool:
    """Whether two expressions are equal. Numbers are compared exactly; other brackets are another interval."""
    from math_verify import verify

    if _brackets(gold) != _brackets(answer):
        return False
    left, right = _parse(gold), _parse(answer)
    if left is None or right is None:
        return False
    if _is_number(left) and _is_number(right):
        return _same_number(left, right)
    if _is_number(left) != _is_number(right):
        right = _last_side(right)
        return _is_number(left) and _is_number(right) and _same_number(left, right)
    return bool(verify(left, right, timeout_seconds=None))


def _brackets(text: str) -> tuple[str, str]:
    text = clean(text)
    return (text[0], text[-1]) if text and text[0] in "([" and text[-1] in ")]" else ("", "")


def _parse(text: str) -> Any:
    """A sympy object or None. Dollars around the text keep math-verify from searching it for an expression."""
    import sympy
    from math_verify import parse
    from math_verify.parser import LatexExtractionConfig

    if (number := parse_number(text)) is not None:
        return sympy.Rational(number.value.numerator, number.value.denominator)
    found = parse(
        f"${clean(text)}$",
        extraction_config=[LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return found[0] if found else None


def _is_number(value: Any) -> bool:
    return bool(getattr(value, "is_number", False))


def _last_side(value: Any) -> Any:
    """The right side of an equation: "x = 5" as the answer 5."""
    return value.rhs if type(value).__name__ == "Equality" else value


def _same_number(left: Any, right: Any) -> bool:
    import sympy

    difference = sympy.nsimplify(left, rational=True) - sympy.nsimplify(right, rational=True)
    if difference.is_Rational:
        return bool(difference == 0)
    return bool(sympy.simplify(difference) == 0)
