"""Two settings, each trained with several seeds, on the same problems: seeds within settings, problems crossed with both.

The model is the two-way random-effects one: outcome = mean + seed + problem + rest. A bootstrap over three seeds would
be too narrow, so variances are estimated by mean squares, and Student's quantiles are weighted by them. Where both
settings have the same seeds, their runs are pairs, and what a seed does to both (the order of the data) cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from mft_cli.stats.intervals import _bisect, student_quantile

Table = NDArray[np.float64]  # [seeds, problems]: share of a problem's completions that are right
MANY = 1000  # degrees of freedom beyond which Student's t is the normal distribution for our purposes


@dataclass(frozen=True)
class Effect:
    """Mean of second - first. `seed_share`: share of the variance that comes from the seeds.

    `squares`: the mean squares of problems and of seeds, each with its degrees of freedom. A quantile is the root of the
    mean of their squared Student quantiles, weighted by them (after Cochran and Cox 1957, Experimental Designs, 4.14).
    Satterthwaite's degrees of freedom follow an estimate of the seeds' part that is often too low with few seeds, and so
    decide too often: scripts/bench/comparisons.py.
    """

    difference: float
    standard_error: float
    squares: tuple[tuple[float, int], tuple[float, int]]
    seed_share: float
    design: str

    @property
    def freedom(self) -> int:
        """Satterthwaite's degrees of freedom of the two mean squares."""
        below = sum(square**2 / freedom for square, freedom in self.squares)
        total = sum(square for square, _ in self.squares)
        return max(1, min(int(total**2 / below), MANY)) if below else self.squares[0][1]

    @property
    def test(self) -> str:
        """The reference distribution in words."""
        return f"t on {' and '.join(str(freedom) for square, freedom in reversed(self.squares) if square)} degrees of freedom"

    def quantile(self, p: float) -> float:
        """The p quantile of difference / standard error where nothing differs."""
        total = sum(square for square, _ in self.squares)
        if not total:
            return student_quantile(p, self.squares[0][1])
        return sqrt(sum(square * student_quantile(p, freedom) ** 2 for square, freedom in self.squares) / total)

    @property
    def interval(self) -> tuple[float, float]:
        """95 %: over other problems and other seeds."""
        half = self.quantile(0.975) * self.standard_error
        return self.difference - half, self.difference + half

    @property
    def p(self) -> float:
        """Two-sided p value of no difference, to 1e-9."""
        if not self.difference:
            return 1.0
        if not self.standard_error:
            return 0.0
        reached = abs(self.difference) / self.standard_error
        return _bisect(lambda p: self.quantile(1 - p / 2) - reached, 1e-9, 1 - 1e-9)

    @property
    def detectable(self) -> float | None:
        """Smallest true difference that such a design finds with 80 % power at the two-sided 5 % level."""
        if not self.standard_error:
            return None
        return (self.quantile(0.975) + self.quantile(0.8)) * self.standard_error


@dataclass(frozen=True)
class _Squares:
    """Mean squares of a table [S, P], each divided by S P: the parts of the variance of the table's mean."""

    seeds: float
    problems: float
    rest: float
    size: tuple[int, int]


def effect(first: dict[str, list[float]], second: dict[str, list[float]], *, fixed: str = "") -> Effect:
    """Second minus first; each maps a seed to its outcomes on the same problems in the same order.

    Equal sets of two or more seeds are paired. `fixed` names the side ("first" or "second") that has no seeds at all,
    such as an untrained base model; a trained side with one seed is taken to vary as much as the other. Raises
    ValueError where neither side has two seeds, or the problems do not match.
    """
    a, b = (
        np.array(list(first.values())),
        np.array([second[s] for s in (first if first.keys() == second.keys() else second)]),
    )
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] < 2:
        raise ValueError("expected the same two or more problems under every seed")
    if max(len(a), len(b)) < 2:
        raise ValueError("expected two seeds on one side at least")
    if first.keys() == second.keys():
        return paired_seeds(b - a)
    return unpaired_seeds(a, b, fixed)


def paired_seeds(difference: Table) -> Effect:
    """Effect of a table [S, P] of second - first under the same seed and problem."""
    squares = _squares(difference)
    words = f"{len(difference)} pairs of runs with a common seed"
    return _combined(float(difference.mean()), squares.problems, difference.shape[1], [squares], [1.0], words)


def unpaired_seeds(first: Table, second: Table, fixed: str = "") -> Effect:
    """Effect of tables [S1, P] and [S2, P] whose seeds have nothing in common."""
    by_problem = second.mean(axis=0) - first.mean(axis=0)
    problems = float(by_problem.var(ddof=1)) / len(by_problem)
    measured = {name: _squares(t) for name, t in (("first", first), ("second", second)) if len(t) > 1}
    parts, weights = list(measured.values()), [1.0] * len(measured)
    if len(measured) == 1:
        (name, known) = next(iter(measured.items()))
        other = "second" if name == "first" else "first"
        if other != fixed:  # one run of a setting: its seed moved it as a seed of the other setting would
            weights = [1.0 + known.size[0]]
    words = f"{len(first)} and {len(second)} seeds, not paired"
    if fixed:
        words = f"{max(len(first), len(second))} seeds against a model that was not trained here"
    return _combined(float(by_problem.mean()), problems, len(by_problem), parts, weights, words)


def _squares(table: Table) -> _Squares:
    s, p = table.shape
    by_seed, by_problem, mean = table.mean(axis=1), table.mean(axis=0), table.mean()
    rest = table - by_problem - by_seed[:, None] + mean
    return _Squares(
        seeds=p * float(by_seed.var(ddof=1)) / (s * p),
        problems=s * float(by_problem.var(ddof=1)) / (s * p),
        rest=float((rest**2).sum()) / ((s - 1) * (p - 1)) / (s * p),
        size=(s, p),
    )


def _combined(
    difference: float, problems: float, n: int, parts: list[_Squares], weights: list[float], design: str
) -> Effect:
    """Problems' part plus what the seeds add beyond noise: the mean square of seeds holds the noise once more."""
    seeds = max(0.0, sum(w * (part.seeds - part.rest) for w, part in zip(weights, parts, strict=True)))
    measured = [(w * part.seeds, part.size[0] - 1) for w, part in zip(weights, parts, strict=True)]
    square = sum(value for value, _ in measured)
    below = sum(value**2 / freedom for value, freedom in measured)
    squares = (problems, min(n - 1, MANY)), (square, max(1, int(square**2 / below)) if below else 1)
    total = problems + seeds
    return Effect(difference, sqrt(total), squares, seeds / total if total else 0.0, design)
