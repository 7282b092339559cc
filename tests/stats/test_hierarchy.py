"""Seeds and problems: against textbook formulas, and by simulation: coverage, false alarms, and the promised power."""

from __future__ import annotations

import numpy as np
import pytest

from mft_cli.stats import significance as stats
from mft_cli.stats.hierarchy import _combined, _Squares, effect, paired_seeds, unpaired_seeds
from mft_cli.stats.intervals import student_quantile


def anova(table: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of seeds, problems and rest, by loops."""
    s, p = table.shape
    mean = table.mean()
    seeds = p * sum((table[i].mean() - mean) ** 2 for i in range(s)) / (s - 1)
    problems = s * sum((table[:, j].mean() - mean) ** 2 for j in range(p)) / (p - 1)
    rest = sum((table[i, j] - table[i].mean() - table[:, j].mean() + mean) ** 2 for i in range(s) for j in range(p)) / (
        (s - 1) * (p - 1)
    )
    return seeds, problems, rest


def test_paired_seeds_are_the_two_way_formula() -> None:
    table = np.array([[1, 0, 1, 0, 1.0], [1, 1, 1, 0, 1], [0, 0, 1, -1, 0]])
    seeds, problems, rest = anova(table)
    assert seeds > rest
    found = paired_seeds(table)
    assert found.difference == pytest.approx(7 / 15)
    assert found.standard_error**2 == pytest.approx((seeds + problems - rest) / 15)
    assert found.freedom == int((seeds + problems) ** 2 / (seeds**2 / 2 + problems**2 / 4))
    squared = (seeds * student_quantile(0.975, 2) ** 2 + problems * student_quantile(0.975, 4) ** 2) / (
        seeds + problems
    )
    assert found.quantile(0.975) ** 2 == pytest.approx(squared)
    assert found.test == "t on 2 and 4 degrees of freedom"
    low, high = found.interval
    assert (low > 0 or high < 0) == (found.p < 0.05)


def test_seeds_that_do_not_matter_leave_the_paired_test_on_means() -> None:
    table = np.array([[1, 0, 0, 1.0], [0, 1, 1, 0]])  # equal means: the seeds add nothing
    found = paired_seeds(table)
    means = table.mean(axis=0)
    assert found.standard_error == pytest.approx(means.std(ddof=1) / 2) or found.standard_error == 0
    assert found.seed_share == 0.0


def test_students_test_where_problems_are_all_alike() -> None:
    """Without noise and problem effects it is Welch's or Student's test on the seeds' means."""
    scipy = pytest.importorskip("scipy.stats", reason="scipy is the reference here")
    means = np.array([0.1, 0.25, 0.4, 0.2])
    found = paired_seeds(np.repeat(means[:, None], 50, axis=1))
    assert found.p == pytest.approx(scipy.ttest_1samp(means, 0).pvalue, abs=1e-6)
    other = np.array([0.5, 0.3, 0.45, 0.6])
    found = unpaired_seeds(np.repeat(means[:, None], 50, axis=1), np.repeat(other[:, None], 50, axis=1))
    welch = scipy.ttest_ind(other, means, equal_var=False)
    assert found.freedom == int(welch.df)
    assert found.difference / found.standard_error == pytest.approx(welch.statistic)


def test_which_design_is_chosen() -> None:
    generator = np.random.default_rng(0)
    rows = lambda seeds: {s: generator.integers(0, 2, 30).astype(float).tolist() for s in seeds}  # noqa: E731
    assert "2 pairs" in effect(rows("12"), rows("12")).design
    assert "2 and 2 seeds, not paired" in effect(rows("12"), rows("13")).design
    with pytest.raises(ValueError, match="two seeds"):
        effect(rows("1"), rows("1"))
    with pytest.raises(ValueError, match="same two or more problems"):
        effect(rows("12"), {"1": [1.0], "2": [0.0]})


def test_pairs_are_matched_by_seed_not_by_place() -> None:
    first = {"1": [1.0, 0, 0, 1], "2": [0.0, 0, 1, 1]}
    same = effect(first, dict(reversed(first.items())))
    assert (same.difference, same.standard_error, same.p) == (0.0, 0.0, 1.0)


def test_one_trained_run_is_given_the_other_sides_seed_variance() -> None:
    generator = np.random.default_rng(0)
    seeds = np.repeat(np.array([[0.1], [0.5], [0.9]]), 200, axis=1) + generator.normal(0, 0.1, (3, 200))
    table = {str(i): row.tolist() for i, row in enumerate(seeds)}
    one = {"9": generator.normal(0.2, 0.1, 200).tolist()}
    trained, base = effect(one, table), effect(one, table, fixed="first")
    assert trained.standard_error > base.standard_error
    assert trained.standard_error**2 / base.standard_error**2 == pytest.approx(4.0, rel=0.02)  # 1/3 + 1 against 1/3


@pytest.mark.parametrize(("seeds", "paired"), [(0.03, True), (0.03, False), (0.0, True)])
def test_intervals_cover_and_detectable_is_found(seeds: float, paired: bool) -> None:
    """500 worlds: the interval covers the truth in 95 %, and the smallest detectable difference is found in 80 %."""
    generator = np.random.default_rng(5)
    count, problems = 4, 150

    def world(truth: float):
        item = generator.normal(0, 0.2, (1, problems))

        def draw(shift: float) -> np.ndarray:
            return shift + generator.normal(0, seeds, (count, 1)) + generator.normal(0, 0.4, (count, problems))

        a, b = draw(0.0), draw(truth) + item
        return paired_seeds(b - a) if paired else unpaired_seeds(a, b)

    found = [world(0.1) for _ in range(500)]
    covered = sum(low <= 0.1 <= high for low, high in (one.interval for one in found))
    assert covered / 500 >= 0.93  # more than 95 %: few seeds say little about their spread
    promised = float(np.median([one.detectable or 0.0 for one in found]))
    power = sum(world(promised).p < 0.05 for _ in range(500)) / 500
    assert 0.70 <= power <= 0.95


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(
    ("seeds", "items"), [(0.0, 0.0), (1.0, 0.0), (5.0, 0.0), (5.0, 1.0), (20.0, 1.0), (100.0, 30.0)]
)
def test_at_most_six_in_a_hundred_equal_settings_are_told_apart(count: int, seeds: float, items: float) -> None:
    """Variances of seeds and problems in units of the rest's, as they stand in the mean squares; 200 problems."""
    generator, worlds, problems = np.random.default_rng(1), 4000, 200
    chi = lambda freedom: generator.chisquare(freedom, worlds) / freedom  # noqa: E731
    squares = zip(
        generator.normal(0, np.sqrt(1 + seeds + items), worlds), (1 + seeds) * chi(count - 1), (1 + items) * chi(problems - 1),
        chi((count - 1) * (problems - 1)), strict=True,
    )  # fmt: skip
    size = (count, problems)
    found = [_combined(d, p, problems, [_Squares(s, p, r, size)], [1.0], "") for d, s, p, r in squares]
    wrong = sum(not low <= 0 <= high for low, high in (one.interval for one in found)) / worlds
    assert wrong <= 0.06 + 2 * (0.06 * 0.94 / worlds) ** 0.5


def test_smallest_detectable_of_two_runs_is_found_in_four_of_five() -> None:
    """Connor's formula against exact McNemar tests on drawn flips."""
    generator = np.random.default_rng(3)
    n, discordant = 1319, 0.15
    effect_size = stats.minimum_detectable_effect(n, discordant)
    gained, lost = (discordant + effect_size) / 2, (discordant - effect_size) / 2
    draws = generator.multinomial(n, [gained, lost, 1 - discordant], size=600)
    power = sum(stats.mcnemar(int(a), int(b)) < 0.05 for a, b, _ in draws) / 600
    assert 0.75 <= power <= 0.85  # the exact test is a little conservative


# ---- corrections and agreement --------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert stats.holm([]) == []


def test_sign_flips_against_all_patterns() -> None:
    from itertools import product

    v = [0.5, -0.25, 0.75, 0.25, 0.5, 0.0]
    nonzero = [x for x in v if x]
    patterns = [abs(sum(s * x for s, x in zip(signs, nonzero, strict=True))) for signs in product((1, -1), repeat=5)]
    exact = sum(one >= abs(sum(v)) - 1e-12 for one in patterns) / len(patterns)
    assert stats.sign_flip_p(v) == pytest.approx(exact, abs=0.015)
    assert stats.sign_flip_p([0, 0]) == 1.0


def test_fleiss_kappa_by_hand() -> None:
    # three runs, two problems: one all right, one with one of three right; p = 4/6
    # observed: (1 + 1/3) / 2; expected: (2/3)^2 + (1/3)^2 = 5/9
    assert stats.fleiss_kappa([[1, 1], [1, 0], [1, 0]]) == pytest.approx((2 / 3 - 5 / 9) / (4 / 9))
    assert stats.fleiss_kappa([[1, 0, 1], [1, 0, 1]]) == pytest.approx(1.0)
    assert stats.fleiss_kappa([[1, 1], [1, 1]]) is None
