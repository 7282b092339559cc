"""Grading of completions that end in an answer: it is read out and compared with the gold answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Required, TypedDict

from mft_cli.answers.choices import options
from mft_cli.answers.equality import equal_fast
from mft_cli.answers.extraction import Answer
from mft_cli.answers.find import find_answer
from mft_cli.answers.mathematics import equal_text
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.eval.grading import workers
from mft_cli.eval.grading.graders import OK, TRUNCATED, UNPARSED, GoldParts, gold_parts
from mft_cli.eval.journal import Record

NOWHERE = "none"  # answer_from of a completion without a readable answer


class Reading(TypedDict, total=False):
    """The keywords of `answers.find_answer`."""

    markers: Required[Sequence[str]]
    word_problem: Required[bool]
    complete: Required[bool]
    prompt: Required[str | None]
    choices: Mapping[str, str]


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
        question = comparison(parts, answer.text if answer else "", benchmark)
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
    return _grade_words(records, benchmark, lambda gold, answer: answer == gold.strip(" ()."))


def grade_texts(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """Scores of answers in words: exact, letter case, blanks, quotes and a final full stop aside."""
    return _grade_words(records, benchmark, lambda gold, answer: equal_text(gold=gold, answer=answer))


def _grade_words(
    records: Sequence[Record], benchmark: BenchmarkConfig, equal: Callable[[str, str], bool]
) -> list[Record]:
    scores = []
    for record in records:
        parts, answer = gold_parts(record["gold"]), read_answer(record, benchmark)
        scores.append(_score(record, parts, answer, answer is not None and equal(parts["answer"], answer.text)))
    return scores


def read_answer(record: Record, benchmark: BenchmarkConfig) -> Answer | None:
    """The final answer of a completion, for the types number, math, choice and text."""
    return find_answer(record["completion"], benchmark.answer_type, **reading(record, benchmark))


def reading(record: Record, benchmark: BenchmarkConfig) -> Reading:
    """How the completion of a record is read: the keywords of `answers.find_answer`."""
    prompt = record.get("prompt")
    keywords: Reading = {
        "markers": markers_of(benchmark),
        "word_problem": benchmark.last_number,
        "complete": record.get("finish_reason") != "length",
        "prompt": prompt if isinstance(prompt, str) else None,
    }
    if benchmark.answer_type == "choice":
        keywords["choices"] = gold_parts(record["gold"]).get("choices") or options(keywords["prompt"] or "")
    return keywords


def markers_of(benchmark: BenchmarkConfig) -> list[str]:
    """The benchmark's markers; what marks the gold solutions' answers marks a completion's, too."""
    gold = benchmark.gold_marker
    return benchmark.markers if gold is None or gold in benchmark.markers else [*benchmark.markers, gold]


def _score(record: Record, parts: GoldParts, answer: Answer | None, correct: bool) -> Record:
    cut = record.get("finish_reason") == "length"
    return {
        "id": record["id"],
        "sample": record.get("sample", 0),
        "gold": parts["answer"],
        "answer": answer.text if answer else None,
        "answer_from": answer.source if answer else NOWHERE,
        "answer_span": list(answer.span) if answer else None,
        "correct": correct,
        "status": OK if answer else TRUNCATED if cut else UNPARSED,
    }


def answer_metrics(scores: Sequence[Record]) -> Record:
    """How many answers were read from where: a marker, a box, an announcement, the last number ..."""
    return {"answer_from": dict(sorted(Counter(str(score["answer_from"]) for score in scores).items()))}
