"""Intervals and tests for accuracies, on plain arrays. Every formula names its source; 95 % unless said otherwise."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mft_cli.stats.intervals import DRAWS, Z95, _bisect, interval_of_mean, mean_interval, student_p

Label = TypeVar("Label", bound=Hashable)


@dataclass(frozen=True)
class Paired:
    """Mean of second - first with its normal interval [low, high], `interval_of_mean`, and Student's p of no difference."""

    difference: float
    low: float
    high: float
    interval: tuple[float, float] | None
    p: float


def paired_difference(first: ArrayLike, second: ArrayLike, seed: int = 0, draws: int = DRAWS) -> Paired:
    """Mean of second - first over the same problems, with intervals and a test.

    The differences are taken problem by problem, so that what problems have in common cancels (Miller 2024,
    arXiv 2411.00640, section 4). Raises ValueError for different lengths.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} problems cannot be paired")
    difference = b - a
    interval = interval_of_mean(difference, seed, draws)
    return Paired(float(difference.mean()), *mean_interval(difference), interval, student_p(difference))


def flips_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Interval of (gained - lost) / n, a paired difference of proportions, for few flips.

    Wald's, with half a problem added to each of the four cells (Agresti and Min 2005, Statistics in Medicine 24:729). A
    bootstrap of few flips is too narrow, and of none it has no width.
    """
    m = n + 2
    difference = (gained - lost) / m
    half = Z95 * sqrt((gained + lost + 1) / m - difference**2) / sqrt(m)
    return max(-1.0, difference - half), min(1.0, difference + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value: under equality the discordant problems split like fair coins (McNemar 1947)."""
    n, smaller = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    tail = sum(comb(n, k) for k in range(smaller + 1))
    return min(1.0, 2 * tail / 2**n)


def sign_flip_p(differences: ArrayLike, seed: int = 0, draws: int = DRAWS) -> float:
    """Two-sided p value that paired differences have mean 0: under equality each sign is a coin (Fisher 1935, ch. III).

    By `draws` random sign patterns; never below 1 / (draws + 1). For problems with several completions, where McNemar's
    test does not apply.
    """
    v = np.asarray(differences, dtype=np.float64)
    v = v[v != 0]
    if not len(v):
        return 1.0
    generator, chunk, reached = np.random.default_rng(seed), max(1, 4_000_000 // len(v)), 0
    for start in range(0, draws, chunk):
        signs = generator.integers(0, 2, (min(chunk, draws - start), len(v)), dtype=np.int8) * 2 - 1
        reached += int((np.abs(signs @ v) >= abs(v.sum()) * (1 - 1e-12)).sum())
    return (1 + reached) / (1 + draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the order given (Holm 1979, Scand. J. Stat. 6:65)."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = highest
    return corrected


def fleiss_kappa(outcomes: ArrayLike) -> float | None:
    """Agreement of R >= 2 runs beyond chance, from outcomes [R, problems] of 0 and 1 (Fleiss 1971, Psych. Bull. 76:378).

    1: the same problems are solved by all; 0: as many coincide as would by chance. None where all outcomes are equal.
    """
    table = np.asarray(outcomes, dtype=np.float64)
    runs, right = len(table), table.sum(axis=0)
    share = float(right.sum()) / table.size
    expected = share**2 + (1 - share) ** 2
    if runs < 2 or expected == 1:
        return None
    observed = float(((right**2 + (runs - right) ** 2 - runs) / (runs * (runs - 1))).mean())
    return (observed - expected) / (1 - expected)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased probability that one of k samples is right, from n (Chen et al. 2021, arXiv 2107.03374, equation 1)."""
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@{k} from {correct} of {n} samples does not exist")
    return 1.0 - comb(n - correct, k) / comb(n, k)


def majority(votes: Sequence[Label | None]) -> Label | None:
    """The answer with the most votes; of several, the one whose first vote came first. None is not a vote."""
    counts: dict[Label, int] = {}
    for vote in votes:
        if vote is not None:
            counts[vote] = counts.get(vote, 0) + 1
    return max(counts, key=counts.__getitem__) if counts else None  # max keeps the first of equals


def smallest_detectable(first: ArrayLike, second: ArrayLike, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Smallest true difference of means that a two-sided paired test on these problems finds with this power.

    (z_a + z_b) s / sqrt(n) with s the standard deviation of the differences; None where that is zero or unknown.
    For planning, when only a guess of the discordant share exists, see minimum_detectable_effect.
    """
    difference = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    if len(difference) < 2 or not (deviation := float(difference.std(ddof=1))):
        return None
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * deviation / sqrt(len(difference))


def minimum_detectable_effect(n: int, discordant: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference of two accuracies that a paired test on n problems finds with this power.

    `discordant`: share of problems on which the two differ. Solves n = (z_a sqrt(D) + z_b sqrt(D - d^2))^2 / d^2
    (Connor 1987, Biometrics 43:207) for d; never more than D. Returns infinity where even d = D is not detectable.
    """
    if n < 1 or not 0 < discordant <= 1:
        raise ValueError("n must be at least 1 and the discordant share in (0, 1]")
    za, zb = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)

    def needed(d: float) -> float:
        return (za * sqrt(discordant) + zb * sqrt(max(0.0, discordant - d * d))) ** 2 / (d * d)

    largest = discordant
    if needed(largest) > n:
        return float("inf")
    return _bisect(lambda d: needed(d) - n, 1e-9, largest)
