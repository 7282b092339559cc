"""The sweep report's numbers against intervals worked out by hand, and what it dares to say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.errors import UserError
from mft_cli.stats import intervals
from mft_cli.sweep.ledger import Ledger
from mft_cli.sweep.report import build
from mft_cli.sweep.results import results
from tests.support.fake_runs import fake_evaluation, fake_run


def fake_sweep(root: Path, losses: dict[tuple[str, ...], dict[int, float]], keys: tuple[str, ...]) -> Ledger:
    """A finished sweep: {(swept values): {seed: last validation loss}}."""
    ledger = Ledger(root / "sweep")
    ledger.facts.parent.mkdir(parents=True)
    ledger.facts.write_text("{}")
    for values, by_seed in losses.items():
        for seed, loss in by_seed.items():
            words = [f"++{k}={v}" for k, v in zip(keys, values, strict=True)]
            job = ledger.add([*words, f"++seed={seed}", "++train.epochs=1"])
            folder = fake_run(root / f"run-{job.number}", seed=seed)
            row = {"kind": "validation", "step": 121, "loss": loss, "label_tokens": 9}
            with open(folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
            ledger.update(job.number, state="done", run=f"../run-{job.number}", objective=loss)
    return ledger


def test_students_quantiles_are_the_tables():
    table = {
        (0.975, 1): 12.706,
        (0.975, 2): 4.303,
        (0.975, 3): 3.182,
        (0.95, 4): 2.132,
        (0.995, 9): 3.250,
        (0.975, 120): 1.980,
    }
    for (p, freedom), t in table.items():
        assert intervals.student_quantile(p, freedom) == pytest.approx(t, abs=6e-4)
    # mean 2, s 1, n 3: 2 +- 4.303 / sqrt(3)
    assert intervals.student_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4843, 2 + 2.4843), abs=1e-3)
    assert intervals.student_interval([1.0]) is None


def test_welch_by_hand():
    # means 2 and 6; variances of the means 1/3 and 4/3; freedom (5/3)^2 / ((1/9 + 16/9) / 2) = 2.94, down to 2
    low, high = intervals.welch_interval([1.0, 2.0, 3.0], [4.0, 6.0, 8.0])
    assert (low, high) == pytest.approx((4 - 4.3027 * (5 / 3) ** 0.5, 4 + 4.3027 * (5 / 3) ** 0.5), abs=1e-3)


def test_paired_intervals_by_hand(tmp_path):
    losses = {
        ("0.1",): {1: 1.00, 2: 1.50, 3: 2.00},
        ("0.2",): {1: 0.90, 2: 1.38, 3: 1.92},  # better than 0.1 by 0.10, 0.12, 0.08, though the seeds are far apart
        ("0.4",): {1: 0.80, 2: 1.60, 3: 1.86},  # better than 0.2 by 0.10, -0.22, 0.06
    }
    found = results(fake_sweep(tmp_path, losses, ("method.mask_ratio",)), None)
    assert found.keys == ["method.mask_ratio"]
    assert found.selected_by == "validation_loss"
    assert found.best.values == ("0.2",)
    assert found.best.scores["validation_loss"].mean == pytest.approx(1.4)
    nearest, other = found.comparisons
    assert (nearest.other, nearest.paired, nearest.decided) == ("mask_ratio=0.4", 3, False)
    assert nearest.difference == pytest.approx(0.02)
    # two comparisons: 97.5 % each, t = 6.2053 for 2 degrees of freedom; differences 0.10, 0.12, 0.08: s = 0.02
    half = 6.2053 * 0.02 / 3**0.5
    assert other.interval == pytest.approx((0.1 - half, 0.1 + half), abs=1e-5)
    assert (other.other, other.decided) == ("mask_ratio=0.1", True)


def test_text_and_files(tmp_path):
    losses = {("0.1",): {1: 1.0, 2: 1.1, 3: 1.2}, ("0.4",): {1: 1.01, 2: 1.09, 3: 1.21}}
    ledger = fake_sweep(tmp_path, losses, ("method.mask_ratio",))
    for number in range(6):
        fake_evaluation(tmp_path / f"run-{number}", correct=range(10 + number % 3))
    ledger.add(["++method.mask_ratio=<b>$x$|</b>", "++seed=1"])
    out = tmp_path / "out"
    text = build(ledger, out)
    assert "Best by validation_loss (lower is better): mask_ratio=0.1, 1.1000 [0.8516, 1.3484] over 3 seeds." in text
    assert "not distinguishable from 1 other setting by these seeds: mask_ratio=0.4" in text
    assert "Reported for it on what did not choose it: gsm8k 0.2750 [0.2129, 0.3371]" in text  # s = 1/40
    assert "1 job not done and left out: 6 (waiting)" in text
    assert {p.name for p in out.iterdir()} == {
        "sweep.html", "sweep.md", "sweep.json", "sweep-validation_loss.png", "sweep-gsm8k.png", "sweep-gsm8k-gold_logprob.png",
    }  # fmt: skip
    assert json.loads((out / "sweep.json").read_text())["best"] == "mask_ratio=0.1"
    assert "http" not in (out / "sweep.html").read_text().replace("http-equiv", "")


def test_chosen_by_a_benchmark_higher_is_better_and_the_luck_is_named(tmp_path):
    ledger = fake_sweep(tmp_path, {("0.1",): {1: 1.0, 2: 1.1}, ("0.4",): {1: 2.0, 2: 2.1}}, ("method.mask_ratio",))
    for number in range(4):
        fake_evaluation(tmp_path / f"run-{number}", correct=range(10 if number < 2 else 30))
    text = build(ledger, tmp_path / "out", "gsm8k")
    assert "Best by gsm8k (higher is better): mask_ratio=0.4, 0.7500 (the same in 2 seeds) over 2 seeds." in text
    assert "partly luck" in text
    assert "what did not choose it" not in text
    with pytest.raises(UserError, match="select=nope: no finished run has it; there are validation_loss, gsm8k"):
        results(ledger, "nope")


def test_one_seed_is_no_evidence(tmp_path):
    text = build(fake_sweep(tmp_path, {("1",): {1: 1.0}, ("2",): {1: 0.5}}, ("train.epochs_",)), tmp_path / "out")
    assert "One seed a setting: whether the best is more than luck cannot be said" in text
    assert "(one seed)" in text


def test_seeds_that_agree_to_the_digit_are_no_certainty(tmp_path):
    """Two seeds with the same accuracy on few problems: Student's interval would have no width, and decide."""
    ledger = fake_sweep(tmp_path, {("0.1",): {1: 1.0, 2: 1.1}, ("0.4",): {1: 1.3, 2: 1.4}}, ("method.mask_ratio",))
    (one,) = results(ledger, None).comparisons
    assert (one.paired, one.difference, one.interval) == (2, pytest.approx(0.3), None)
    assert not one.decided
    text = build(ledger, tmp_path / "out")
    assert "+0.3000 (the same in every seed)  no spread over seeds to tell by" in text
    assert "which says nothing of chance" in text


