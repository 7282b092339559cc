"""How well a model's own uncertainty tells which of its answers are wrong.

The signal is `mean_entropy` of a completion (mean over its tokens of the entropy of the next-token distribution, in
nats; kept on request in generations.jsonl). Where a problem has several completions, the same question is asked of the
share of them that disagree with the majority answer. "Positive" is a wrong answer throughout.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mft_cli.files import JsonObject
from mft_cli.stats import intervals
from mft_cli.stats import significance as stats

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
POINTS = 101  # of the risk-coverage curve that is written
DRAWS = 2000
FEW = "Wilson's score, with DeLong's variance drawn towards its bound"
PRIOR_WEIGHT = 2.0  # of the variance's bound, in answers of the rarer kind


def failure_detection(groups: Sequence[Sequence[JsonObject]], threshold: float | None = None) -> JsonObject | None:
    """The numbers of one evaluation, or None where no completion has a mean_entropy.

    `groups` holds, for each problem, its completions as {"id", "correct", "vote", "mean_entropy" (may be None)}.
    `threshold` None chooses one (see `chosen_threshold`).
    """
    used = [[completion for completion in group if completion.get("mean_entropy") is not None] for group in groups]
    flat = [completion for group in used for completion in group]
    if not flat:
        return None
    signal = np.array([completion["mean_entropy"] for completion in flat], dtype=np.float64)
    wrong = np.array([not completion["correct"] for completion in flat])
    problem = np.repeat(np.arange(len(used)), [len(group) for group in used])
    single = all(len(group) <= 1 for group in used)
    result: JsonObject = {
        "signal": "mean_entropy",
        "n": len(flat),
        "without": sum(map(len, groups)) - len(flat),
        "wrong": int(wrong.sum()),
        "auroc": auroc(signal, wrong),
    }
    if result["auroc"] is not None:
        interval = auroc_interval(signal, wrong) if single else bootstrap_auroc(signal, wrong, problem)
        result["interval"] = list(interval)
        result["interval_method"] = FEW if single else f"bootstrap over problems ({DRAWS} draws, seed 0)"
        result |= at_threshold(signal, wrong, [str(completion["id"]) for completion in flat], threshold)
    risk = risk_coverage(signal, wrong)
    result |= {"risk_coverage": curve_points(risk), "aurc": float(risk.mean()), "risk": float(wrong.mean())}
    if not single:
        result["agreement"] = agreement(used)
    return result


# ---- area under the ROC curve ---------------------------------------------------------------------------------------


def auroc(signal: ArrayLike, wrong: ArrayLike) -> float | None:
    """Probability that a wrong answer has a higher signal than a right one, ties counting half (Mann and Whitney 1947)."""
    s, w = np.asarray(signal, dtype=np.float64), np.asarray(wrong, dtype=bool)
    m, n = int(w.sum()), int((~w).sum())
    if not m or not n:
        return None
    return float((_ranks(s)[w].sum() - m * (m + 1) / 2) / (m * n))


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def auroc_interval(signal: ArrayLike, wrong: ArrayLike) -> tuple[float, float]:
    """95 % interval of the AUROC of answers to different problems, for few answers of one kind, too.

    Wilson's score interval of a proportion, with the effective number of answers A (1 - A) / variance. The variance is
    DeLong's (DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44:837), drawn towards the largest one that any
    distributions have, A (1 - A) / k with k the number of answers of the rarer kind (Birnbaum and Klose 1957, Annals of
    Mathematical Statistics 28:933): from two right answers DeLong's is a guess, and mostly too small. The weights, k - 1
    and PRIOR_WEIGHT, were chosen by simulation (scripts/bench/auroc_coverage.py). For an A of 0 or 1 it is the bound.
    """
    s, w = np.asarray(signal, dtype=np.float64), np.asarray(wrong, dtype=bool)
    area = auroc(s, w)
    if area is None:
        raise ValueError("both right and wrong answers are needed")
    fewest = int(min(w.sum(), (~w).sum()))
    most, spread = area * (1 - area) / fewest, 1.0
    if fewest > 1 and most > 0:
        weight = fewest - 1
        spread = (weight * min(1.0, delong_variance(s, w) / most) + PRIOR_WEIGHT) / (weight + PRIOR_WEIGHT)
    effective = fewest / spread
    return intervals.wilson(area * effective, effective)


def delong_variance(signal: Floats, wrong: NDArray[np.bool_]) -> float:
    """DeLong's variance of the AUROC, from at least two answers of each kind."""
    ranks = _ranks(signal)
    right = ~wrong
    m, n = int(wrong.sum()), int(right.sum())
    from_wrong = (ranks[wrong] - _ranks(signal[wrong])) / n  # for each wrong answer, the share of right ones below it
    from_right = 1 - (ranks[right] - _ranks(signal[right])) / m
    return float(from_wrong.var(ddof=1) / m + from_right.var(ddof=1) / n)


def bootstrap_auroc(signal: Floats, wrong: NDArray[np.bool_], problem: Indices) -> tuple[float, float]:
    """95 % percentile interval, problems drawn with all their completions (which are no independent draws)."""
    drawn = [area for chosen in _draws(problem) if (area := auroc(signal[chosen], wrong[chosen])) is not None]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _draws(problem: Indices, draws: int = DRAWS) -> Iterator[Indices]:
    """Index arrays: problems with replacement, each with all its rows."""
    generator, places = np.random.default_rng(0), [np.flatnonzero(problem == p) for p in np.unique(problem)]
    for _ in range(draws):
        yield np.concatenate([places[i] for i in generator.integers(0, len(places), len(places))])


