"""The cross-domain table: models by the domain that they were trained on, benchmarks by the domain that they test."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

from mft_cli.report.compare.groups import Group
from mft_cli.report.compare.pairs import Pair
from mft_cli.report.read.runs import Evaluation, Run
from mft_cli.report.wording import is_number

OTHER, NO_TRAINING = "other", "not trained here"
# data.domain and eval.benchmarks.<name>.domain say it for a user's own; the first word that a name holds decides else.
WORDS = {
    "code": ("humaneval", "mbpp", "code"),
    "instructions": ("ifeval", "alpaca_eval", "persona_if", "guanaco", "orca", "oasst", "instruct_"),
    "science": ("gpqa", "arc_", "sciq", "natural_reasoning"),
    "reasoning": ("logi", "commonsense", "strategyqa", "openbook"),
    "mathematics": (
        "gsm", "math", "amc", "aime", "olympiad", "svamp", "asdiv", "multiarith", "numina", "limo", "limr", "algebra",
        "arithmetic",
    ),
}  # fmt: skip


@dataclass
class Cell:
    """One model on one benchmark: the mean over seeds; the gain over the untrained model where that was evaluated."""

    accuracy: float
    interval: tuple[float, float] | None  # of a single run's accuracy
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    in_domain: bool = False
    contaminated: bool = False


@dataclass
class DomainTable:
    """`columns`: (domain, benchmark); `rows`: (domain that was trained on, model, a cell for each column or None)."""

    columns: list[tuple[str, str]]
    rows: list[tuple[str, str, list[Cell | None]]]
    means: list[tuple[str, str, dict[str, float]]] = field(default_factory=list)  # mean accuracy a domain


def domain_of(name: str, said: object = None) -> str:
    """The domain of data or of a benchmark: what the configuration says, else by its name."""
    if isinstance(said, str) and said:
        return said
    return next((domain for domain, words in WORDS.items() if any(word in name.lower() for word in words)), OTHER)


def trained_on(run: Run) -> str:
    """The domain of a run's training data."""
    if "method.name" not in run.config:
        return NO_TRAINING
    return domain_of(str(run.config.get("data.name") or ""), run.config.get("data.domain"))


def domain_tables(
    runs: list[Run], groups: list[Group], pairs: list[Pair], group_pairs: list[Pair]
) -> DomainTable | None:
    """The table, or None where everything is of one domain. Only the last checkpoint of a run has a place in it."""
    evaluated = [(run, e) for run in runs for e in run.evaluations if not e.checkpoint and _accuracy(e) is not None]
    domains = {evaluation.benchmark: _tested_domain(run, evaluation) for run, evaluation in evaluated}
    trained = {trained_on(run) for run, _ in evaluated} - {NO_TRAINING}
    if len(set(domains.values()) | trained) < 2 or len(domains) < 2:
        return None
    columns = sorted(((domain, name) for name, domain in domains.items()))
    grouped = {run.label for group in groups for run in group.runs}
    units = [(group.label, group.runs) for group in groups] + [(r.label, [r]) for r in runs if r.label not in grouped]
    by_names = {(pair.benchmark, pair.first, pair.second): pair for pair in (*pairs, *group_pairs)}
    bases = [run for run in runs if "method.name" not in run.config]
    rows = []
    for label, members in units:
        base = next((b.label for b in bases if _model(b) == _model(members[0]) and b not in members), None)
        cells = [_cell(label, members, column, base, by_names) for column in columns]
        if any(cells):
            rows.append((trained_on(members[0]), label, cells))
    rows.sort(key=lambda row: (row[0] != NO_TRAINING, row[0]))
    return DomainTable(columns, rows, [(row[0], row[1], _means(columns, row[2])) for row in rows])


def _tested_domain(run: Run, evaluation: Evaluation) -> str:
    name = evaluation.benchmark
    return domain_of(name, run.config.get(f"eval.benchmarks.{name}.domain"))


def _accuracy(evaluation: Evaluation) -> float | None:
    value = (evaluation.metrics or {}).get("accuracy")
    return value if is_number(value) else None


def _model(run: Run) -> object:
    return run.config.get("model.path")


def _cell(
    label: str, members: list[Run], column: tuple[str, str], base: str | None, pairs: dict[tuple[str, str, str], Pair]
) -> Cell | None:
    domain, name = column
    evaluations = [evaluation for run in members for evaluation in run.evaluations]
    scores = [e for e in evaluations if e.benchmark == name and not e.checkpoint]
    values = [value for evaluation in scores if (value := _accuracy(evaluation)) is not None]
    if not values:
        return None
    interval = (scores[0].metrics or {}).get("interval") if len(values) == 1 else None
    cell = Cell(fmean(values), (interval[0], interval[1]) if interval else None)
    cell.in_domain = trained_on(members[0]) == domain
    cell.contaminated = any((evaluation.metrics or {}).get("contaminated") for evaluation in scores)
    forward, backward = pairs.get((name, base or "", label)), pairs.get((name, label, base or ""))
    if forward and forward.difference is not None:
        cell.gain, cell.gain_interval = forward.difference, forward.interval
    elif backward and backward.difference is not None and backward.interval:
        cell.gain, cell.gain_interval = -backward.difference, (-backward.interval[1], -backward.interval[0])
    return cell


def _means(columns: list[tuple[str, str]], cells: list[Cell | None]) -> dict[str, float]:
    """Mean over the benchmarks of each domain on which the model has a score on all."""
    result = {}
    for domain in dict.fromkeys(domain for domain, _ in columns):
        values = [cell.accuracy if cell else None for (d, _), cell in zip(columns, cells, strict=True) if d == domain]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            result[domain] = fmean(known)
    return result
