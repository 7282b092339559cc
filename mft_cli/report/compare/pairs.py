"""Paired comparisons: the same problems under two models. The formulas are those of `mft_cli.stats.significance`.

A comparison that would be wrong (other problems, other gold answers, unfinished scores) is refused with the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import combinations
from math import isfinite

from mft_cli.report.read.fields import Record
from mft_cli.report.read.runs import Evaluation
from mft_cli.report.wording import count, is_number, one_line, probability
from mft_cli.stats import hierarchy, intervals
from mft_cli.stats import significance as stats

LEVEL = 0.05
UNDECIDED = "not decided"
FEW_FLIPS = 10  # below, a bootstrap over problems is too narrow


@dataclass
class Subject:
    """What is compared: one evaluation, or several seeds averaged problem by problem."""

    label: str
    run: str  # the run's label; `label` has the checkpoint too
    benchmark: str
    values: dict[str, float]  # problem -> share of its completions that are correct
    answers: dict[str, str]  # problem -> gold answer
    logprobs: dict[str, float]  # problem -> mean log-probability of a token of the gold solution
    tokens: dict[str, int]  # problem -> tokens of the gold solution
    binary: bool  # one completion a problem: the exact test on flips applies
    setup: Record = field(default_factory=dict)  # prompt and engine, to warn where they differ
    accuracy: float | None = None  # what metrics.json says
    contaminated: bool = False
    problem: str = ""  # why it cannot be compared at all
    seed: str = ""  # of a single trained run; empty for a model that was only evaluated
    seeds: dict[str, dict[str, float]] = field(default_factory=dict)  # of several: seed -> values


@dataclass
class GoldPair:
    """The paired difference of the gold solutions' log-probabilities."""

    n: int
    difference: float
    interval: tuple[float, float]
    detectable: float | None
    verdict: str


@dataclass
class Pair:
    """`second` minus `first` on one benchmark."""

    benchmark: str
    first: str
    second: str
    refused: str = ""
    n: int = 0
    difference: float | None = None
    interval: tuple[float, float] | None = None
    standard_error: float | None = None
    freedom: int = 1  # degrees of freedom of the standard error
    p: float | None = None
    test: str = ""  # which test p is of
    agreement: float | None = None  # share of problems with the same outcome
    seed_share: float | None = None  # share of the variance that comes from seeds
    p_holm: float | None = None
    gained: list[str] = field(default_factory=list)  # problems that only `second` solves (or solves more often)
    lost: list[str] = field(default_factory=list)
    detectable: float | None = None
    verdict: str = ""
    gold: GoldPair | None = None
    gold_refused: str = ""
    cautions: list[str] = field(default_factory=list)
    contaminated: list[str] = field(default_factory=list)  # whose training data holds the benchmark
    same_text: tuple[int, int] | None = None  # completions that are the same text, of how many


def subject(evaluation: Evaluation) -> Subject:
    """One evaluation, problem by problem."""
    marks: dict[str, list[float]] = {}
    answers: dict[str, str] = {}
    rows = {(str(row.get("id")), row.get("sample") or 0): row for row in evaluation.scores}
    for (problem, _), row in rows.items():
        marks.setdefault(problem, []).append(float(row.get("correct") is True))
        answers[problem] = str(row.get("gold"))
    gold = [row for row in evaluation.gold if is_number(row.get("logprob_sum")) and row.get("tokens")]
    metrics = evaluation.metrics or {}
    return Subject(
        label=evaluation.label,
        run=evaluation.run,
        benchmark=evaluation.benchmark,
        values={problem: sum(values) / len(values) for problem, values in marks.items()},
        answers=answers,
        logprobs={str(row["id"]): row["logprob_sum"] / row["tokens"] for row in gold},
        tokens={str(row["id"]): row["tokens"] for row in gold},
        binary=all(len(values) == 1 for values in marks.values()),
        setup={key: metrics.get(key) for key in ("prompt", "engine", "samples")},
        accuracy=metrics.get("accuracy"),
        contaminated=bool(metrics.get("contaminated")),
        problem=obstacle(evaluation),
    )


def obstacle(evaluation: Evaluation) -> str:
    """Why an evaluation cannot be compared; empty if it can."""
    if evaluation.metrics is None:
        return f"the evaluation of {evaluation.label} is not finished (no metrics.json)"
    if not evaluation.scores:
        return f"{evaluation.label} has no scores.jsonl"
    return ""


def average(subjects: list[Subject], label: str) -> Subject:
    """Several seeds as one subject. Raises ValueError with the reason where they do not share problems."""
    first = subjects[0]
    for other in subjects[1:]:
        reason = refusal(first, other)
        if reason:
            raise ValueError(reason)
    # The log-probability needs every seed to have measured every problem with equally many tokens.
    gold = all(other.logprobs and other.tokens == first.tokens for other in subjects)
    return Subject(
        label=label,
        run=label,
        benchmark=first.benchmark,
        values=_mean_of([s.values for s in subjects]),
        answers=first.answers,
        logprobs=_mean_of([s.logprobs for s in subjects]) if gold else {},
        tokens=first.tokens if gold else {},
        binary=False,
        setup=first.setup,
        contaminated=any(s.contaminated for s in subjects),
        seeds=_by_seed(subjects),
    )


def _by_seed(subjects: list[Subject]) -> dict[str, dict[str, float]]:
    """Each seed's values; a seed that is there twice gets a key that pairs with nothing."""
    names = [member.seed for member in subjects]
    keys = [
        name if names.count(name) == 1 else f"{name} in {member.label}"
        for name, member in zip(names, subjects, strict=True)
    ]
    return {key: member.values for key, member in zip(keys, subjects, strict=True)}


