r"""Exact arithmetic for short expressions: polynomials in letters and \pi, with rational numbers, square roots and i.

Two sums are equal exactly if they have the same terms: square roots of different square-free numbers, powers of \pi and
products of letters are independent over the rationals. So equality needs no computer algebra here, nor any rounding.
"""

from __future__ import annotations

from fractions import Fraction
from math import gcd, isqrt, prod

MAX_TERMS = 80
MAX_RADICAND = 10**8  # trial division takes 10,000 steps
Monomial = tuple[int, int, tuple[tuple[str, int], ...]]  # square-free radicand, power of i (0 or 1), powers by name
UNIT_MONOMIAL: Monomial = (1, 0, ())


class NotExact(Exception):
    """The result is no such sum, or too long for one."""


class Exact:
    """A sum of monomials with rational coefficients, none of them zero."""

    def __init__(self, terms: dict[Monomial, Fraction]):
        self.terms = {monomial: coefficient for monomial, coefficient in terms.items() if coefficient}
        if len(self.terms) > MAX_TERMS:
            raise NotExact

    @classmethod
    def number(cls, value: Fraction) -> Exact:
        return cls({UNIT_MONOMIAL: value})

    @classmethod
    def letter(cls, name: str) -> Exact:
        return cls({(1, 0, ((name, 1),)): Fraction(1)})

    @classmethod
    def i(cls) -> Exact:
        return cls({(1, 1, ()): Fraction(1)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exact) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __add__(self, other: Exact) -> Exact:
        terms = dict(self.terms)
        for monomial, coefficient in other.terms.items():
            terms[monomial] = terms.get(monomial, Fraction(0)) + coefficient
        return Exact(terms)

    def __neg__(self) -> Exact:
        return Exact({monomial: -coefficient for monomial, coefficient in self.terms.items()})

    def __sub__(self, other: Exact) -> Exact:
        return self + -other

    def __mul__(self, other: Exact) -> Exact:
        total: dict[Monomial, Fraction] = {}
        for first, a in self.terms.items():
            for second, b in other.terms.items():
                monomial, factor = times(first, second)
                total[monomial] = total.get(monomial, Fraction(0)) + a * b * factor
        return Exact(total)

    def __truediv__(self, other: Exact) -> Exact:
        return self * other.inverse()

    def __pow__(self, exponent: int) -> Exact:
        base = self if exponent > 0 else self.inverse()
        return prod([base] * abs(exponent), start=Exact.number(Fraction(1)))

    def inverse(self) -> Exact:
        """One over it: of a single term, or of a sum of numbers by multiplying with what makes it rational."""
        if not self.terms:
            raise NotExact
        if len(self.terms) == 1:
            ((radicand, imaginary, powers), coefficient) = next(iter(self.terms.items()))
            # 1 / (c sqrt(r) i) is sqrt(r) i / (c r i^2)
            turned = 1 / (coefficient * radicand * (-1 if imaginary else 1))
            return Exact({(radicand, imaginary, tuple((name, -power) for name, power in powers)): turned})
        partner = self.conjugate()
        return partner * (self * partner).inverse()

    def conjugate(self) -> Exact:
        """With the sign turned of all terms that hold i, or else the smallest prime that is under some of the roots."""
        if any(powers for _, _, powers in self.terms):
            raise NotExact
        if any(imaginary for _, imaginary, _ in self.terms):
            return Exact({key: -c if key[1] else c for key, c in self.terms.items()})
        prime = min(smallest_prime(radicand) for radicand, _, _ in self.terms if radicand > 1)
        return Exact({key: c if key[0] % prime else -c for key, c in self.terms.items()})

    def sqrt(self) -> Exact:
        """Of a rational number; of a negative one the root with i."""
        if self.terms.keys() - {UNIT_MONOMIAL}:
            raise NotExact
        value = self.terms.get(UNIT_MONOMIAL, Fraction(0))
        outside, radicand = square_free(abs(value.numerator) * value.denominator)
        return Exact({(radicand, int(value < 0), ()): Fraction(outside, value.denominator)})


def times(first: Monomial, second: Monomial) -> tuple[Monomial, int]:
    """The product of two monomials, and the whole number that comes out of their roots."""
    common = gcd(first[0], second[0])
    powers = dict(first[2])
    for name, power in second[2]:
        powers[name] = powers.get(name, 0) + power
    kept = tuple(sorted((name, power) for name, power in powers.items() if power))
    sign = -1 if first[1] and second[1] else 1
    return (first[0] * second[0] // common**2, (first[1] + second[1]) % 2, kept), common * sign


def square_free(number: int) -> tuple[int, int]:
    """(a, b) with number = a^2 b and b without square factors."""
    if number == 0:
        return 0, 1
    if number > MAX_RADICAND:
        root = isqrt(number)
        if root * root != number:
            raise NotExact
        return root, 1
    outside, rest, prime = 1, 1, 2
    while prime * prime <= number:
        while number % (prime * prime) == 0:
            number, outside = number // (prime * prime), outside * prime
        if number % prime == 0:
            number, rest = number // prime, rest * prime
        prime += 1
    return outside, rest * number


def smallest_prime(number: int) -> int:
    return next((p for p in range(2, isqrt(number) + 1) if number % p == 0), number)
