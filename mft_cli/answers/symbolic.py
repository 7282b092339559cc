r"""Equality of expressions by computer algebra, with math-verify's parser (latex2sympy2_extended) and its `verify`.

Imported only in the worker processes: sympy is slow to import, and an answer such as 9^{9^{9^9}} never comes back.
math-verify's own time limits are signals that a long multiplication of big integers does not notice; they are off.

math-verify alone is not enough: it rounds to 6 digits where a decimal occurs, takes R and r for one letter and i for a
real number, and reads 1,2 as an interval or a set as it pleases. So decimals become fractions before it sees them,
letters keep their case, brackets and order were settled by `forms`, and whatever is a number is decided by its value
to 60 digits *and* by algebra.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy
from math_verify import verify

from mft_cli.answers.forms import TRIGONOMETRIC, Form, read

logging.getLogger("math_verify").setLevel(logging.ERROR)
logging.getLogger("latex2sympy2_extended").setLevel(logging.ERROR)
DECIMAL = re.compile(r"(?<![\w.])(\d{0,300})\.(\d{1,300})(?![\w.])")
IMAGINARY = re.compile(r"(?<![\\A-Za-z_])i(?![A-Za-z_])")
INDEX = re.compile(r"\\(?:sum|prod)|_\s*\{?[^{}]*\bi\b|\bi\s*=")
DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)")
DIGITS = 60  # of numerical comparison; below this two different short expressions are never as near
POINTS = ((3, 7), (11, 5), (2, 13), (17, 4), (19, 3), (23, 29))  # rational values for variables: 3/7, 11/5, ...


def same(gold: Form, answer: Form, margin: Fraction = Fraction(0)) -> bool:
    """Whether two forms that are not decided by themselves are equal. `margin`: absolute difference allowed."""
    if gold.kind == "equation" or answer.kind == "equation":
        return _same_equation(gold, answer)
    if {gold.kind, answer.kind} & {"union", "minus", "tuple", "list"} or "mathbb{R}" in gold.text + answer.text:
        return _same_set(gold, answer)
    gold_value, answer_value = value(gold), value(answer)
    if gold_value is None or answer_value is None:
        return False
    if answer.name and gold.name:
        answer_value = _rename(gold.name, answer.name, answer_value)
    return _same_value(gold_value, answer_value, margin)


# ---- parsing --------------------------------------------------------------------------------------------------------


def value(form: Form) -> sympy.Expr | None:
    """The sympy object of a number or an expression, or None."""
    if form.number is not None:
        return sympy.Rational(form.number.value.numerator, form.number.value.denominator)
    return _parse(form.text) if form.kind == "expr" else None


@lru_cache(maxsize=512)
def _parse(text: str) -> sympy.Expr | None:
    text = text.replace(r"\left", "").replace(r"\right", "")
    text = DECIMAL.sub(lambda m: _as_fraction(m[1], m[2]), text)
    if TRIGONOMETRIC.search(text):
        text = DEGREES.sub(r"{(\\frac{\1\\pi}{180})}", text)
    text = re.sub(r"(\w)!\s*\^", r"(\1!)^", text)  # the parser cannot read n!^2
    text = re.sub(r"\\text\s*\{([A-Za-z ]*)\}", lambda m: m[1].replace(" ", "") if len(m[1]) == 1 else m.group(), text)
    rules = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
    )
    try:
        expression = latex2sympy(
            text,
            is_real=True,
            normalization_config=rules,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except Exception:  # the parser raises anything on what it cannot read
        return None
    if not isinstance(expression, sympy.Basic) or isinstance(expression, (sympy.Set, sympy.Tuple)):
        return None
    expression = expression.doit()  # the parser evaluates nothing: \sqrt{x^2} becomes |x| here
    if IMAGINARY.search(text) and not INDEX.search(text):
        expression = expression.subs({s: sympy.I for s in expression.free_symbols if s.name == "i"})
    return expression


def _as_fraction(whole: str, part: str) -> str:
    return rf"{{\frac{{{int(whole + part)}}}{{{10 ** len(part)}}}}}"


def _rename(gold: str, answer: str, expression: sympy.Expr) -> sympy.Expr:
    """f(x) = 2x for the gold f(n) = 2n: the variable of a function has any name."""
    first, second = (re.fullmatch(r".*\(([A-Za-z])\)", name) for name in (gold, answer))
    if first is None or second is None or first[1] == second[1]:
        return expression
    return expression.subs(
        {s: sympy.Symbol(first[1], real=True) for s in expression.free_symbols if s.name == second[1]}
    )


# ---- values ---------------------------------------------------------------------------------------------------------


def _same_value(gold: sympy.Expr, answer: sympy.Expr, margin: Fraction) -> bool:
    if gold == answer:
        return True
    if gold in _infinite() or answer in _infinite():
        return False
    difference = gold - answer
    if margin:
        size = sympy.Abs(difference).evalf(DIGITS)
        return bool(size.is_Float or size.is_Integer or size == 0) and bool(size <= sympy.Rational(margin))
    if difference.has(sympy.Float):
        return False
    if not difference.free_symbols:
        return _is_zero(difference, sympy.N(sympy.Abs(gold) + sympy.Abs(answer), DIGITS))
    return _agree_at_points(gold, answer)


def _infinite() -> tuple[sympy.Expr, ...]:
    return (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)


def _is_zero(difference: sympy.Expr, size: sympy.Expr) -> bool:
    """Whether a number is zero: by its value first, which settles what differs, then by algebra.

    `size`: how large the two numbers are that were subtracted.
    """
    if difference.is_Rational:
        return bool(difference == 0)
    gap = sympy.N(sympy.Abs(difference) / (1 + size), DIGITS, maxn=400)
    if gap.is_Float and gap > sympy.Float("1e-40"):
        return False
    proved = difference.equals(0)
    return bool(sympy.simplify(difference) == 0) if proved is None else bool(proved)


def _agree_at_points(gold: sympy.Expr, answer: sympy.Expr) -> bool:
    """Whether two expressions in the same variables agree: refuted by values at points, proved by algebra.

    With floor, ceiling, factorial or a binomial the variables are counts, and points are integers. If algebra neither
    proves nor refutes it, agreement to 60 digits at all points counts as proof.
    """
    if (
        gold.free_symbols != answer.free_symbols
        and sympy.simplify(gold).free_symbols != sympy.simplify(answer).free_symbols
    ):
        return False
    names = sorted(gold.free_symbols | answer.free_symbols, key=str)
    discrete = (gold - answer).has(sympy.floor, sympy.ceiling, sympy.factorial, sympy.binomial)
    agreed = 0
    for number, (top, bottom) in enumerate(POINTS):
        if discrete:
            points = {s: sympy.Integer(top + bottom + 3 * index * (number + 1)) for index, s in enumerate(names)}
        else:
            points = {s: sympy.Rational(top + 3 * index, bottom + 2 * index) for index, s in enumerate(names)}
            if (gold - answer).has(sympy.Abs) and number % 2:
                points = {s: -value for s, value in points.items()}
        verdict = _agree(gold, answer, points)
        if verdict is False:
            return False
        agreed += verdict is True
    if agreed >= 3:
        return True
    return bool(verify(gold, answer, timeout_seconds=None))  # undefined functions, sums: math-verify's word


def _agree(gold: sympy.Expr, answer: sympy.Expr, points: dict[sympy.Symbol, sympy.Expr]) -> bool | None:
    """Equality at one point to many digits; None where the expressions have no value there."""
    first, second = (sympy.N(side.subs(points).doit(), DIGITS) for side in (gold, answer))
    if not (first.is_number and second.is_number) or first.has(sympy.nan, sympy.zoo, sympy.oo):
        return None
    if second.has(sympy.nan, sympy.zoo, sympy.oo):
        return False
    gap, size = sympy.Abs(first - second), sympy.Abs(first) + sympy.Abs(second) + 1
    return bool(sympy.N(gap / size) < sympy.Float("1e-45"))


# ---- equations and sets ---------------------------------------------------------------------------------------------


def _same_equation(gold: Form, answer: Form) -> bool:
    """Whether two equations are the same up to a constant factor: y = 2x + 3 and 2x - y + 3 = 0."""
    sides = [_sides(form) for form in (gold, answer)]
    if sides[0] is None or sides[1] is None:
        return False
    gold_side, answer_side = (sympy.expand(a - b) for a, b in sides)  # type: ignore[misc]
    if gold_side == 0 or answer_side == 0 or gold_side.free_symbols != answer_side.free_symbols:
        return False
    ratio = sympy.simplify(gold_side / answer_side)
    return not ratio.free_symbols and ratio not in (0, *_infinite())


def _sides(form: Form) -> tuple[sympy.Expr, sympy.Expr] | None:
    if form.kind == "equation":
        first, second = (value(item) for item in form.items)
    elif form.name:
        first, second = _parse(form.name), value(form)
    else:
        return None
    return None if first is None or second is None else (first, second)


def _same_set(gold: Form, answer: Form) -> bool:
    """Whether two sets of real numbers are equal."""
    first, second = as_set(gold), as_set(answer)
    if first is None or second is None:
        return False
    return bool(first == second or sympy.SymmetricDifference(first, second).doit().is_empty)


def as_set(form: Form) -> sympy.Set | None:
    """The sympy set of a union, difference, interval or list of real numbers, or None."""
    if form.kind in ("union", "minus"):
        parts = [as_set(item) for item in form.items]
        if any(part is None for part in parts):
            return None
        return sympy.Union(*parts) if form.kind == "union" else sympy.Complement(parts[0], sympy.Union(*parts[1:]))
    if form.kind == "expr" and re.search(r"mathbb\{?R\b", form.text):
        return sympy.S.Reals
    if form.kind == "tuple" and len(form.items) == 2 and form.text[0] in "([" and form.text[-1] in ")]":
        ends = [value(item) for item in form.items]
        real = [end for end in ends if end is not None and end.is_extended_real]
        if len(real) < 2:
            return None
        start, end = (sympy.nsimplify(sympy.simplify(end)) if end.is_finite else end for end in real)
        return sympy.Interval(start, end, form.text[0] == "(", form.text[-1] == ")")
    members = [value(item) for item in (form.items if form.kind == "list" else (form,))]
    return None if any(m is None for m in members) else sympy.FiniteSet(*(sympy.simplify(m) for m in members))


def warm_up() -> None:
    """Import sympy and build the parser, so that the first answer's time is its own."""
    same(read(r"\sqrt{2} + x^2"), read(r"\frac{\sqrt{3}}{2} + \sin x"))