def _mean_of(tables: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(table[key] for table in tables) / len(tables) for key in tables[0]}


def refusal(first: Subject, second: Subject) -> str:
    """Why two subjects may not be paired; empty if they may."""
    if first.problem or second.problem:
        return first.problem or second.problem
    only_first = first.values.keys() - second.values.keys()
    only_second = second.values.keys() - first.values.keys()
    if only_first or only_second:
        return (
            f"the problem sets differ: {count(len(only_first), 'problem')} only in {first.label}, "
            f"{len(only_second)} only in {second.label}"
        )
    other = [key for key in first.answers if first.answers[key] != second.answers[key]]
    if other:
        return f"the gold answers of {count(len(other), 'problem')} differ, the first is {one_line(other[0])}"
    return ""


def gold_refusal(first: Subject, second: Subject) -> str:
    """Why two subjects' gold log-probabilities may not be paired."""
    for side in (first, second):
        if not side.logprobs:
            return f"{side.label} has no gold log-probabilities"
    if first.tokens.keys() != second.tokens.keys():
        return "gold solutions of different problems were measured"
    # A mean over tokens compares only under one tokenization: other tokens, other unit.
    other = sum(first.tokens[key] != second.tokens[key] for key in first.tokens)
    return f"{count(other, 'gold solution')} split into different numbers of tokens" if other else ""


def compare(first: Subject, second: Subject) -> Pair:
    """The comparison, or its refusal; verdicts come later, when the number of comparisons is known."""
    pair = Pair(first.benchmark, first.label, second.label, refused=refusal(first, second))
    if pair.refused:
        return pair
    problems = list(first.values)  # the order of scores.jsonl, which is that of the data
    a, b = [first.values[key] for key in problems], [second.values[key] for key in problems]
    pair.n = len(problems)
    pair.gained = [key for key in problems if second.values[key] > first.values[key]]
    pair.lost = [key for key in problems if second.values[key] < first.values[key]]
    pair.agreement = 1 - (len(pair.gained) + len(pair.lost)) / pair.n
    if pair.n > 1 and (first.seeds or second.seeds):
        compare_seeds(pair, first, second, problems)
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
    pair.difference, pair.interval = result.difference, result.bootstrap
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


def compare_seeds(pair: Pair, first: Subject, second: Subject, problems: list[str]) -> None:
    """Settings with several seeds: intervals over the draw of problems and of seeds."""
    sides = [side.seeds or {side.seed or "(no training)": side.values} for side in (first, second)]
    a, b = ({seed: [values[key] for key in problems] for seed, values in side.items()} for side in sides)
    fixed = "first" if not first.seeds and not first.seed else "second" if not second.seeds and not second.seed else ""
    effect = hierarchy.effect(a, b, fixed=fixed)
    pair.difference, pair.interval, pair.standard_error = effect.difference, effect.interval, effect.standard_error
    pair.p, pair.test, pair.detectable = effect.p, f"t on {effect.freedom} degrees of freedom", effect.detectable
    pair.seed_share, pair.freedom = effect.seed_share, effect.freedom
    pair.cautions.append(effect.design)
    if not effect.standard_error:  # no problem differs, or all alike: variances of zero are no certainty
        flips = len(problems) if effect.difference else 0
        gained, lost = (flips, 0) if effect.difference > 0 else (0, flips)
        pair.interval = low, high = stats.flips_interval(gained, lost, len(problems))
        pair.standard_error = (high - low) / (2 * intervals.Z95)
        pair.p, pair.test = stats.mcnemar(gained, lost), "McNemar, exact"
        pair.detectable = detectable_flips(len(problems), flips)


def compare_gold(first: Subject, second: Subject) -> GoldPair:
    """Paired difference of the log-probability a token."""
    problems = list(first.logprobs)
    a, b = [first.logprobs[key] for key in problems], [second.logprobs[key] for key in problems]
    result = stats.paired_difference(a, b)
    difference, interval = result.difference, result.bootstrap
    verdict = UNDECIDED if includes_zero(interval) else ("higher" if difference > 0 else "lower")
    return GoldPair(len(problems), difference, interval, stats.smallest_detectable(a, b), verdict)


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
    correct_for_number(pairs)
    for pair in pairs:
        pair.verdict = verdict(pair)
    return pairs


def correct_for_number(pairs: list[Pair]) -> None:
    """Holm's correction over all tests of these pairs."""
    tested = [pair for pair in pairs if pair.p is not None]
    for pair, corrected in zip(tested, stats.holm([pair.p or 0.0 for pair in tested]), strict=True):
        pair.p_holm = corrected


def verdict(pair: Pair) -> str:
    """In words. Where the interval and the exact test disagree, nothing is called decided."""
    if pair.refused or pair.interval is None or pair.difference is None:
        return "not compared"
    if includes_zero(pair.interval):
        return UNDECIDED
    direction = "higher" if pair.difference > 0 else "lower"
    if pair.p is None:
        return direction
    if pair.p > LEVEL:
        words = "exact test p" if pair.test.startswith("McNemar") else "p"
        return f"{UNDECIDED} ({words} = {probability(pair.p)})"
    if (pair.p_holm or 0.0) > LEVEL:
        return f"{UNDECIDED} after correction"
    return direction


def decided(words: str) -> bool:
    """Whether a verdict says higher or lower."""
    return words in ("higher", "lower")


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
