"""Failure detection against enumeration, scipy and simulation; and from a file of completions to metrics.json."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.eval.score import score_file
from mft_cli.stats import intervals
from mft_cli.stats.failure_detection import (
    at_threshold,
    auroc,
    auroc_interval,
    bootstrap_auroc,
    chosen_threshold,
    curve_points,
    delong_variance,
    failure_detection,
    risk_coverage,
)
from tests.support.fake_runs import write_completions

SIGNAL = [0.1, 0.4, 0.35, 0.8, 0.4, 0.9]
WRONG = [False, False, True, True, True, False]


def test_auroc_by_pairs_and_by_scipy() -> None:
    pairs = [(b > g) + 0.5 * (b == g) for b, x in zip(SIGNAL, WRONG, strict=True) if x
             for g, y in zip(SIGNAL, WRONG, strict=True) if not y]  # fmt: skip
    assert auroc(SIGNAL, WRONG) == pytest.approx(sum(pairs) / 9)
    assert auroc(SIGNAL, [True] * 6) is None
    scipy = pytest.importorskip("scipy.stats", reason="scipy is the reference here")
    generator = np.random.default_rng(0)
    signal, wrong = generator.integers(0, 9, 300).astype(float), generator.random(300) < 0.3
    u = scipy.mannwhitneyu(signal[wrong], signal[~wrong]).statistic
    assert auroc(signal, wrong) == pytest.approx(u / (wrong.sum() * (~wrong).sum()))


def test_interval_by_loops() -> None:
    bad = [s for s, w in zip(SIGNAL, WRONG, strict=True) if w]
    good = [s for s, w in zip(SIGNAL, WRONG, strict=True) if not w]
    psi = np.array([[(b > g) + 0.5 * (b == g) for g in good] for b in bad])
    area = psi.mean()
    variance = psi.mean(axis=1).var(ddof=1) / 3 + psi.mean(axis=0).var(ddof=1) / 3
    assert delong_variance(np.array(SIGNAL), np.array(WRONG)) == pytest.approx(variance)
    most = area * (1 - area) / 3
    drawn = (2 * min(variance, most) + 2 * most) / 4  # the weights are 3 - 1 and 2
    low, high = auroc_interval(SIGNAL, WRONG)
    for end in (low, high):  # Wilson's ends: where the true area would just be 1.96 errors away
        assert (area - end) ** 2 == pytest.approx(1.959964**2 * drawn * end * (1 - end) / (area * (1 - area)), rel=1e-5)
    assert auroc_interval([1, 2, 3, 4], [False, False, True, True]) == pytest.approx(intervals.wilson(2, 2))
    assert auroc_interval([1, 2, 3, 1.5], [False, True, True, True]) == pytest.approx(intervals.wilson(1, 1))


def test_with_many_answers_the_interval_is_delongs() -> None:
    generator, wrong = np.random.default_rng(7), np.arange(4000) < 2000
    signal = generator.normal(0, 1, 4000) + wrong
    low, high = auroc_interval(signal, wrong)
    assert high - low == pytest.approx(2 * 1.959964 * delong_variance(signal, wrong) ** 0.5, rel=0.01)


@pytest.mark.parametrize("right", [2, 3, 5, 10, 80])
@pytest.mark.parametrize("kind", ["equal", "right twice", "ties"])
def test_interval_covers(right: int, kind: str) -> None:
    """Few right answers of 120, for which DeLong's interval held the true area in as little as 30 % of the draws."""
    held, wrong, generator = 0, np.arange(120) >= right, np.random.default_rng(1)
    for _ in range(300):
        if kind == "ties":
            signal, truth = (generator.random(120) < np.where(wrong, 0.72, 0.12)).astype(float), 0.8
        else:
            signal = generator.normal(0, np.where(wrong, 1.0, 2.0 if kind == "right twice" else 1.0)) + wrong
            truth = NormalDist().cdf(1 / (5 if kind == "right twice" else 2) ** 0.5)
        low, high = auroc_interval(signal, wrong)
        held += low <= truth <= high
    assert held / 300 >= 0.92


def test_clusters_widen_the_bootstrap() -> None:
    """Eight copies of every completion are no more evidence than one."""
    generator = np.random.default_rng(2)
    wrong = generator.random(80) < 0.4
    signal = generator.normal(0, 1, 80) + wrong
    low, high = bootstrap_auroc(np.repeat(signal, 8), np.repeat(wrong, 8), np.repeat(np.arange(80), 8))
    one = auroc_interval(signal, wrong)
    assert high - low == pytest.approx(one[1] - one[0], rel=0.25)


