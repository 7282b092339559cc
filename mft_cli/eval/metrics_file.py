"""What metrics.json holds, and the parts of it that have names of their own. ARCHITECTURE.md describes the fields."""

from __future__ import annotations

from typing import Any, Required, TypedDict

Facts = dict[str, Any]  # a JSON object


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
    prompt: Facts
    seconds: dict[str, float]


class Metrics(TypedDict, total=False):
    """eval/<benchmark>/metrics.json. Accuracies are shares from 0 to 1, intervals [low, high] at 95 %."""

    benchmark: Required[str]
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
    prompt: Facts
    prompt_text: str
    engine: Facts
    model: dict[str, str]
    settings_digest: str
    generations_digest: str
    seconds: dict[str, float]
    logprobs: Facts
    first_pass: FirstPass
    preference: Facts
    groups: Facts
    failure_detection: Facts
    format_adherence: Facts  # of a model that has a critique's tags
    instruction_following: Facts
    verdicts: Facts
    sandbox: Facts