# ---- a threshold ----------------------------------------------------------------------------------------------------


def at_threshold(signal: Floats, wrong: NDArray[np.bool_], ids: Sequence[str], given: float | None) -> JsonObject:
    """Flags above the threshold: how many, precision (of the flagged, the wrong) and recall (of the wrong, the flagged).

    A threshold that was chosen on the same answers would flatter itself: without a given one, each half of the problems
    is flagged by the threshold that suits the other half, and the one that is reported suits all.
    """
    threshold = chosen_threshold(signal, wrong) if given is None else given
    if given is None:
        half = np.array([zlib.crc32(id.encode()) & 1 for id in ids], dtype=bool)
        flagged = np.zeros(len(signal), dtype=bool)
        for side in (half, ~half):
            if side.any() and (~side).any():
                flagged[side] = signal[side] > chosen_threshold(signal[~side], wrong[~side])
        rule = "Youden's index; counts by thresholds from the other half of the problems"
    else:
        flagged, rule = signal > threshold, "given"
    hits, flags, total = int((flagged & wrong).sum()), int(flagged.sum()), int(wrong.sum())
    return {
        "threshold": threshold,
        "threshold_rule": rule,
        "flagged": flags,
        "precision": hits / flags if flags else None,
        "precision_interval": list(intervals.wilson(hits, flags)) if flags else None,
        "recall": hits / total if total else None,
        "recall_interval": list(intervals.wilson(hits, total)) if total else None,
    }


def chosen_threshold(signal: Floats, wrong: NDArray[np.bool_]) -> float:
    """The value above which flags have the largest recall minus false-alarm rate (Youden 1950, Cancer 3:32)."""
    values, inverse = np.unique(signal, return_inverse=True)
    bad, good = np.bincount(inverse, wrong, len(values)), np.bincount(inverse, ~wrong, len(values))
    above_bad, above_good = bad.sum() - np.cumsum(bad), good.sum() - np.cumsum(good)
    gain = above_bad / max(1, bad.sum()) - above_good / max(1, good.sum())
    best = int(np.argmax(gain))
    return float(values[best] if best + 1 == len(values) else (values[best] + values[best + 1]) / 2)


# ---- answering only what one is sure of -----------------------------------------------------------------------------


def risk_coverage(signal: ArrayLike, wrong: ArrayLike) -> Floats:
    """Share of wrong answers among the k with the lowest signal, for k = 1..n (El-Yaniv and Wiener 2010, JMLR 11).

    Among equal signals the order is unknown: each counts as the mean of its group. The mean of all is the AURC.
    """
    s, w = np.asarray(signal, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    _, inverse = np.unique(s, return_inverse=True)
    mean = np.bincount(inverse, w) / np.bincount(inverse)
    expected = mean[np.sort(inverse)]
    return np.cumsum(expected) / np.arange(1, len(s) + 1)


def curve_points(risk: Floats) -> list[list[float]]:
    """At most 101 points [coverage, risk], the last one at coverage 1."""
    n = len(risk)
    chosen = np.unique(np.linspace(1, n, min(n, POINTS)).round().astype(int))
    return [[round(float(k) / n, 6), round(float(risk[k - 1]), 6)] for k in chosen]


# ---- against the agreement of several samples -----------------------------------------------------------------------


def agreement(groups: Sequence[Sequence[JsonObject]]) -> JsonObject | None:
    """Which of two signals tells better that a problem's majority answer is wrong: mean entropy or disagreement.

    Both on the same problems; the difference of the AUROCs has a paired bootstrap interval over problems.
    """
    rows = [_problem(group) for group in groups if group]
    entropy, disagreement = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    wrong = np.array([r[2] for r in rows])
    areas = auroc(entropy, wrong), auroc(disagreement, wrong)
    result: JsonObject = {"problems": len(rows), "wrong": int(wrong.sum()), "auroc_entropy": areas[0],
                              "auroc_disagreement": areas[1]}  # fmt: skip
    if areas[0] is None or areas[1] is None:
        return result
    drawn = []
    for chosen in _draws(np.arange(len(rows))):
        entropy_area = auroc(entropy[chosen], wrong[chosen])
        disagreement_area = auroc(disagreement[chosen], wrong[chosen])
        if entropy_area is not None and disagreement_area is not None:
            drawn.append(entropy_area - disagreement_area)
    result["difference"] = areas[0] - areas[1]
    result["interval"] = [float(x) for x in np.quantile(drawn, [0.025, 0.975])]
    result["risk_coverage"] = curve_points(risk_coverage(disagreement, wrong))
    return result


def _problem(group: Sequence[JsonObject]) -> tuple[float, float, bool]:
    """(mean entropy, share of samples that are not the majority answer, whether that answer is wrong)."""
    votes: list[Hashable | None] = [completion["vote"] for completion in group]
    winner = stats.majority(votes)
    entropy = sum(float(completion["mean_entropy"]) for completion in group) / len(group)
    if winner is None:
        return entropy, 1.0, True
    return entropy, 1 - votes.count(winner) / len(votes), not group[votes.index(winner)]["correct"]
