"""Paired comparisons: the same problems under two models. The formulas are those of `mft_cli.stats`.

A comparison that would be wrong (other problems, other gold answers, unfinished scores) is refused with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import isfinite

from mft_cli.report.compare.subjects import Subject, gold_refusal, refusal
from mft_cli.report.wording import probability
from mft_cli.stats import hierarchy, intervals
from mft_cli.stats import significance as stats

LEVEL = 0.05
UNDECIDED = "not decided"
FEW_FLIPS = 10  # below, a bootstrap over problems is too narrow


@dataclass(kw_only=True)
class Comparison:
    """A difference of two means over the same problems, with its test."""

    n: int = 0
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    test: str = ""  # which test p is of
    p_holm: float | None = None
    detectable: float | None = None
    verdict: str = ""


@dataclass(kw_only=True)
class GoldPair(Comparison):
    """The paired difference of the gold solutions' log-likelihoods, in nats per token."""


@dataclass
class Pair(Comparison):
    """`second` minus `first` on one benchmark."""

    benchmark: str
    first: str
    second: str
    refused: str = ""
    standard_error: float | None = None
    freedom: int = 1  # degrees of freedom of the standard error
    agreement: float | None = None  # share of problems with the same outcome
    seed_share: float | None = None  # share of the variance that comes from seeds
    gained: list[str] = field(default_factory=list)  # problems that only `second` solves (or solves more often)
    lost: list[str] = field(default_factory=list)
    gold: GoldPair | None = None
    gold_refused: str = ""
    cautions: list[str] = field(default_factory=list)
    contaminated: list[str] = field(default_factory=list)  # whose training data holds the benchmark
    generated: bool = True  # False: texts were only read
    same_text: tuple[int, int] | None = None  # completions that are the same text, of how many


def compare(first: Subject, second: Subject) -> Pair:
    """The comparison, or its refusal; verdicts come later, when the number of comparisons is known."""
    pair = Pair(first.benchmark, first.label, second.label, refused=refusal(first, second), generated=first.generated)
    if pair.refused:
        return pair
    problems = list(first.values)  # the order of scores.jsonl, which is that of the data
    a, b = [first.values[key] for key in problems], [second.values[key] for key in problems]
    pair.n = len(problems)
    pair.gained = [key for key in problems if second.values[key] > first.values[key]]
    pair.lost = [key for key in problems if second.values[key] < first.values[key]]
    pair.agreement = 1 - (len(pair.gained) + len(pair.lost)) / pair.n
    if pair.n > 1 and (first.seeds or second.seeds):
        compare_seeds(pair, first, second)
    else:
        compare_two(pair, a, b, first.binary and second.binary)
    pair.cautions += [
        f"the runs were evaluated with different {name} settings"
        for name in ("prompt", "engine", "samples")
        if _text(first.setup.get(name)) != _text(second.setup.get(name))
    ]
    pair.contaminated = [side.label for side in (first, second) if side.contaminated]
    pair.gold_refused = gold_refusal(first, second)
    if not pair.gold_refused:
        pair.gold = compare_gold(first, second)
    return pair


def compare_two(pair: Pair, a: list[float], b: list[float], binary: bool) -> None:
    """Two evaluations: intervals over the draw of problems."""
    result = stats.paired_difference(a, b)
    pair.difference, pair.interval = result.difference, result.interval
    low, high = result.low, result.high
    flips = len(pair.gained) + len(pair.lost)
    if binary and flips < FEW_FLIPS:
        pair.interval = low, high = stats.flips_interval(len(pair.gained), len(pair.lost), pair.n)
    if pair.n > 1:
        pair.freedom = pair.n - 1
        pair.standard_error = (high - low) / (2 * intervals.Z95)
    if binary:
        pair.p, pair.test = stats.mcnemar(len(pair.gained), len(pair.lost)), "McNemar, exact"
        pair.detectable = detectable_flips(pair.n, flips)
    else:
        pair.p, pair.test = stats.sign_flip_p([y - x for x, y in zip(a, b, strict=True)]), "sign flips"
        pair.detectable = stats.smallest_detectable(a, b)


def seed_effect(comparison: Comparison, first: Subject, second: Subject, gold: bool = False) -> hierarchy.Effect:
    """Settings with several seeds: difference, interval and test over the draw of problems and of seeds."""
    problems = list(first.logprobs if gold else first.values)
    a, b = (
        {seed: [values[key] for key in problems] for seed, values in _by_seed(side, gold).items()}
        for side in (first, second)
    )
    untrained = [not side.seeds and not side.seed for side in (first, second)]
    effect = hierarchy.effect(a, b, fixed="first" if untrained[0] else "second" if untrained[1] else "")
    comparison.difference, comparison.interval, comparison.detectable = (
        effect.difference,
        effect.interval,
        effect.detectable,
    )
    comparison.p, comparison.test = effect.p, effect.test
    return effect


