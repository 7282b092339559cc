"""What several runs have in common on one benchmark, and whether a gain holds over several benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import fsum, sqrt

from mft_cli.report.compare.pairs import Pair
from mft_cli.report.compare.subjects import Subject, refusal
from mft_cli.stats import intervals
from mft_cli.stats import significance as stats
from mft_cli.stats.hierarchy import MANY

# ---- agreement over runs --------------------------------------------------------------------------------------------


@dataclass
class Agreement:
    """Outcomes of several runs on the same problems. A problem counts as solved where most completions are right."""

    benchmark: str
    runs: list[str]
    left_out: list[str]  # runs with other problems or unfinished
    n: int
    solved_by: list[int]  # problems solved by 0, 1, ... all runs
    same: float  # mean over pairs of runs: share of problems with the same outcome
    kappa: float | None  # Fleiss


def agreements(subjects: list[Subject]) -> list[Agreement]:
    """One for each benchmark with two comparable runs that generated answers."""
    result = []
    for benchmark in dict.fromkeys(subject.benchmark for subject in subjects):
        here = [
            subject
            for subject in subjects
            if subject.benchmark == benchmark and subject.generated and not subject.problem
        ]
        kept = [subject for subject in here if not refusal(here[0], subject)]
        if len(kept) < 2:
            continue
        problems = list(kept[0].values)
        outcomes = [[int(subject.values[key] > 0.5) for key in problems] for subject in kept]
        counts = [sum(column) for column in zip(*outcomes, strict=True)]
        pairs = [sum(x == y for x, y in zip(a, b, strict=True)) for a, b in combinations(outcomes, 2)]
        result.append(
            Agreement(
                benchmark=benchmark,
                runs=[subject.label for subject in kept],
                left_out=[s.label for s in subjects if s.benchmark == benchmark and s not in kept],
                n=len(problems),
                solved_by=[counts.count(k) for k in range(len(kept) + 1)],
                same=sum(pairs) / len(pairs) / len(problems),
                kappa=stats.fleiss_kappa(outcomes),
            )
        )
    return result


# ---- one comparison over benchmarks ---------------------------------------------------------------------------------


@dataclass
class Consistency:
    """The paired gains of `second` over `first` on several benchmarks, as shares (not points)."""

    first: str
    second: str
    benchmarks: list[str]
    gains: list[float]
    intervals: list[tuple[float, float]]
    mean: float  # over benchmarks, each counting the same
    interval: tuple[float, float]  # 95 %, for these benchmarks: other problems (and seeds)
    interval_over_benchmarks: tuple[float, float] | None  # 95 %, benchmarks as a draw of possible ones (Student)
    spread: float  # standard deviation of the gains
    noise: float  # what it would be if the true gain were the same on all
    improved: int


def consistency(pairs: list[Pair]) -> list[Consistency]:
    """For every two that were compared on two benchmarks or more.

    The interval takes benchmarks as independent; what one seed does to all of them at once is not in it.
    """
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        if pair.difference is not None and pair.interval is not None and pair.standard_error is not None:
            groups.setdefault((pair.first, pair.second), []).append(pair)
    return [_consistency(first, second, some) for (first, second), some in groups.items() if len(some) > 1]


def _consistency(first: str, second: str, pairs: list[Pair]) -> Consistency:
    gains = [pair.difference or 0.0 for pair in pairs]
    errors = [pair.standard_error or 0.0 for pair in pairs]
    mean = fsum(gains) / len(gains)
    total = fsum(e * e for e in errors)
    below = fsum(e**4 / pair.freedom for e, pair in zip(errors, pairs, strict=True))
    freedom = max(1, min(MANY, int(total**2 / below))) if below else MANY  # Satterthwaite: few seeds, wide interval
    half = intervals.student_quantile(0.975, freedom) * sqrt(total) / len(gains)
    return Consistency(
        first=first,
        second=second,
        benchmarks=[pair.benchmark for pair in pairs],
        gains=gains,
        intervals=[pair.interval or (0.0, 0.0) for pair in pairs],
        mean=mean,
        interval=(mean - half, mean + half),
        interval_over_benchmarks=intervals.student_interval(gains),
        spread=sqrt(fsum((g - mean) ** 2 for g in gains) / (len(gains) - 1)),
        noise=sqrt(fsum(e * e for e in errors) / len(errors)),
        improved=sum(g > 0 for g in gains),
    )


def against_first(pairs: list[Pair]) -> list[Pair]:
    """The pairs whose first run is the one that is listed first."""
    return [pair for pair in pairs if pairs and pair.first == pairs[0].first]
