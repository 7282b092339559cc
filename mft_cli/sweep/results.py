"""What a sweep has found: a score for each setting with its interval over seeds, and which setting is best, if any is.

A setting is one value for every swept key but the seed. The best is chosen by one score, meant to be a validation score;
it is compared with every other setting, seed by seed where both have the seeds, and the intervals are widened for the
number of comparisons (Bonferroni).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from mft_cli.errors import UserError
from mft_cli.report.read.runs import Run, read_run
from mft_cli.report.wording import setting as written
from mft_cli.stats import intervals
from mft_cli.sweep.ledger import Job, Ledger, settings, varied
from mft_cli.sweep.objective import VALIDATION, evaluated_checkpoint, lower_is_better, reached

LEVEL = 0.95


@dataclass
class Score:
    """One setting's values of one metric."""

    by_seed: dict[str, float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, over seeds; None for one seed, or for seeds that all have the same score."""
        return with_width(intervals.student_interval(list(self.by_seed.values()), LEVEL))


@dataclass
class Setting:
    """One point of the sweep."""

    values: tuple[str, ...]  # of the swept keys, as they were typed
    label: str
    scores: dict[str, Score] = field(default_factory=dict)


@dataclass
class Comparison:
    """How much better the best is than another setting: positive means better, whichever way the metric goes."""

    other: str
    difference: float
    interval: tuple[float, float] | None  # None: too few seeds to tell, or the same difference in each
    paired: int  # common seeds; 0 for an unpaired comparison

    @property
    def decided(self) -> bool:
        return self.interval is not None and self.interval[0] > 0


def with_width(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """Not an interval of no width: that seeds agree to the last digit (few problems, few seeds) does not make sure."""
    if interval is None or interval[1] - interval[0] < 1e-9 * max(1.0, abs(interval[0])):
        return None
    return interval


@dataclass
class Results:
    """A sweep, read and compared."""

    keys: list[str]
    settings: list[Setting]
    metrics: list[str]
    selected_by: str | None  # None: no run has the score that was to choose
    best: Setting | None
    comparisons: list[Comparison]  # the nearest rival first
    seeds: list[str]
    unfinished: list[Job]

    @property
    def rivals(self) -> list[Comparison]:
        """Settings that cannot be told apart from the best."""
        return [comparison for comparison in self.comparisons if not comparison.decided]

    @property
    def test_metrics(self) -> list[str]:
        """What may be reported of the best without the luck of the choice: benchmarks that did not choose it."""
        chosen = (self.selected_by or "").partition("/")[0]
        return [m for m in self.metrics if m != VALIDATION and m.partition("/")[0] != chosen]


def results(ledger: Ledger, select: str | None) -> Results:
    """Read the finished runs. Raises UserError if none is finished, or if no run has a score of the name `select`."""
    jobs = ledger.truths()
    done = [
        (job, read_run(folder, folder.name))
        for job in jobs
        if job.state == "done" and (folder := ledger.run_folder(job))
    ]
    if not done:
        raise UserError(f"{ledger.root}: no job is done yet; look at it with mft sweep status {ledger.root}")
    keys = [key for key in varied([job for job, _ in done]) if key != "seed"]
    all_settings = grouped(done, keys)
    metrics = list(dict.fromkeys(m for setting in all_settings for m in setting.scores))
    metric = select or str(done[0][1].config.get("sweep.objective") or metrics[0])
    if select and select not in metrics:
        raise UserError(f"select={select}: no finished run has it; there are {', '.join(metrics) or 'no scores'}")
    by = metric if metric in metrics else None
    best = choose(all_settings, by) if by else None
    return Results(
        keys=keys,
        settings=all_settings,
        metrics=metrics,
        selected_by=by,
        best=best,
        comparisons=compare(best, all_settings, by) if best and by else [],
        seeds=list(dict.fromkeys(seed for setting in all_settings for score in setting.scores.values() for seed in score.by_seed)),
        unfinished=[job for job in jobs if job.state != "done"],
    )  # fmt: skip


def grouped(done: Sequence[tuple[Job, Run]], keys: Sequence[str]) -> list[Setting]:
    """Runs that differ in nothing but the seed, as setting setting."""
    by_values: dict[tuple[str, ...], Setting] = {}
    for job, run in done:
        table = settings(job)
        values = tuple(table.get(key, "") for key in keys)
        label = " ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in zip(keys, values, strict=True))
        setting = by_values.setdefault(values, Setting(values, label or "all runs"))
        seed = written(run.config.get("seed"))
        for metric in metrics_of(run):
            value = reached(run, metric)
            if value is not None:
                setting.scores.setdefault(metric, Score({})).by_seed[seed] = value
    return list(by_values.values())


def metrics_of(run: Run) -> list[str]:
    """The names of a run's scores, the validation loss first."""
    checkpoint = evaluated_checkpoint(run.config.get("eval.checkpoints"))
    benchmarks = [e.benchmark for e in run.evaluations if e.checkpoint == checkpoint]
    return [VALIDATION, *benchmarks, *(f"{name}/gold_logprob" for name in benchmarks)]


def choose(all_settings: Sequence[Setting], metric: str) -> Setting | None:
    """The setting with the best mean."""
    have = [setting for setting in all_settings if metric in setting.scores]
    sign = 1 if lower_is_better(metric) else -1
    return min(have, key=lambda setting: sign * setting.scores[metric].mean, default=None)


def compare(best: Setting, all_settings: Sequence[Setting], metric: str) -> list[Comparison]:
    """The best against every other setting, intervals of 95 % for all of them together; the nearest rival first."""
    others = [s for s in all_settings if s is not best and metric in s.scores]
    level = 1 - (1 - LEVEL) / max(1, len(others))
    sign = -1.0 if lower_is_better(metric) else 1.0
    made = [against(best.scores[metric], other.scores[metric], other.label, sign, level) for other in others]
    return sorted(made, key=lambda comparison: comparison.difference)


def against(best: Score, other: Score, label: str, sign: float, level: float) -> Comparison:
    """Paired by seed where two seeds or more are common, else unpaired."""
    common = [seed for seed in best.by_seed if seed in other.by_seed]
    if len(common) > 1 or (common and len(best.by_seed) == len(other.by_seed) == 1):
        differences = [sign * (best.by_seed[seed] - other.by_seed[seed]) for seed in common]
        interval = with_width(intervals.student_interval(differences, level))
        return Comparison(label, statistics.fmean(differences), interval, len(common))
    first, second = [sign * v for v in other.by_seed.values()], [sign * v for v in best.by_seed.values()]
    difference = statistics.fmean(second) - statistics.fmean(first)
    return Comparison(label, difference, with_width(intervals.welch_interval(first, second, level)), 0)
