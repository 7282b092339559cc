"""Grading of completions that end in an answer: it is read out and compared with the gold answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Required, TypedDict

from mft_cli.answers.choices import extract_choice, options
from mft_cli.answers.equality import equal_fast
from mft_cli.answers.extraction import extract
from mft_cli.answers.mathematics import equal_text, extract_math, extract_text
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.eval.grading import workers
from mft_cli.eval.grading.graders import OK, TRUNCATED, UNPARSED, GoldParts, gold_parts
from mft_cli.eval.journal import Record


class Question(TypedDict, total=False):
    """The arguments of `answers.equal_fast` and `answers.equal_slowly`."""

    gold: Required[str]
    answer: Required[str]
    tolerance: float | None
    unit: str | None
    multiple: bool


def grade_answers(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """Scores of the types number and math; what is not decided at once goes to the worker processes.

    An answer that takes longer than config.answer_timeout_s is wrong and has the status timed_out; one that crashes
    its worker or exhausts its memory is wrong and unparsed. Neither costs another answer anything.
    """
    scores, slow = [], []
    for record in records:
        answer, parts = read_answer(record, benchmark), gold_parts(record["gold"])
        question = comparison(parts, answer or "", benchmark)
        verdict = False if answer is None else equal_fast(**question)
        scores.append(_score(record, parts, answer, bool(verdict)))
        if verdict is None:
            slow.append((len(scores) - 1, question))
    words = workers.compare([q for _, q in slow], workers=config.score_workers, timeout_s=config.answer_timeout_s)
    for (i, _), word in zip(slow, words, strict=True):
        scores[i]["correct"] = word == workers.EQUAL
        if word in (workers.TIMED_OUT, workers.FAILED):
            scores[i]["status"] = "timed_out" if word == workers.TIMED_OUT else UNPARSED
    return scores


def comparison(parts: GoldParts, answer: str, benchmark: BenchmarkConfig) -> Question:
    """The arguments of `answers.equal_fast` and `equal_slowly` for one answer."""
    given: Question = {"gold": parts["answer"], "answer": answer, "tolerance": parts.get("tolerance")}
    if benchmark.answer_type == "math":
        given |= {"unit": parts.get("unit"), "multiple": bool(parts.get("multiple"))}
    return given


def grade_choices(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """Scores of multiple-choice answers: the letter, or an option's text where the gold or the prompt lists them."""
    scores = []
    for record in records:
        parts = gold_parts(record["gold"])
        shown = parts.get("choices") or options(str(record.get("prompt") or ""))
        find = partial(extract_choice, markers=benchmark.markers, choices=shown)
        answer = _read(record, lambda text, end, find=find: find(text))  # type: ignore[misc]
        scores.append(_score(record, parts, answer, answer is not None and answer == parts["answer"].strip(" ().")))
    return scores


def grade_texts(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """Scores of answers in words: exact, letter case, blanks, quotes and a final full stop aside."""
    scores = []
    for record in records:
        parts = gold_parts(record["gold"])
        answer = _read(record, lambda text, end: extract_text(text, markers=benchmark.markers, one_line=end))
        scores.append(
            _score(record, parts, answer, answer is not None and equal_text(gold=parts["answer"], answer=answer))
        )
    return scores


def read_answer(record: Record, benchmark: BenchmarkConfig) -> str | None:
    """The final answer of a completion, for the types number and math."""
    find = extract_math if benchmark.answer_type == "math" else extract
    return _read(
        record, lambda text, end: find(text, markers=benchmark.markers, last_number=benchmark.last_number and end)
    )


def _read(record: Record, find: Callable[[str, bool], str | None]) -> str | None:
    """What `find` finds, told whether the completion came to its end.

    One that was cut by the token limit counts only with an announced answer: its last number is a step on the way, and
    its last word may be half a number. A base model that answered, and went on with a question of its own until the
    limit, has answered.
    """
    text = record["completion"]
    if record.get("finish_reason") != "length":
        return find(text, True)
    return find(re.sub(r"\S{1,200}\Z", "", text), False)


def _score(record: Record, parts: GoldParts, answer: str | None, correct: bool) -> Record:
    return {
        "id": record["id"],
        "sample": record.get("sample", 0),
        "gold": parts["answer"],
        "answer": answer,
        "correct": correct,
        "status": _status(record, answer),
    }


def _status(record: Record, answer: str | None) -> str:
    if answer is not None:
        return OK
    return TRUNCATED if record.get("finish_reason") == "length" else UNPARSED
