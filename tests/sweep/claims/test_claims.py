"""Claims: what their designs say, and what is decided from runs whose scores are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mft_cli.config.compose import compose_values
from mft_cli.config.load import train_config
from mft_cli.errors import UserError
from mft_cli.files import write_sealed
from mft_cli.sweep.claims import design, page
from mft_cli.sweep.claims.design import Assumed, Claim, ClaimSource
from mft_cli.sweep.claims.run import noted
from mft_cli.sweep.claims.verdict import DOES_NOT_HOLD, HOLDS, NOT_RUN, UNDECIDED, corrected, state_of
from mft_cli.sweep.ledger import Ledger

CLAIM = Claim(
    claim="Masks help.", source=ClaimSource(document="000", section="1", published="+4.5"), arms={"a": ["method=sft"], "b": []},
    contrasts={"gain": {"b/chains": 1.0, "a/chains": -1.0}}, seeds=[1, 2, 3], benchmarks=["chains"], problems=200, smallest=0.02,
    budget_minutes=1.0,
)  # fmt: skip


def ran(out: Path, claim: Claim, accuracy: dict[str, float], leave_out: int = 0) -> None:
    """Runs whose problems are right with these probabilities."""
    ledger = Ledger(out / "made_up")
    ledger.root.mkdir(parents=True, exist_ok=True)
    ledger.facts.write_text(json.dumps(noted(ledger, "made_up", claim)))
    pairs = [(arm, seed) for seed in claim.seeds for arm in claim.arms]
    for arm, seed in pairs[: len(pairs) - leave_out]:
        words = design.overrides_of(claim, arm, seed, out)
        job = ledger.add(words)
        folder = Path(words[-1].partition("=")[2])
        ledger.update(job.number, state="done", run=f"../runs/{folder.name}", started=0.0, ended=60.0)
        for benchmark in claim.benchmarks:
            scores = folder / "eval" / benchmark / "scores.jsonl"
            scores.parent.mkdir(parents=True, exist_ok=True)
            right = np.random.default_rng([seed, ord(arm[0])]).random(claim.problems) < accuracy[f"{arm}/{benchmark}"]
            scores.write_text("".join(json.dumps({"correct": bool(r)}) + "\n" for r in right))


@pytest.mark.parametrize(
    ("a", "b", "verdict"), [(0.2, 0.5, HOLDS), (0.5, 0.2, DOES_NOT_HOLD), (0.5, 0.53, UNDECIDED), (0.3, 0.3, UNDECIDED)]
)
def test_verdicts(tmp_path: Path, a: float, b: float, verdict: str):
    ran(tmp_path, CLAIM, {"a/chains": a, "b/chains": b})
    state = state_of("made_up", CLAIM, tmp_path)
    assert state.verdict == verdict
    assert state.cost_s == 360
    assert f"Verdict: **{verdict}**" in page.page([state], tmp_path)


def test_the_page_counts_its_verdicts(tmp_path: Path):
    ran(tmp_path, CLAIM, {"a/chains": 0.2, "b/chains": 0.5})
    state = state_of("made_up", CLAIM, tmp_path)
    unknown = state_of("another", replace(CLAIM, seeds=[8, 9]), tmp_path)
    assert "3 claims. holds: 2; not run: 1." in page.page([state, unknown, state], tmp_path)


def test_every_contrast_has_to_hold(tmp_path: Path):
    terms = {"gain": {"b/chains": 1.0, "a/chains": -1.0}, "other": {"a/chains": 1.0, "b/chains": -1.0}}
    ran(tmp_path, CLAIM, {"a/chains": 0.2, "b/chains": 0.5})
    state = state_of("made_up", replace(CLAIM, contrasts=terms), tmp_path)
    assert [outcome.verdict for outcome in state.outcomes] == [HOLDS, DOES_NOT_HOLD]
    assert state.verdict == DOES_NOT_HOLD


def test_among_many_claims_one_that_barely_holds_is_undecided(tmp_path: Path):
    ran(tmp_path, CLAIM, {"a/chains": 0.3, "b/chains": 0.42})
    state = state_of("made_up", CLAIM, tmp_path)
    assert 0.05 / 40 < state.outcomes[0].effect.p < 0.05
    assert [s.verdict for s in corrected([state])] == [HOLDS]
    among = corrected([replace(state, name=str(i)) for i in range(40)])
    assert {s.verdict for s in among} == {UNDECIDED}
    assert not corrected([])


def test_a_remark_is_printed_and_is_no_design(tmp_path: Path):
    remarked = replace(CLAIM, remark="No arm is above chance.")
    assert remarked.digest == CLAIM.digest
    assert "Remark: No arm is above chance." in page.page([state_of("made_up", remarked, tmp_path)], tmp_path)


def test_unfinished_and_not_run(tmp_path: Path):
    assert state_of("made_up", CLAIM, tmp_path).verdict == NOT_RUN
    ran(tmp_path, CLAIM, {"a/chains": 0.2, "b/chains": 0.5}, leave_out=2)
    assert state_of("made_up", CLAIM, tmp_path).verdict == "unfinished (4 of 6 runs)"


def test_a_design_that_changed_after_a_run_says_so(tmp_path: Path):
    ran(tmp_path, CLAIM, {"a/chains": 0.2, "b/chains": 0.5})
    assert not state_of("made_up", CLAIM, tmp_path).changed
    reworded = replace(CLAIM, claim="Masks help a lot.")
    assert not state_of("made_up", reworded, tmp_path).changed
    stricter = replace(CLAIM, smallest=0.2)
    state = state_of("made_up", stricter, tmp_path)
    assert state.changed
    assert f"CHANGED: earlier runs had another design ({CLAIM.digest}; now {stricter.digest})" in page.page(
        [state], tmp_path
    )


def test_a_damaged_sweep_file_of_a_claim_is_told_by_its_name(tmp_path: Path):
    ran(tmp_path, CLAIM, {"a/chains": 0.2, "b/chains": 0.5})
    facts = tmp_path / "made_up" / "sweep.json"
    write_sealed(facts, noted(Ledger(facts.parent), "made_up", CLAIM))
    assert state_of("made_up", CLAIM, tmp_path).verdict == HOLDS
    for damaged in (facts.read_text().replace("made_up", "made_uq"), facts.read_text()[:40], ""):
        facts.write_text(damaged)
        for read in (
            lambda: state_of("made_up", CLAIM, tmp_path),
            lambda: noted(Ledger(facts.parent), "made_up", CLAIM),
        ):
            with pytest.raises(UserError, match=r"made_up/sweep\.json is damaged"):
                read()


def test_a_claim_has_a_verdict_where_others_made_its_runs(tmp_path: Path):
    ran(tmp_path, CLAIM, {"a/chains": 0.2, "b/chains": 0.5})
    state = state_of("another", CLAIM, tmp_path)
    assert state.verdict == HOLDS
    assert "its runs were made for other claims" in page.page([state], tmp_path)


def test_claims_that_share_runs_share_their_folders(tmp_path: Path):
    other = replace(CLAIM, contrasts={"loss": {"a/chains": 1.0, "b/chains": -1.0}})
    assert design.overrides_of(CLAIM, "a", 1, tmp_path) == design.overrides_of(other, "a", 1, tmp_path)
    assert design.overrides_of(CLAIM, "a", 1, tmp_path) != design.overrides_of(CLAIM, "a", 2, tmp_path)


def test_an_arm_starts_from_the_run_of_another_arm_and_the_same_seed(tmp_path: Path):
    arms = {"a": ["method=sft"], "b": ["from=a", "method=mask_finetune"], "c": ["from=b"]}
    claim = replace(CLAIM, arms=arms)
    folder = {arm: design.overrides_of(claim, arm, 2, tmp_path)[-1].removeprefix("run_dir=") for arm in arms}
    b, c = (design.overrides_of(claim, arm, 2, tmp_path) for arm in "bc")
    assert b[:3] == ["model=local", f"model.path={folder['a']}/export", "method=mask_finetune"]
    assert c[:2] == ["model=local", f"model.path={folder['b']}/export"]
    assert not any("from=" in word for word in b + c)
    assert design.overrides_of(claim, "a", 2, tmp_path) == design.overrides_of(CLAIM, "a", 2, tmp_path)


@pytest.mark.parametrize("arms", [{"a": ["from=b"], "b": []}, {"a": [], "b": ["seed=1", "from=a"]}, {"a": ["from=a"]}])
def test_an_arm_that_cannot_start_is_told(arms: dict[str, list[str]]):
    with pytest.raises(UserError, match=r"claim made_up: arms\.[ab]: from=[ab]: expected first among its words"):
        design.check_starts("made_up", replace(CLAIM, arms=arms))


def test_smallest_detectable_by_hand():
    # two terms of weight 1: seeds 2 x 0.03^2 / 3 = 0.0006 on 2 degrees of freedom, problems 2 x 0.15 / 200 = 0.0015 on 199
    claim = replace(CLAIM, assumed=Assumed(discordant=0.3, seed_deviation=0.03))
    quantiles = [((0.0015 * z**2 + 0.0006 * t**2) / 0.0021) ** 0.5 for z, t in ((1.9720, 4.3027), (0.8434, 1.0607))]
    assert claim.detectable(claim.contrasts["gain"]) == pytest.approx(sum(quantiles) * 0.0021**0.5, rel=1e-3)
    assert replace(claim, seeds=[1]).detectable(claim.contrasts["gain"]) is None


@pytest.mark.parametrize("name", design.names())
def test_every_design_composes(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mft_cli.config.model_path.lab_export", lambda model: "made")
    claim = design.read(name)
    assert len(claim.seeds) >= 5
    for arm in claim.arms:
        words = design.overrides_of(claim, arm, claim.seeds[0], tmp_path)
        for path in (word.removeprefix("model.path=") for word in words if word.startswith("model.path=")):
            Path(path).mkdir(parents=True, exist_ok=True)  # the finished model that it starts from
        config = train_config(compose_values("train", words))
        assert set(config.eval.benchmarks) == set(claim.benchmarks)
        assert all(benchmark.limit == claim.problems for benchmark in config.eval.benchmarks.values())


def test_mistakes_are_told(tmp_path: Path, monkeypatch):
    with pytest.raises(UserError, match="no claim 'masked_thought_ratios'; did you mean masked_thought_ratio"):
        design.read("masked_thought_ratios")
    text = (design.FOLDER / "masked_thought_ratio.yaml").read_text()
    monkeypatch.setattr(design, "FOLDER", tmp_path)
    (tmp_path / "wrong.yaml").write_text(text.replace("r60/", "r6/"))
    with pytest.raises(UserError, match=r"contrasts.against 0.6.r6/chains_short: expected arm/benchmark"):
        design.read("wrong")
