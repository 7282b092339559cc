"""Statistics against values worked out by hand or printed in their sources."""

from math import comb, inf, isclose, sqrt

import numpy as np
import pytest

from mft_cli.stats import intervals
from mft_cli.stats import significance as stats


def test_wilson_against_printed_values() -> None:
    low, high = intervals.wilson(81, 263)  # Newcombe 1998, Statistics in Medicine 17:857, table I: 0.2553 to 0.3662
    assert isclose(low, 0.2553, abs_tol=5e-5)
    assert isclose(high, 0.3662, abs_tol=5e-5)
    assert [round(v, 4) for v in intervals.wilson(15, 148)] == [0.0624, 0.1605]  # the same table
    assert [round(v, 4) for v in intervals.wilson(0, 20)] == [0.0, 0.1611]
    assert intervals.wilson(20, 20)[1] == 1.0
    with pytest.raises(ValueError, match="not a proportion"):
        intervals.wilson(1, 0)


def test_mcnemar_by_hand() -> None:
    assert stats.mcnemar(0, 0) == 1.0
    assert isclose(stats.mcnemar(0, 5), 2 / 32)
    assert isclose(stats.mcnemar(1, 9), 2 * (1 + 10) / 1024)
    assert stats.mcnemar(5, 5) == 1.0
    assert stats.mcnemar(3, 12) == stats.mcnemar(12, 3)


def test_pass_at_k() -> None:
    assert isclose(stats.pass_at_k(5, 2, 1), 0.4)
    assert isclose(stats.pass_at_k(5, 2, 2), 1 - comb(3, 2) / comb(5, 2))
    assert stats.pass_at_k(5, 0, 5) == 0.0
    assert stats.pass_at_k(5, 1, 5) == 1.0
    with pytest.raises(ValueError, match="does not exist"):
        stats.pass_at_k(5, 1, 6)


def test_majority_tie_goes_to_the_first() -> None:
    assert stats.majority(["a", "b", "b", "a"]) == "a"
    assert stats.majority([None, "b", None, "a", "a"]) == "a"
    assert stats.majority([None, None]) is None
    assert stats.majority([]) is None


def test_bootstrap_is_seeded_and_near_the_normal_interval() -> None:
    values = np.random.default_rng(3).random(1000)
    first = intervals.bootstrap_mean(values, seed=1)
    assert first == intervals.bootstrap_mean(values, seed=1)
    assert first != intervals.bootstrap_mean(values, seed=2)
    assert np.allclose(first, intervals.mean_interval(values), atol=0.002)


def test_paired_difference_by_hand() -> None:
    first, second = [1, 0, 0, 1], [1, 1, 0, 1]
    result = stats.paired_difference(first, second)
    assert result.difference == 0.25
    half = intervals.Z95 * 0.5 / sqrt(4)  # the differences 0 1 0 0 have the standard deviation 1/2
    assert isclose(result.low, 0.25 - half)
    assert isclose(result.high, 0.25 + half)
    with pytest.raises(ValueError, match="cannot be paired"):
        stats.paired_difference([1], [1, 2])


def test_few_problems_take_students_interval_and_test() -> None:
    scipy = pytest.importorskip("scipy.stats", reason="scipy is the reference here")
    generator = np.random.default_rng(0)
    differences = generator.normal(0.1, 0.3, 12)
    result = stats.paired_difference(np.zeros(12), differences)
    reference = scipy.ttest_1samp(differences, 0)
    assert result.interval == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert result.p == pytest.approx(reference.pvalue)
    many = generator.normal(0.1, 0.3, intervals.FEW)
    assert stats.paired_difference(np.zeros(len(many)), many).interval == intervals.bootstrap_mean(many)


def test_one_problem_and_equal_problems_say_nothing() -> None:
    alone = stats.paired_difference([0.2], [0.7])
    assert (alone.interval, alone.p) == (None, 1.0)
    assert stats.paired_difference([0.2, 0.4], [0.2, 0.4]).p == 1.0


def test_detectable_effects() -> None:
    effect = stats.minimum_detectable_effect(1319, 0.2)
    za, zb = 1.959963985, 0.841621234
    assert isclose((za * sqrt(0.2) + zb * sqrt(0.2 - effect**2)) ** 2 / effect**2, 1319, rel_tol=1e-6)
    assert effect < stats.minimum_detectable_effect(500, 0.2) < 0.2
    assert stats.minimum_detectable_effect(3, 0.1) == inf
    assert stats.smallest_detectable([0, 1], [0, 1]) is None
    found = stats.smallest_detectable([0, 0, 0, 0], [0, 1, 0, 0])
    assert found is not None
    assert isclose(found, (za + zb) * 0.5 / 2, rel_tol=1e-6)


def test_interval_of_few_flips() -> None:
    """By hand: 1 gained, 0 lost of 80: 1/82 +- 1.96 sqrt(2/82 - (1/82)^2) / sqrt(82)."""
    assert stats.flips_interval(1, 0, 80) == pytest.approx((-0.021504, 0.045894), abs=1e-6)
    low, high = stats.flips_interval(0, 0, 50)
    assert low == -high
    assert high == pytest.approx(0.03769, abs=1e-5)


def test_interval_of_few_flips_covers() -> None:
    """2,000 worlds of 60 problems, 4 % gained and 1 % lost: a bootstrap has no width in the 5 % without a flip."""
    generator = np.random.default_rng(0)
    counts = generator.multinomial(60, [0.04, 0.01, 0.95], size=2000)
    ends = [stats.flips_interval(int(g), int(b), 60) for g, b, _ in counts]
    assert 0.94 <= np.mean([low <= 0.03 <= high for low, high in ends]) <= 0.995
