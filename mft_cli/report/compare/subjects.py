"""What is compared: one evaluation, or several seeds averaged problem by problem; and why two may not be paired."""

from __future__ import annotations

from dataclasses import dataclass, field

from mft_cli.report.read.fields import Record, share
from mft_cli.report.read.runs import Evaluation
from mft_cli.report.wording import count, is_number, one_line


@dataclass
class Subject:
    """What is compared: one evaluation, or several seeds averaged problem by problem."""

    label: str
    run: str  # the run's label; `label` has the checkpoint too
    benchmark: str
    values: dict[str, float]  # problem -> share of its completions that are correct
    answers: dict[str, str]  # problem -> gold answer
    logprobs: dict[str, float]  # problem -> mean log-probability of a token of the gold solution
    tokens: dict[str, int]  # problem -> tokens of the gold solution
    binary: bool  # one completion a problem: the exact test on flips applies
    setup: Record = field(default_factory=dict)  # prompt and engine, to warn where they differ
    accuracy: float | None = None  # what metrics.json says
    contaminated: bool = False
    problem: str = ""  # why it cannot be compared at all
    seed: str = ""  # of a single trained run; empty for a model that was only evaluated
    seeds: dict[str, dict[str, float]] = field(default_factory=dict)  # of several: seed -> values
    seed_logprobs: dict[str, dict[str, float]] = field(default_factory=dict)  # of several: seed -> logprobs
    scoring_version: int = 1
    generated: bool = (
        True  # False: texts were only read, and a problem's value is the share of tokens that were guessed
    )


def subject(evaluation: Evaluation) -> Subject:
    """One evaluation, problem by problem."""
    marks: dict[str, list[float]] = {}
    answers: dict[str, str] = {}
    rows = {(str(row.get("id")), row.get("sample") or 0): row for row in evaluation.scores}
    for (problem, _), row in rows.items():
        marks.setdefault(problem, []).append(credit(row))
        answers[problem] = str(row.get("gold"))
    gold = [row for row in evaluation.gold if is_number(row.get("logprob_sum")) and row.get("tokens")]
    metrics = evaluation.metrics or {}
    return Subject(
        label=evaluation.label,
        run=evaluation.run,
        benchmark=evaluation.benchmark,
        values={problem: sum(values) / len(values) for problem, values in marks.items()},
        answers=answers,
        logprobs={str(row["id"]): row["logprob_sum"] / row["tokens"] for row in gold},
        tokens={str(row["id"]): row["tokens"] for row in gold},
        binary=all(len(values) == 1 and values[0] in (0, 1) for values in marks.values()),
        setup={key: metrics.get(key) for key in ("prompt", "engine", "samples")},
        accuracy=metrics.get("accuracy"),
        contaminated=bool(metrics.get("contaminated")),
        problem=obstacle(evaluation),
        generated=evaluation.generated,
        scoring_version=metrics.get("scoring_version") or 1,  # metrics of before it was written
    )


def credit(score: Record) -> float:
    """1 for a right completion, 0 for a wrong one; a share of texts whose next tokens were guessed."""
    value = score.get("correct")
    return float(value) if value is not None and (isinstance(value, bool) or share(value)) else 0.0


def obstacle(evaluation: Evaluation) -> str:
    """Why an evaluation cannot be compared; empty if it can."""
    if evaluation.metrics is None:
        return f"the evaluation of {evaluation.label} is not finished (no metrics.json)"
    if not evaluation.scores:
        return f"{evaluation.label} has no scores.jsonl"
    return ""


def average(subjects: list[Subject], label: str) -> Subject:
    """Several seeds as one subject. Raises ValueError with the reason where they do not share problems."""
    first = subjects[0]
    for other in subjects[1:]:
        reason = refusal(first, other)
        if reason:
            raise ValueError(reason)
    # The log-likelihood needs every seed to have measured every problem with equally many tokens.
    gold = all(other.logprobs and other.tokens == first.tokens for other in subjects)
    keys = _seed_keys(subjects)
    return Subject(
        label=label,
        run=label,
        benchmark=first.benchmark,
        values=_mean_of([s.values for s in subjects]),
        answers=first.answers,
        logprobs=_mean_of([s.logprobs for s in subjects]) if gold else {},
        tokens=first.tokens if gold else {},
        binary=False,
        setup=first.setup,
        contaminated=any(s.contaminated for s in subjects),
        seeds={key: member.values for key, member in zip(keys, subjects, strict=True)},
        seed_logprobs={key: member.logprobs for key, member in zip(keys, subjects, strict=True)} if gold else {},
        scoring_version=first.scoring_version,
        generated=first.generated,
    )


def _seed_keys(subjects: list[Subject]) -> list[str]:
    """A key for each run: its seed; a seed that is there twice gets a key that pairs with nothing."""
    seeds = [member.seed for member in subjects]
    return [seed if seeds.count(seed) == 1 else f"{seed} in {member.label}"
            for seed, member in zip(seeds, subjects, strict=True)]  # fmt: skip


def _mean_of(tables: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(table[key] for table in tables) / len(tables) for key in tables[0]}


def refusal(first: Subject, second: Subject) -> str:
    """Why two subjects may not be paired; empty if they may."""
    if first.problem or second.problem:
        return first.problem or second.problem
    if first.scoring_version != second.scoring_version:
        versions = (
            f"{first.label} by version {first.scoring_version}, {second.label} by version {second.scoring_version}"
        )
        return f"they were scored by different rules ({versions}); score both again with this mft"
    only_first = first.values.keys() - second.values.keys()
    only_second = second.values.keys() - first.values.keys()
    if only_first or only_second:
        return (
            f"the problem sets differ: {count(len(only_first), 'problem')} only in {first.label}, "
            f"{len(only_second)} only in {second.label}"
        )
    other = [key for key in first.answers if first.answers[key] != second.answers[key]]
    if other:
        return f"the gold answers of {count(len(other), 'problem')} differ, the first is {one_line(other[0])}"
    return ""


def gold_refusal(first: Subject, second: Subject) -> str:
    """Why two subjects' gold log-likelihoods may not be paired."""
    for side in (first, second):
        if not side.logprobs:
            return f"{side.label} has no gold log-likelihoods"
    if first.tokens.keys() != second.tokens.keys():
        return "gold solutions of different problems were measured"
    # A mean over tokens compares only under one tokenization: other tokens, other unit.
    other = sum(first.tokens[key] != second.tokens[key] for key in first.tokens)
    return f"{count(other, 'gold solution')} split into different numbers of tokens" if other else ""
