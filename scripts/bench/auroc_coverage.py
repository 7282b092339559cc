"""How often the 95 % interval of an AUROC holds the true area, with few right answers among many wrong ones.

    python scripts/bench/auroc_coverage.py [--draws 400]

The signals are drawn: normal of equal spread, normal with twice and half the spread of the right answers', exponential,
and two values only (ties). Next to it stands DeLong's own interval on the logit scale. Prints the mean and the lowest
coverage over the cases, and the mean width, for each number of right answers.
"""

from __future__ import annotations

import argparse
from itertools import product
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from mft_cli.stats.failure_detection import auroc, auroc_interval, delong_variance
from mft_cli.stats.intervals import Z95, wilson

KINDS = ("equal", "right twice", "right half", "exponential", "ties")


def signals(kind: str, area: float, wrong: Any, generator: np.random.Generator) -> tuple[Any, float]:
    """(signals, true area) for a kind of distribution."""
    size = len(wrong)
    if kind == "exponential":
        rate = (1 - area) / area
        return np.where(wrong, generator.exponential(1 / rate, size), generator.exponential(1, size)), area
    if kind == "ties":
        skill = 2 * area - 1
        low, high = 0.3 * (1 - skill), 0.3 * (1 - skill) + skill
        truth = high * (1 - low) + 0.5 * (high * low + (1 - high) * (1 - low))
        return (generator.random(size) < np.where(wrong, high, low)).astype(float), truth
    spread = {"equal": 1.0, "right twice": 2.0, "right half": 0.5}[kind]
    shift = NormalDist().inv_cdf(area) * sqrt(1 + spread**2)
    return np.where(wrong, generator.normal(shift, 1, size), generator.normal(0, spread, size)), area


def delong_logit(signal: Any, wrong: Any) -> tuple[float, float]:
    """DeLong's interval on the logit scale; for an area of 0 or 1 Wilson's with the rarer kind's number."""
    area = auroc(signal, wrong) or 0.0
    few = int(min(wrong.sum(), (~wrong).sum()))
    if area in (0.0, 1.0):
        return wilson(round(area * few), few)
    half = Z95 * sqrt(delong_variance(signal, wrong)) / (area * (1 - area))
    middle = np.log(area / (1 - area))
    return float(1 / (1 + np.exp(half - middle))), float(1 / (1 + np.exp(-half - middle)))


def coverage(method: Any, right: int, size: int, kind: str, area: float, draws: int) -> tuple[float, float]:
    """(share of intervals that hold the true area, mean width)."""
    generator, wrong = np.random.default_rng(right * size), np.arange(size) >= right
    held, width = 0, 0.0
    for _ in range(draws):
        signal, truth = signals(kind, area, wrong, generator)
        low, high = method(signal, wrong)
        held, width = held + (low <= truth <= high), width + high - low
    return held / draws, width / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    draws = parser.parse_args().draws
    for right in (2, 3, 5, 10, 20):
        words = []
        for name, method in (("here", auroc_interval), ("DeLong, logit", delong_logit)):
            cases = product((60, 200), KINDS, (0.5, 0.8, 0.95))
            found = [coverage(method, right, size, kind, area, draws) for size, kind, area in cases]
            shares = [share for share, _ in found]
            words.append(
                f"{name}: mean {100 * np.mean(shares):.1f} %, lowest {100 * min(shares):.1f} %, "
                f"width {np.mean([width for _, width in found]):.2f}"
            )
        print(f"{right:2} right of 60 and 200; {'; '.join(words)}", flush=True)


if __name__ == "__main__":
    main()
