r"""The value of a short expression (5, \frac{\sqrt{3}}{2}, 6 - 5i, 3x^2 + 1), exact or in floating point, without algebra.

Most answers are decided here, and need no worker process with sympy: values that are far apart differ, and sums with
the same terms are equal. What is not surely read as the algebra reads it (functions, mixed numbers, 1/2\pi) has no
value here.
"""

from __future__ import annotations

import cmath
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mft_cli.answers.exact_values import Exact, NotExact
from mft_cli.answers.forms import Form

TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|\\(?P<name>frac|sqrt|pi|cdot|times)(?![A-Za-z])"
    r"|(?P<sign>[-+*/^(){}])|(?P<letter>[A-Za-z]))"
)
UNSURE = re.compile(  # words, e, differentials, f(x), x2, f^{-1}(x), f^2(x)
    r"[A-Za-z]{3}|[A-Za-z]\s+[A-Za-z]|[de]|[A-Za-z]i|i[A-Za-z]|[A-Za-z]\s*[(\d.]"
    r"|[A-Za-z]\s*\^\s*\{\s*-[^{}]*\}\s*\(|[f-hF-H]\s*\^\s*(?:\w|\{[^{}]*\})\s*\("
)
LONGEST = 120  # characters; a longer expression is left to algebra
HIGHEST = 20  # exponent
DOUBT = 1e-6  # of the largest number on the way: what rounding and cancellation may do to a value


class _Unread(Exception):
    """The expression is not one of those whose value is certain here."""


@dataclass(frozen=True)
class Rounded:
    """A number in floating point, and the largest magnitude that occurred on the way to it."""

    value: complex
    size: float

    @classmethod
    def number(cls, value: Fraction) -> Rounded:
        return cls.seen(complex(float(value)))

    @classmethod
    def letter(cls, name: str) -> Rounded:
        if name != "pi":
            raise _Unread
        return cls.seen(complex(math.pi))

    @classmethod
    def i(cls) -> Rounded:
        return cls.seen(1j)

    @classmethod
    def seen(cls, value: complex, *before: Rounded) -> Rounded:
        return cls(value, max(abs(value), *(operand.size for operand in before), 0.0))

    def __add__(self, other: Rounded) -> Rounded:
        return self.seen(self.value + other.value, self, other)

    def __neg__(self) -> Rounded:
        return Rounded(-self.value, self.size)

    def __mul__(self, other: Rounded) -> Rounded:
        return self.seen(self.value * other.value, self, other)

    def __truediv__(self, other: Rounded) -> Rounded:
        return self.seen(self.value / other.no_zero(), self, other)

    def __pow__(self, exponent: int) -> Rounded:
        return self.seen((self.value if exponent > 0 else self.no_zero()) ** exponent, self)

    def sqrt(self) -> Rounded:
        if self.value.real < 0 and 0 < abs(self.value.imag) <= DOUBT * self.size:
            raise _Unread  # rounding would choose the branch
        return self.seen(cmath.sqrt(self.value + 0.0), self)  # + 0.0: the root of -4 - 0j is the other one

    def no_zero(self) -> complex:
        if abs(self.value) <= DOUBT * self.size:
            raise _Unread  # it may be zero, or nothing but rounding
        return self.value


def surely_differ(gold: Form, answer: Form, margin: Fraction = Fraction(0)) -> bool:
    """Whether two forms have values that differ by more than `margin` and any rounding; False where that is not known."""
    first, second = value(gold), value(answer)
    if first is None or second is None:
        return False
    return abs(first[0] - second[0]) > float(margin) + DOUBT * (1 + first[1] + second[1])


def value(form: Form) -> tuple[complex, float] | None:
    """(value, largest magnitude on the way) of a number or a closed expression, or None."""
    rounded = _valued(form, Rounded)
    return (rounded.value, rounded.size) if rounded is not None and math.isfinite(rounded.size) else None


def surely_same(gold: Form, answer: Form) -> bool | None:
    """Whether two expressions, or two equations, are exactly equal; None where that is not known."""
    if "equation" in (gold.kind, answer.kind):
        return _same_equation(_difference(gold), _difference(answer))
    first, second = exact_value(gold), exact_value(answer)
    if first is None or second is None:
        return None
    if first == second:
        return True
    return None if gold.name and answer.name else False  # f(n) = 2n is f(x) = 2x


def exact_value(form: Form) -> Exact | None:
    """The exact value of a number or an expression, or None."""
    exact: Exact | None = _valued(form, Exact)
    return exact


