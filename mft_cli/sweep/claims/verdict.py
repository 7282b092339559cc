"""What the runs say of a claim: a value and an interval for each contrast, and the verdict by the rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mft_cli.config.schema.base import Values
from mft_cli.errors import UserError
from mft_cli.eval.journal import read_lines
from mft_cli.run_dir import RunDir
from mft_cli.stats.hierarchy import Effect, Table, paired_seeds
from mft_cli.stats.significance import holm
from mft_cli.sweep.claims.design import Claim, overrides_of
from mft_cli.sweep.ledger import Job, Ledger, seconds

HOLDS, DOES_NOT_HOLD, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided at this size", "not run"
RULE = (
    "A claim holds if the 95 % interval of every contrast, over seeds and problems, lies above 0. It does not hold if the "
    "interval of a contrast lies below the smallest difference that matters. Otherwise it is undecided at this size. Where one page "
    "holds several claims, one holds only if it also does after Holm's correction for all their contrasts."
)


@dataclass(frozen=True)
class Outcome:
    """One contrast: its terms, and what was measured; None where runs are missing."""

    name: str
    effect: Effect | None
    verdict: str


@dataclass(frozen=True)
class State:
    """A claim and what is known of it. `cells`: arm/benchmark -> mean score over seeds and problems."""

    name: str
    claim: Claim
    done: int
    total: int
    outcomes: list[Outcome]
    cells: dict[str, float]
    cost_s: float
    machine: str  # that the first run ran on
    history: list[Values]  # the designs that ran, oldest first: digest, time, commit, committed

    @property
    def verdict(self) -> str:
        verdicts = [outcome.verdict for outcome in self.outcomes]
        if self.done < self.total:
            return f"unfinished ({self.done} of {self.total} runs)" if self.done and self.history else NOT_RUN
        if DOES_NOT_HOLD in verdicts:
            return DOES_NOT_HOLD
        return HOLDS if set(verdicts) == {HOLDS} else UNDECIDED

    @property
    def changed(self) -> bool:
        """Whether an earlier run of this claim had another design."""
        return any(entry["digest"] != self.claim.digest for entry in self.history)


def state_of(name: str, claim: Claim, out: Path) -> State:
    """Reads the ledgers, and the scores of the claim's finished runs, whichever claim they were made for."""
    known = finished(out)
    jobs = {
        (arm, seed): job
        for arm in claim.arms
        for seed in claim.seeds
        if (job := known.get(tuple(overrides_of(claim, arm, seed, out))))
    }
    total = len(claim.arms) * len(claim.seeds)
    tables = cells(claim, jobs) if len(jobs) == total else {}
    outcomes = [outcome(contrast, terms, tables, claim.smallest) for contrast, terms in claim.contrasts.items()]
    means = {cell: float(table.mean()) for cell, table in tables.items()}
    cost = sum(seconds(job) or 0.0 for job in jobs.values())
    return State(name, claim, len(jobs), total, outcomes, means, cost, machine(jobs), history(Ledger(out / name)))


def corrected(states: Sequence[State]) -> list[State]:
    """The states of one page: a contrast that lies above 0 by itself alone, not among all of the page's, is undecided."""
    tested = [outcome.effect.p for state in states for outcome in state.outcomes if outcome.effect]
    p_values = iter(holm(tested))

    def among_all(outcome: Outcome) -> Outcome:
        by_chance = outcome.effect is not None and next(p_values) >= 0.05
        return replace(outcome, verdict=UNDECIDED) if by_chance and outcome.verdict == HOLDS else outcome

    return [replace(state, outcomes=[among_all(outcome) for outcome in state.outcomes]) for state in states]


def finished(out: Path) -> dict[tuple[str, ...], Job]:
    """Overrides -> the job that is done, of all claims; where several claims asked for a run, the one that took longest made it."""
    ledgers = [Ledger(facts.parent) for facts in sorted(out.glob("*/sweep.json"))]
    done = [job for ledger in ledgers for job in ledger.all() if job.state == "done"]
    return {tuple(job.overrides): job for job in sorted(done, key=lambda job: seconds(job) or 0.0)}


def folder_of(job: Job) -> Path:
    """Where a claim's run lies: `overrides_of` ends in it."""
    return Path(job.overrides[-1].removeprefix("run_dir="))


def machine(jobs: Mapping[tuple[str, int], Job]) -> str:
    """Processor, cores and threads, by the first run's run.json."""
    folders = [folder_of(job) for job in jobs.values()]
    facts = RunDir(folders[0]).get_provenance().get("hardware", {}) if folders else {}
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} used" if facts else ""


def history(ledger: Ledger) -> list[Values]:
    return list(ledger.read(ledger.facts).get("designs", [])) if ledger.facts.is_file() else []


def cells(claim: Claim, jobs: Mapping[tuple[str, int], Job]) -> dict[str, Table]:
    """arm/benchmark -> scores [seeds, problems]."""
    return {
        f"{arm}/{benchmark}": np.array(
            [scores(jobs[arm, seed], benchmark, claim) for seed in claim.seeds], dtype=np.float64
        )
        for arm in claim.arms
        for benchmark in claim.benchmarks
    }


def scores(job: Job, benchmark: str, claim: Claim) -> list[float]:
    """Of one run, a number a problem, in the benchmark's order. Raises UserError where the evaluation is not whole."""
    folder = folder_of(job)
    records, _ = read_lines(folder / "eval" / benchmark / "scores.jsonl")
    if len(records) != claim.problems or any(claim.metric not in record for record in records):
        raise UserError(
            f"{folder}: {len(records)} scores of {benchmark}, expected {claim.problems} with the field {claim.metric}; "
            f"remove the folder and run the claim again"
        )
    return [float(record[claim.metric]) for record in records]


def outcome(name: str, terms: dict[str, float], tables: Mapping[str, Table], smallest: float) -> Outcome:
    """The contrast of these tables; seeds are pairs, and so are problems with the same number."""
    if not tables:
        return Outcome(name, None, NOT_RUN)
    table = np.sum([weight * tables[cell] for cell, weight in terms.items()], axis=0)
    if len(table) < 2:
        return Outcome(name, None, UNDECIDED)
    effect = paired_seeds(table)
    low, high = effect.interval
    certain = effect.standard_error > 0
    return Outcome(
        name, effect, HOLDS if certain and low > 0 else DOES_NOT_HOLD if certain and high < smallest else UNDECIDED
    )
