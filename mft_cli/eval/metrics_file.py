"""What metrics.json holds, and the parts of it that have names of their own. ARCHITECTURE.md describes the fields."""

from __future__ import annotations

from pathlib import Path
from typing import Required, TypedDict

from mft_cli.files import JsonObject, file_digest, read_json, write_json
from mft_cli.report.read.damage import metrics_digest


class GoldLogprob(TypedDict):
    """Log-likelihood of the gold solutions: nats per token, the mean over `n` problems with its 95 % interval."""

    mean: float
    interval: list[float]
    n: int
    tokens: int


class Overlap(TypedDict, total=False):
    """Problems whose question was trained on (`ids`), and the accuracy (0 to 1) on them and on the rest."""

    problems: Required[int]
    of: Required[int]
    training_questions: Required[int]
    ids: Required[list[str]]
    bases: Required[bool]
    accuracy_trained_on: float | None
    accuracy_rest: float | None
    interval_rest: list[float]


class FirstPass(TypedDict):
    """Scores of the first of two passes, and how many answers the second one `corrected` and `broke`."""

    accuracy: float
    interval: list[float]
    interval_method: str
    correct: int
    unparsed: int
    truncated: int
    timed_out: int
    corrected: int
    broken: int
    generations_digest: str
    prompt: JsonObject
    seconds: dict[str, float]


class Metrics(TypedDict, total=False):
    """eval/<benchmark>/metrics.json. Accuracies are shares from 0 to 1, intervals [low, high] at 95 %."""

    benchmark: Required[str]
    scoring_version: Required[int]  # scores of two versions are not compared
    n: Required[int]
    samples: Required[int]
    accuracy: Required[float]
    interval: Required[list[float]]
    interval_method: Required[str]
    correct: Required[int]
    unparsed: Required[int]
    truncated: Required[int]
    timed_out: Required[int]
    gold_logprob: Required[GoldLogprob | None]
    contaminated: Required[str | None]
    warnings: Required[list[str]]
    pass_at: dict[str, float]
    majority_at: dict[str, float]
    majority_tie_rule: str
    overlap: Overlap | None
    prompt: JsonObject
    prompt_text: str
    engine: JsonObject
    model: dict[str, str]
    settings_digest: str
    generations_digest: str
    scores_digest: str
    gold_digest: str | None
    digest: str  # of all else but the times
    seconds: dict[str, float]
    logprobs: JsonObject
    first_pass: FirstPass
    preference: JsonObject
    groups: JsonObject
    failure_detection: JsonObject
    answer_from: dict[str, int]  # completions by where their answer was read
    format_adherence: JsonObject  # of a model that has a critique's tags
    instruction_following: JsonObject
    verdicts: JsonObject
    likelihood: JsonObject
    perplexity: JsonObject
    steps: JsonObject  # of solutions whose every step is known
    sandbox: JsonObject


def write_metrics(folder: Path, metrics: Metrics) -> None:
    """Writes metrics.json with the digests of scores.jsonl and gold.jsonl and one of its own, which `read_metrics` checks."""
    metrics["scores_digest"] = file_digest(folder / "scores.jsonl")
    has_gold = metrics["gold_logprob"] is not None and (folder / "gold.jsonl").is_file()
    metrics["gold_digest"] = file_digest(folder / "gold.jsonl") if has_gold else None
    metrics["digest"] = metrics_digest({**metrics})
    write_json(folder / "metrics.json", metrics)


def read_metrics(folder: Path) -> Metrics | str:
    """A finished benchmark's metrics; or what is damaged in its folder, empty where there are none yet."""
    if not (folder / "metrics.json").is_file():
        return ""
    try:
        metrics: Metrics = read_json(folder / "metrics.json")
        intact = metrics["digest"] == metrics_digest({**metrics})
    except (ValueError, TypeError, KeyError, RecursionError):
        intact = False
    if not intact:
        return "metrics.json"
    for name, digest in (("scores.jsonl", metrics["scores_digest"]), ("gold.jsonl", metrics["gold_digest"])):
        if digest is not None and (not (folder / name).is_file() or file_digest(folder / name) != digest):
            return name
    return metrics