def test_seeds_that_are_not_common_are_not_paired(tmp_path):
    losses = {("1",): {1: 1.0, 2: 1.2, 3: 1.1}, ("2",): {4: 2.0, 5: 2.2, 6: 2.1}}
    (one,) = results(fake_sweep(tmp_path, losses, ("x",)), None).comparisons
    assert (one.paired, one.difference) == (0, pytest.approx(1.0))
    # equal spread 0.1, three each: freedom 4, t 2.7764, standard error sqrt(2 / 300)
    assert one.interval == pytest.approx((1 - 2.7764 * (2 / 300) ** 0.5, 1 + 2.7764 * (2 / 300) ** 0.5), abs=1e-4)


def test_two_keys_make_a_map(tmp_path):
    losses = {
        (a, b): {1: i + j / 10, 2: i + j / 5} for i, a in enumerate(("0.1", "0.2")) for j, b in enumerate(("sft", "x"))
    }
    ledger = fake_sweep(tmp_path, losses, ("method.mask_ratio", "method"))
    text = build(ledger, tmp_path / "out")
    assert "mask_ratio=0.1 method=sft (best)" in text
    assert (tmp_path / "out/sweep-validation_loss.png").read_bytes()[:4] == b"\x89PNG"
    assert "against method.mask_ratio and method" in (tmp_path / "out/sweep.html").read_text()


def test_nothing_to_report(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.add(["seed=1"])
    with pytest.raises(UserError, match="no job is done yet"):
        results(ledger, None)