def _by_seed(side: Subject, gold: bool) -> dict[str, dict[str, float]]:
    single = {side.seed or "(no training)": side.logprobs if gold else side.values}
    return (side.seed_logprobs if gold else side.seeds) or single


def compare_seeds(pair: Pair, first: Subject, second: Subject) -> None:
    """The accuracies of settings with several seeds."""
    effect = seed_effect(pair, first, second)
    pair.standard_error, pair.seed_share, pair.freedom = effect.standard_error, effect.seed_share, effect.freedom
    pair.cautions.append(effect.design)
    if not effect.standard_error:  # no problem differs, or all alike: variances of zero are no certainty
        flips = pair.n if effect.difference else 0
        gained, lost = (flips, 0) if effect.difference > 0 else (0, flips)
        pair.interval = low, high = stats.flips_interval(gained, lost, pair.n)
        pair.standard_error = (high - low) / (2 * intervals.Z95)
        pair.p, pair.test = stats.mcnemar(gained, lost), "McNemar, exact"
        pair.detectable = detectable_flips(pair.n, flips)


def compare_gold(first: Subject, second: Subject) -> GoldPair:
    """Paired difference of the log-likelihood per token; where a side has several seeds, over problems and seeds."""
    gold = GoldPair(n=len(first.logprobs))
    if first.seeds or second.seeds:
        seed_effect(gold, first, second, gold=True)
        return gold
    a, b = [first.logprobs[key] for key in first.logprobs], [second.logprobs[key] for key in first.logprobs]
    result = stats.paired_difference(a, b)
    gold.difference, gold.interval, gold.p = result.difference, result.interval, result.p
    gold.test, gold.detectable = f"t on {gold.n - 1} degrees of freedom", stats.smallest_detectable(a, b)
    return gold


def detectable_flips(n: int, flips: int) -> float | None:
    """The smallest difference of two accuracies that this many problems would show; None where none would.

    It depends on how many problems flip at all. Where so few flipped that no difference among them could be found, the
    smallest number of flips is taken with which one could.
    """
    effects = (stats.minimum_detectable_effect(n, k / n) for k in range(max(1, flips), n + 1))
    return next((effect for effect in effects if isfinite(effect)), None)


def includes_zero(interval: tuple[float, float]) -> bool:
    """Whether zero is inside or on the edge."""
    return interval[0] <= 0 <= interval[1]


def all_pairs(subjects: list[Subject]) -> list[Pair]:
    """Every pair on every benchmark; the one listed earlier is the baseline. Corrected for their number."""
    pairs = [compare(a, b) for a, b in combinations(subjects, 2) if a.benchmark == b.benchmark]
    decide(pairs)
    return pairs


def decide(pairs: list[Pair]) -> None:
    """Correct for the number of tests, of accuracies and of log-likelihoods apart, and give every verdict."""
    for family in (pairs, [pair.gold for pair in pairs if pair.gold]):
        correct_for_number(family)
        for comparison in family:
            comparison.verdict = verdict(comparison)


def correct_for_number(family: Sequence[Comparison]) -> None:
    """Holm's correction over all tests of these comparisons."""
    tested = [comparison for comparison in family if comparison.p is not None]
    for comparison, corrected in zip(tested, stats.holm([c.p or 0.0 for c in tested]), strict=True):
        comparison.p_holm = corrected


def verdict(comparison: Comparison) -> str:
    """In words. Where the interval and the test disagree, nothing is called decided."""
    if comparison.difference is None:
        return "not compared"
    if comparison.interval is None or includes_zero(comparison.interval):
        return UNDECIDED
    direction = "higher" if comparison.difference > 0 else "lower"
    if comparison.p is None:
        return direction
    if comparison.p > LEVEL:
        words = "exact test p" if comparison.test.startswith("McNemar") else "p"
        return f"{UNDECIDED} ({words} = {probability(comparison.p)})"
    if (comparison.p_holm or 0.0) > LEVEL:
        return f"{UNDECIDED} after correction"
    return direction


def decided(words: str) -> bool:
    """Whether a verdict says higher or lower."""
    return words in ("higher", "lower")


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
