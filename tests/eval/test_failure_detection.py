"""Failure detection against enumeration, scipy and simulation; and from a file of completions to metrics.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fake_runs import write_completions

from mft_cli.eval.failure_detection import (
    at_threshold,
    auroc,
    bootstrap_auroc,
    chosen_threshold,
    curve_points,
    delong,
    failure_detection,
    risk_coverage,
)
from mft_cli.eval.score import score_file
from mft_cli.schema import BenchmarkConfig, EvalConfig

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


def test_delong_variance_by_loops() -> None:
    bad = [s for s, w in zip(SIGNAL, WRONG, strict=True) if w]
    good = [s for s, w in zip(SIGNAL, WRONG, strict=True) if not w]
    psi = np.array([[(b > g) + 0.5 * (b == g) for g in good] for b in bad])
    area = psi.mean()
    error = np.sqrt(psi.mean(axis=1).var(ddof=1) / 3 + psi.mean(axis=0).var(ddof=1) / 3)
    half = 1.959964 * error / (area * (1 - area))
    logit = np.log(area / (1 - area))
    expected = [1 / (1 + np.exp(-(logit - half))), 1 / (1 + np.exp(-(logit + half)))]
    assert delong(SIGNAL, WRONG) == pytest.approx(expected, abs=1e-5)
    low, high = delong([1, 2, 3, 4], [False, False, True, True])
    assert 0.2 < low < 1
    assert high == 1.0


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_delong_covers(shift: float) -> None:
    """Normal signals: the true area is Phi(shift / sqrt 2)."""
    from statistics import NormalDist

    truth, generator, hit = NormalDist().cdf(shift / 2**0.5), np.random.default_rng(1), 0
    for _ in range(400):
        wrong = np.arange(120) < 40
        low, high = delong(generator.normal(0, 1, 120) + shift * wrong, wrong)
        hit += low <= truth <= high
    assert 0.92 <= hit / 400 <= 0.98


def test_clusters_widen_the_bootstrap() -> None:
    """Eight copies of every completion are no more evidence than one."""
    generator = np.random.default_rng(2)
    wrong = generator.random(80) < 0.4
    signal = generator.normal(0, 1, 80) + wrong
    low, high = bootstrap_auroc(np.repeat(signal, 8), np.repeat(wrong, 8), np.repeat(np.arange(80), 8))
    one = delong(signal, wrong)
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
    found = score_file(file, "x", BenchmarkConfig(), tmp_path)["failure_detection"]
    assert (found["n"], found["wrong"], found["without"]) == (40, 10, 0)
    assert found["auroc"] == pytest.approx(1 - 20 / 300)  # two right answers above all ten wrong ones
    assert found["interval"][0] < found["auroc"] < found["interval"][1]
    assert found["recall"] == 1.0
    given = score_file(file, "x", BenchmarkConfig(), tmp_path, eval_config=EvalConfig(failure_threshold=0.85))
    assert (given["failure_detection"]["flagged"], given["failure_detection"]["precision"]) == (2, 0.0)
    several = score_file(write_completions(tmp_path / "g.jsonl", 4), "x", BenchmarkConfig(samples=4), tmp_path)
    assert several["failure_detection"]["agreement"]["problems"] == 40
    assert "bootstrap" in several["failure_detection"]["interval_method"]
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