def _difference(form: Form) -> Exact | None:
    """Left minus right side of an equation, or of a name and its value."""
    if form.kind == "equation":
        sides = [exact_value(item) for item in form.items]
    else:
        sides = [_valued(Form("expr", form.name), Exact), exact_value(form)]
    return None if sides[0] is None or sides[1] is None else sides[0] - sides[1]


def _same_equation(gold: Exact | None, answer: Exact | None) -> bool | None:
    """Whether two sums that are to be zero are the same up to a rational factor."""
    if gold is None or answer is None or not gold.terms or not answer.terms:
        return None
    if gold.terms.keys() == answer.terms.keys():
        factors = {gold.terms[monomial] / answer.terms[monomial] for monomial in gold.terms}
        if len(factors) == 1:
            return True
    numbers = all(not imaginary and radicand == 1 for radicand, imaginary, _ in (*gold.terms, *answer.terms))
    plain = numbers and not any(name == "pi" for _, _, powers in (*gold.terms, *answer.terms) for name, _ in powers)
    return False if plain else None  # the factor may be a root or a multiple of pi


def _valued(form: Form, kind: Any) -> Any:
    try:
        if form.number is not None:
            return kind.number(form.number.value)
        return _read(form.text, kind) if form.kind == "expr" else None
    except (_Unread, NotExact, ArithmeticError, RecursionError):
        return None


@lru_cache(maxsize=4096)
def _read(text: str, kind: Any) -> Any:
    if not text.strip() or len(text) > LONGEST or UNSURE.search(re.sub(r"\\[A-Za-z]+", " ", text)):
        raise _Unread
    reader = _Reader(text, kind)
    result = reader.sum()
    if reader.token != "":
        raise _Unread
    return result


class _Reader:
    """Recursive descent: sum, product, power, atom. `kind`: the class of the numbers, Rounded or Exact."""

    def __init__(self, text: str, kind: Any):
        self.text, self.end, self.make = text.strip(), 0, kind
        self.token = self.kind = ""
        self.next()

    def next(self) -> str:
        """The token that was read, after going one on; "" is the end."""
        gone = self.token
        match = TOKEN.match(self.text, self.end)
        if match is None and self.end < len(self.text):
            raise _Unread
        self.kind = match.lastgroup or "" if match else ""
        self.token = match[self.kind] if match else ""
        self.end = match.end() if match else self.end
        return gone

    def take(self, token: str) -> None:
        if self.token != token:
            raise _Unread
        self.next()

    def sum(self) -> Any:
        sign = self.next() if self.token in ("-", "+") else ""
        total = -self.product() if sign == "-" else self.product()
        while self.token in ("-", "+"):
            sign, part = self.next(), self.product()
            total = total + (-part if sign == "-" else part)
        return total

    def product(self) -> Any:
        plain, divided = self.kind == "number", False  # plain: the last factor is written in digits
        result = self.power()
        while self.token not in ("", "-", "+", ")", "}"):
            sign = self.next() if self.token in ("cdot", "times", "*", "/") else ""
            digits = self.kind == "number"
            mixed = plain and (digits or self.token == "frac")
            if not sign and (divided or mixed):
                raise _Unread  # 1/2\pi and 2\frac12 are read in two ways
            divided, plain = divided or sign == "/", digits
            factor = self.power()
            result = result / factor if sign == "/" else result * factor
        return result

    def power(self) -> Any:
        base = self.atom()
        if self.token != "^":
            return base
        self.next()
        braces = self.token == "{"
        if braces:
            self.next()
        sign = -1 if braces and self.token == "-" else 1
        if sign < 0:
            self.next()
        if not self.token.isdigit() or int(self.token) > HIGHEST or (not braces and len(self.token) > 1):
            raise _Unread
        exponent = sign * int(self.next())
        if braces:
            self.take("}")
        if self.token == "^":
            raise _Unread
        return base**exponent

    def atom(self) -> Any:
        kind, token = self.kind, self.next()
        if kind == "number":
            return self.make.number(Fraction(token))
        if kind == "letter":
            return self.make.i() if token == "i" else self.make.letter(token)
        if token in ("(", "{"):
            inner = self.sum()
            self.take(")" if token == "(" else "}")
            return inner
        if token == "pi":
            return self.make.letter("pi")
        if token == "frac":
            top, bottom = self.argument(), self.argument()
            return top / bottom
        if token == "sqrt":
            return self.argument().sqrt()
        raise _Unread

    def argument(self) -> Any:
        """What stands in braces; `forms` has put them there."""
        if self.token != "{":
            raise _Unread
        return self.atom()
