r"""The value of a short closed expression (5, \frac{\sqrt{3}}{2}, 6 - 5i, 70 \sqrt{2}) in floating point, without algebra.

Only for telling that two values differ: most wrong answers are far off, and need no worker process with sympy. What is
not surely read as the algebra reads it (variables, functions, mixed numbers, 1/2\pi) has no value here.
"""

from __future__ import annotations

import cmath
import math
import re
from fractions import Fraction

from mft_cli.answers.forms import Form

TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|\\(?P<name>frac|sqrt|pi|cdot|times)(?![A-Za-z])"
    r"|(?P<sign>[-+*/^(){}i]))"
)
LONGEST = 120  # characters; a longer expression is left to algebra
HIGHEST = 20  # exponent
DOUBT = 1e-6  # of the largest number on the way: what rounding and cancellation may do to a value


class _Unread(Exception):
    """The expression is not one of those whose value is certain here."""


def surely_differ(gold: Form, answer: Form, margin: Fraction = Fraction(0)) -> bool:
    """Whether two forms have values that differ by more than `margin` and any rounding; False where that is not known."""
    first, second = value(gold), value(answer)
    if first is None or second is None:
        return False
    return abs(first[0] - second[0]) > float(margin) + DOUBT * (1 + first[1] + second[1])


def value(form: Form) -> tuple[complex, float] | None:
    """(value, largest magnitude on the way) of a number or a closed expression, or None."""
    try:
        if form.number is not None:
            exact = float(form.number.value)
            return complex(exact), abs(exact)
        if form.kind != "expr" or len(form.text) > LONGEST:
            return None
        found = _Reader(form.text)
        result = found.sum()
        return (result, found.size) if found.token == "" and math.isfinite(found.size) else None
    except (_Unread, ArithmeticError, RecursionError):
        return None


class _Reader:
    """Recursive descent: sum, product, power, atom."""

    def __init__(self, text: str):
        self.text, self.end, self.size = text.strip(), 0, 0.0
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

    def seen(self, number: complex) -> complex:
        self.size = max(self.size, abs(number))
        return number

    def sum(self) -> complex:
        sign = -1 if self.token == "-" else 1
        if self.token in ("-", "+"):
            self.next()
        total = sign * self.product()
        while self.token in ("-", "+"):
            sign = -1 if self.next() == "-" else 1
            total = self.seen(total + sign * self.product())
        return total

    def product(self) -> complex:
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
            result = self.seen(result / self.no_zero(factor) if sign == "/" else result * factor)
        return result

    def power(self) -> complex:
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
        return self.seen((self.no_zero(base) if exponent <= 0 else base) ** exponent)

    def atom(self) -> complex:
        kind, token = self.kind, self.next()
        if kind == "number":
            return self.seen(complex(float(token)))
        if token in ("(", "{"):
            inner = self.sum()
            self.take(")" if token == "(" else "}")
            return inner
        if token in ("pi", "i"):
            return self.seen(math.pi if token == "pi" else 1j)
        if token == "frac":
            top, bottom = self.argument(), self.argument()
            return self.seen(top / self.no_zero(bottom))
        if token == "sqrt":
            return self.seen(cmath.sqrt(self.argument()))
        raise _Unread

    def argument(self) -> complex:
        """What stands in braces; `forms` has put them there."""
        if self.token != "{":
            raise _Unread
        return self.atom()

    def no_zero(self, number: complex) -> complex:
        if abs(number) <= DOUBT * self.size:
            raise _Unread  # it may be zero, or nothing but rounding
        return number
