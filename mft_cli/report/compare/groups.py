"""Which settings differ between runs, and which runs are the same settings under several seeds."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass, field
from itertools import combinations, takewhile

from mft_cli.report.compare.pairs import Pair, compare, decide
from mft_cli.report.compare.subjects import Subject, average
from mft_cli.report.read.runs import Run
from mft_cli.report.wording import NONE, is_number, setting

# Settings that do not change what a run computes, so that two runs that differ only here are the same experiment.
INCIDENTAL = re.compile(r"^(seed|run_dir|note|log\..*|checkpoint\..*|sweep\..*)$")
MISSING = "(not set)"
NOT_APPLICABLE = NONE


@dataclass
class Group:
    """Runs of equal settings under several seeds."""

    label: str
    runs: list[Run]
    seeds: list[object]
    scores: list[SeedScores] = field(default_factory=list)

    @property
    def repeated(self) -> bool:
        """Whether a seed occurs twice: such runs are no independent samples."""
        return len(set(map(str, self.seeds))) < len(self.seeds)


@dataclass
class SeedScores:
    """One benchmark's accuracy over the seeds of a group."""

    benchmark: str
    checkpoint: str
    values: list[tuple[str, float]]  # run label, accuracy
    mean: float
    deviation: float | None  # sample standard deviation over seeds
    gold_mean: float | None
    gold_deviation: float | None


@dataclass
class Difference:
    """One setting that is not the same in all runs; a value for each run."""

    key: str
    values: list[str]


def differing_settings(runs: list[Run]) -> tuple[list[Difference], int]:
    """The settings that differ, and how many are the same in all runs that have them."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    sections = [{key.split(".")[0] for key in run.config} for run in runs]
    rows, same = [], 0
    for key in keys:
        # A run without the whole section (an evaluation has no train.*) does not differ in it: it has no such thing.
        absent = [key.split(".")[0] not in section for section in sections]
        values = [
            NOT_APPLICABLE if missing else setting(run.config[key]) if key in run.config else MISSING
            for run, missing in zip(runs, absent, strict=True)
        ]
        if len(set(values) - {NOT_APPLICABLE}) > 1:
            rows.append(Difference(key, values))
        else:
            same += 1
    return rows, same


def differing_surroundings(runs: list[Run]) -> list[Difference]:
    """Code, data, packages and hardware that differ: a difference between runs may come from here."""
    tables = [surroundings(run) for run in runs]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [Difference(key, [setting(t[key]) if key in t else NOT_APPLICABLE for t in tables]) for key in keys]
    return [row for row in rows if len(set(row.values) - {NOT_APPLICABLE}) > 1]


def surroundings(run: Run) -> dict[str, object]:
    """What run.json says about code and machine, flat."""
    record = run.provenance
    if not record:
        return {}
    table: dict[str, object] = {key: record[key] for key in ("python", "precision", "attention") if key in record}
    git = record.get("git")
    if isinstance(git, dict):
        table["git commit"] = str(git.get("commit"))[:12]
        table["git: changed files"] = len(git.get("changed_files") or [])
    for name in ("data", "hardware", "packages"):
        part = record.get(name)
        table.update({f"{name}: {key}": value for key, value in part.items()} if isinstance(part, dict) else {})
    return table


def seed_groups(runs: list[Run]) -> list[Group]:
    """Groups of two or more finished trainings that differ in nothing but the seed and incidental settings."""
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        if "seed" in run.config and not run.unfinished:
            by_settings.setdefault(repr(sorted(essential(run).items())), []).append(run)
    several = [members for members in by_settings.values() if len(members) > 1]
    labels = group_labels(several)
    groups = []
    for members, label in zip(several, labels, strict=True):
        group = Group(label, members, [run.config["seed"] for run in members])
        group.scores = seed_scores(group)
        groups.append(group)
    return groups


def essential(run: Run) -> dict[str, str]:
    """The settings that make the experiment."""
    return {key: repr(value) for key, value in run.config.items() if not INCIDENTAL.match(key)}


def group_labels(several: list[list[Run]]) -> list[str]:
    """What the runs' names have in common; where that is the same for two groups, the settings that tell them apart."""
    labels = []
    for members in several:
        start = re.sub(r"[-_.\s/]*s?(eed)?[-_=]?$", "", common_start([run.label for run in members]))
        labels.append(start or str(members[0].config.get("method.name") or "runs"))
    first = [members[0] for members in several]
    rows = [row for row in differing_settings(first)[0] if not INCIDENTAL.match(row.key)]
    names = list(labels)
    for index, label in enumerate(names):
        if names.count(label) > 1:
            words = [f"{row.key.rsplit('.', 1)[-1]}={row.values[index]}" for row in rows[:3]]
            labels[index] = f"{label} {' '.join(words)}"
    return [f"{label} ({len(members)} seeds)" for label, members in zip(labels, several, strict=True)]


def common_start(names: list[str]) -> str:
    """The characters with which all names begin."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same)


def seed_scores(group: Group) -> list[SeedScores]:
    """Mean and spread over seeds, for each benchmark that at least two of them finished."""
    cells: dict[tuple[str, str], list[tuple[str, float, object]]] = {}
    for run in group.runs:
        for evaluation in run.evaluations:
            metrics = evaluation.metrics or {}
            if is_number(metrics.get("accuracy")):
                gold = (metrics.get("gold_logprob") or {}).get("mean")
                of_benchmark = cells.setdefault((evaluation.benchmark, evaluation.checkpoint), [])
                of_benchmark.append((evaluation.label, metrics["accuracy"], gold))
    scores = []
    for (benchmark, checkpoint), rows in cells.items():
        if len(rows) > 1:
            mean, deviation = spread([row[1] for row in rows])
            gold_values = [row[2] for row in rows if is_number(row[2])]
            gold = spread(gold_values) if len(gold_values) == len(rows) else (None, None)
            values = [(row[0], row[1]) for row in rows]
            scores.append(SeedScores(benchmark, checkpoint, values, mean or 0.0, deviation, *gold))
    return scores


def spread(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation."""
    return statistics.fmean(values), statistics.stdev(values)


def group_pairs(groups: list[Group], subjects: list[Subject]) -> list[Pair]:
    """Groups against each other and against single runs, each group averaged over its seeds problem by problem."""
    pairs = []
    for benchmark in dict.fromkeys(subject.benchmark for subject in subjects):
        here = {s.label: s for s in subjects if s.benchmark == benchmark and not s.problem}
        pairs += [compare(a, b) for a, b in combinations(_units(groups, here), 2) if a.seeds or b.seeds]
    decide(pairs)
    return pairs


def _units(groups: list[Group], subjects: dict[str, Subject]) -> list[Subject]:
    """Groups averaged and runs that are in none, each at the position of its first run."""
    in_group = {run.label: group for group in groups for run in group.runs}
    units: dict[str, Subject | None] = {}
    for subject in subjects.values():
        group = in_group.get(subject.run)
        if group is None:
            units[subject.label] = subject
        elif group.label not in units:
            units[group.label] = averaged(group, subjects)
    return [unit for unit in units.values() if unit is not None]


def averaged(group: Group, subjects: dict[str, Subject]) -> Subject | None:
    """A group as one subject, or None where its seeds were not all evaluated on the same problems."""
    members = [subjects[run.label] for run in group.runs if run.label in subjects]
    if len(members) < len(group.runs):
        return None
    try:
        return average(members, group.label)
    except ValueError:
        return None
