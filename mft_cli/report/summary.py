"""Everything the report says, before it is laid out: the page, Markdown and JSON are three ways to write this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mft_cli.report.compare import flips, groups
from mft_cli.report.compare.consistency import Agreement, Consistency, against_first, agreements, consistency
from mft_cli.report.compare.domains import DomainTable, domain_tables
from mft_cli.report.compare.notices import Notice, notices
from mft_cli.report.compare.pairs import Pair, all_pairs
from mft_cli.report.compare.reference import in_order
from mft_cli.report.compare.subjects import subject
from mft_cli.report.read.fields import Record
from mft_cli.report.read.runs import Evaluation, Run
from mft_cli.report.wording import is_number


@dataclass
class Summary:
    """The content of a report."""

    runs: list[Run]
    evaluations: list[Evaluation]
    notices: list[Notice]
    settings: list[groups.Difference]
    same_settings: int
    surroundings: list[groups.Difference]
    pairs: list[Pair]
    groups: list[groups.Group]
    group_pairs: list[Pair]
    flips: list[flips.PairFlips]
    agreements: list[Agreement]
    consistency: list[Consistency]
    domains: DomainTable | None

    @property
    def benchmarks(self) -> list[str]:
        """Benchmarks in the order in which they appear."""
        return list(dict.fromkeys(evaluation.benchmark for evaluation in self.evaluations))

    @property
    def evaluation_of(self) -> dict[tuple[str, str], Evaluation]:
        """Evaluations by benchmark and label."""
        return {(evaluation.benchmark, evaluation.label): evaluation for evaluation in self.evaluations}

    @property
    def tests(self) -> int:
        """How many tests Holm's correction is over."""
        return sum(pair.p is not None for pair in self.pairs)


def summarise(
    runs: list[Run], baseline: str | None = None, weights_now: Callable[[Path], str | None] | None = None
) -> Summary:
    """Compare, group and check. `baseline` names the reference (see `in_order`). Raises UserError for an unknown one.

    `weights_now` gives the digest of the weights that a model's folder holds now; with it, stale scores are reported.
    """
    runs = in_order(runs, baseline)
    evaluations = [evaluation for run in runs for evaluation in run.evaluations]
    table = {(evaluation.benchmark, evaluation.label): evaluation for evaluation in evaluations}
    subjects = [subject(evaluation) for evaluation in evaluations]
    seeds = {run.label: str(run.config["seed"]) for run in runs if "seed" in run.config and "method.name" in run.config}
    for side in subjects:
        side.seed = seeds.get(side.run, "")
    pairs = all_pairs(subjects)
    for pair in pairs:
        pair.same_text = flips.same_text(table[pair.benchmark, pair.first], table[pair.benchmark, pair.second])
    seed_groups = groups.seed_groups(runs)
    settings, same = groups.differing_settings(runs)
    group_pairs = groups.group_pairs(seed_groups, subjects)
    return Summary(
        runs=runs,
        evaluations=evaluations,
        notices=notices(runs, pairs, subjects, weights_now),
        settings=settings,
        same_settings=same,
        surroundings=groups.differing_surroundings(runs),
        pairs=pairs,
        groups=seed_groups,
        group_pairs=group_pairs,
        flips=flips.collect(pairs, table),
        agreements=agreements(subjects),
        consistency=consistency(group_pairs or against_first(pairs)),
        domains=domain_tables(runs, seed_groups, pairs, group_pairs),
    )


def wall_seconds(run: Run) -> float | None:
    """From the start that run.json records to the last word of state.json; waiting before a resume is in it."""
    record = run.provenance.get("started"), run.state_time
    if run.state == "running" or not all(record):
        return None
    try:
        start, end = (datetime.fromisoformat(str(text)) for text in record)
        seconds = (end - start).total_seconds()
    except (ValueError, TypeError):  # TypeError: one has a time zone, the other has none
        return None
    return seconds if seconds >= 0 else None


# ---- report.json ----------------------------------------------------------------------------------------------------


def as_json(summary: Summary) -> Record:
    """All numbers. Completions are not repeated: they lie in the run folders."""
    return _strict(
        {
            "runs": [_run(run) for run in summary.runs],
            "notices": [asdict(notice) for notice in summary.notices],
            "settings_that_differ": [_row(row, summary) for row in summary.settings],
            "settings_the_same": summary.same_settings,
            "surroundings_that_differ": [_row(row, summary) for row in summary.surroundings],
            "exact_tests": summary.tests,
            "pairs": [asdict(pair) for pair in summary.pairs],
            "seed_groups": [_group(group) for group in summary.groups],
            "seed_group_pairs": [asdict(pair) for pair in summary.group_pairs],
            "agreement": [asdict(item) for item in summary.agreements],
            "consistency": [asdict(item) for item in summary.consistency],
            "domains": asdict(summary.domains) if summary.domains else None,
        }
    )


def _run(run: Run) -> Record:
    return {
        "label": run.label,
        "folder": str(run.folder),
        "state": run.state,
        "message": run.message,
        "step": run.step,
        "total_steps": run.total_steps,
        "wall_seconds": wall_seconds(run),
        "seconds_in_steps": run.seconds_in_steps,
        "last_train_row": run.training[-1] if run.training else None,
        "last_validation_row": run.validation[-1] if run.validation else None,
        "notes": run.notes,
        "evaluations": [
            {
                "label": evaluation.label,
                "benchmark": evaluation.benchmark,
                "checkpoint": evaluation.checkpoint,
                "metrics": evaluation.metrics,
                "completions": len(evaluation.completions()),
                "notes": evaluation.notes,
            }
            for evaluation in run.evaluations
        ],
    }


def _row(row: groups.Difference, summary: Summary) -> Record:
    return {"key": row.key, "values": dict(zip([run.label for run in summary.runs], row.values, strict=True))}


def _group(group: groups.Group) -> Record:
    scores = [asdict(score) for score in group.scores]
    return {"label": group.label, "runs": [run.label for run in group.runs], "seeds": group.seeds, "scores": scores}


def _strict(value: object) -> Any:
    """NaN and infinity become null: they are no JSON, and other readers stumble over them."""
    if isinstance(value, dict):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    return value if not isinstance(value, float) or is_number(value) else None
