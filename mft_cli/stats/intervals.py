"""Confidence intervals of shares and means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import atan, cos, pi, sin, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z95 = NormalDist().inv_cdf(0.975)


DRAWS = 10_000
FEW = 30  # values, below which a bootstrap of their mean is too narrow


def wilson(correct: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Score interval for a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209). Raises ValueError for n < 1.

    An effective number of observations need not be whole.
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"{correct} of {n} is not a proportion")
    p, z2 = correct / n, z * z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = middle - half, middle + half
    return (0.0 if correct == 0 else max(0.0, low), 1.0 if correct == n else min(1.0, high))  # exact at the ends


def bootstrap_mean(values: ArrayLike, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """Percentile interval of the mean of `values` [problems], problems drawn with replacement (Efron 1979)."""
    means = _resampled_means(np.asarray(values, dtype=np.float64), seed, draws)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_ratio(pairs: Sequence[tuple[float, float]], seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """95 % percentile interval of a ratio of sums over (numerator, denominator), pairs drawn with replacement (Efron 1979)."""
    values = np.asarray(pairs, dtype=np.float64)
    drawn = np.random.default_rng(seed).multinomial(len(pairs), [1 / len(pairs)] * len(pairs), size=draws) @ values
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(low), float(high)


def _resampled_means(values: NDArray[np.float64], seed: int, draws: int) -> NDArray[np.float64]:
    if values.ndim != 1 or not len(values):
        raise ValueError("expected a list of at least one number")
    generator = np.random.default_rng(seed)
    chunk = max(1, 4_000_000 // len(values))  # bounds the memory at 32 MB of indices
    parts = []
    for start in range(0, draws, chunk):
        size = (min(chunk, draws - start), len(values))
        parts.append(values[generator.integers(0, len(values), size)].mean(axis=1))
    return np.concatenate(parts)


def mean_interval(values: ArrayLike) -> tuple[float, float]:
    """Normal interval of a mean: mean +- z s / sqrt(n) with the sample standard deviation."""
    v = np.asarray(values, dtype=np.float64)
    half = Z95 * float(v.std(ddof=1)) / sqrt(len(v)) if len(v) > 1 else float("inf")
    return float(v.mean()) - half, float(v.mean()) + half


def _bisect(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):  # as near as numbers come
            break
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return high


def student_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of a mean: mean +- t s / sqrt(n), n - 1 degrees of freedom (Student 1908). None for n < 2.

    For a handful of values, such as seeds; `mean_interval` is too narrow there.
    """
    v = np.asarray(values, dtype=np.float64)
    if len(v) < 2:
        return None
    half = student_quantile((1 + level) / 2, len(v) - 1) * float(v.std(ddof=1)) / sqrt(len(v))
    return float(v.mean()) - half, float(v.mean()) + half


def interval_of_mean(values: ArrayLike, seed: int = 0, draws: int = DRAWS) -> tuple[float, float] | None:
    """95 % interval of the mean: Student's below FEW values, where a bootstrap is too narrow. None for one value."""
    v = np.asarray(values, dtype=np.float64)
    return student_interval(v) if len(v) < FEW else bootstrap_mean(v, seed, draws)


def student_p(values: ArrayLike) -> float:
    """Two-sided p value that the mean is 0, by Student's t; 1 where one value, or no spread around 0, says nothing."""
    v = np.asarray(values, dtype=np.float64)
    if len(v) < 2 or not v.any():
        return 1.0
    error = float(v.std(ddof=1)) / sqrt(len(v))
    return 2 * (1 - student_cdf(abs(float(v.mean())) / error, len(v) - 1)) if error else 0.0


def welch_interval(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of mean(second) - mean(first) for unpaired values of unequal spread (Welch 1947, Biometrika 34:28).

    The degrees of freedom are rounded down. None where either has fewer than two values.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(a) < 2 or len(b) < 2:
        return None
    x, y = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    difference = float(b.mean() - a.mean())
    if x + y == 0:
        return difference, difference
    freedom = (x + y) ** 2 / (x * x / (len(a) - 1) + y * y / (len(b) - 1))
    half = student_quantile((1 + level) / 2, max(1, int(freedom))) * sqrt(x + y)
    return difference - half, difference + half


def student_quantile(p: float, freedom: int) -> float:
    """The p quantile of Student's t with whole degrees of freedom, for p in (0.5, 1).

    Above 100 by the expansion around the normal quantile (Abramowitz and Stegun 1964, 26.7.5), good to 1e-6 at 95 %.
    """
    if freedom > 100:
        z = NormalDist().inv_cdf(p)
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    high = 1.0
    while student_cdf(high, freedom) < p:
        high *= 2
    return _bisect(lambda t: p - student_cdf(t, freedom), 0.0, high)


def student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0 (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = atan(t / sqrt(freedom))
    s, c = sin(angle), cos(angle)
    term, total = (c, c) if freedom % 2 else (1.0, 1.0)
    for k in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= c * c * (k - 1) / k
        total += term
    if freedom % 2 == 0:
        return 0.5 + 0.5 * s * total
    return 0.5 + (angle + (s * total if freedom > 1 else 0.0)) / pi