def test_risk_and_coverage_by_hand() -> None:
    assert risk_coverage([0.1, 0.2, 0.3, 0.4], [False, False, True, True]) == pytest.approx([0, 0, 1 / 3, 1 / 2])
    tied = risk_coverage([0.1, 0.2, 0.2, 0.4], [False, True, False, True])  # the tied two count as half wrong each
    assert tied == pytest.approx([0, 0.25, 1 / 3, 0.5])
    points = curve_points(risk_coverage(np.arange(1000.0), np.arange(1000) >= 900))
    assert len(points) == 101
    assert points[-1] == [1.0, 0.1]


def test_threshold_by_enumeration() -> None:
    signal, wrong = np.array(SIGNAL), np.array(WRONG)

    def youden(t: float) -> float:
        return float((signal[wrong] > t).mean() - (signal[~wrong] > t).mean())

    assert youden(chosen_threshold(signal, wrong)) == pytest.approx(max(map(youden, SIGNAL)))
    found = at_threshold(signal, wrong, list("abcdef"), 0.39)
    assert (found["flagged"], found["precision"], found["recall"]) == (4, 0.5, pytest.approx(2 / 3))


def test_a_chosen_threshold_does_not_flatter_a_useless_signal() -> None:
    """Noise: Youden's own choice promises skill; thresholds from the other half show none."""
    generator = np.random.default_rng(3)
    gaps = []
    for _ in range(60):
        signal, wrong = generator.random(60), generator.random(60) < 0.5
        found = at_threshold(signal, wrong, [str(i) for i in range(60)], None)
        if found["precision"] is not None:
            gaps.append(found["precision"] - wrong.mean())
    assert abs(np.mean(gaps)) < 0.03


def rows(marks: list[list[tuple[bool, str, float | None]]]) -> list[list[dict]]:
    return [
        [{"id": f"p{i}", "correct": c, "vote": v, "mean_entropy": e} for c, v, e in group]
        for i, group in enumerate(marks)
    ]


def test_agreement_by_hand() -> None:
    found = failure_detection(rows([
        [(True, "1", 0.1), (True, "1", 0.1), (True, "1", 0.2)],  # certain and right
        [(False, "2", 0.9), (False, "3", 0.8), (True, "1", 0.7)],  # all differ: the first vote wins and is wrong
        [(True, "1", 0.2), (False, "2", 0.3), (True, "1", 0.3)],
        [(False, "5", 0.1), (False, "5", 0.1), (False, "5", 0.1)],  # sure of itself, and wrong
    ]))  # fmt: skip
    assert found is not None
    both = found["agreement"]
    assert (both["problems"], both["wrong"]) == (4, 2)
    assert both["auroc_entropy"] == pytest.approx(0.5)  # wrong: 0.8 and 0.1; right: 0.133 and 0.267
    assert both["auroc_disagreement"] == pytest.approx(2.5 / 4)  # wrong: 2/3 and 0; right: 0 and 1/3
    assert both["difference"] == pytest.approx(-0.125)
    assert failure_detection(rows([[(True, "1", None)]])) is None


def test_from_completions_to_metrics(tmp_path: Path) -> None:
    file = write_completions(tmp_path / "g.jsonl")
    found = score_file(file, "x", BenchmarkConfig(markers=["####"]), tmp_path)["failure_detection"]
    assert (found["n"], found["wrong"], found["without"]) == (40, 10, 0)
    assert found["auroc"] == pytest.approx(1 - 20 / 300)  # two right answers above all ten wrong ones
    assert found["interval"][0] < found["auroc"] < found["interval"][1]
    assert found["recall"] == 1.0
    given = score_file(
        file, "x", BenchmarkConfig(markers=["####"]), tmp_path, eval_config=EvalConfig(failure_threshold=0.85)
    )
    assert (given["failure_detection"]["flagged"], given["failure_detection"]["precision"]) == (2, 0.0)
    several = score_file(
        write_completions(tmp_path / "g.jsonl", 4), "x", BenchmarkConfig(samples=4, markers=["####"]), tmp_path
    )
    assert several["failure_detection"]["agreement"]["problems"] == 40
    assert "bootstrap" in several["failure_detection"]["interval_method"]
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
