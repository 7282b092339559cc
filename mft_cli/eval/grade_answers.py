"""Grading of completions that end in an answer: it is read out and compared with the gold answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mft_cli.answers import equal_fast, extract
from mft_cli.eval import workers
from mft_cli.eval.graders import OK, TRUNCATED, UNPARSED, gold_parts
from mft_cli.eval.journal import Record
from mft_cli.schema import BenchmarkConfig, EvalConfig


def grade_answers(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """A score for each record; what is not plainly a number goes to the worker processes."""
    scores, slow = [], []
    for record in records:
        answer = read_answer(record, benchmark)
        gold = gold_parts(record["gold"])["answer"]
        verdict = False if answer is None else equal_fast(gold=gold, answer=answer)
        score = {"id": record["id"], "sample": record.get("sample", 0), "gold": gold, "answer": answer}
        scores.append({**score, "correct": bool(verdict), "status": _status(record, answer)})
        if verdict is None:
            slow.append(len(scores) - 1)
    pairs = [(scores[i]["gold"], scores[i]["answer"]) for i in slow]
    for i, found in zip(
        slow, workers.compare(pairs, workers=config.score_workers, timeout_s=config.answer_timeout_s), strict=True
    ):
        scores[i]["correct"] = found == workers.EQUAL
        if found in (workers.TIMED_OUT, workers.FAILED):
            scores[i]["status"] = "timed_out" if found == workers.TIMED_OUT else UNPARSED
    return scores


def read_answer(record: Record, benchmark: BenchmarkConfig) -> str | None:
    """The final answer of a completion. One that was cut by the token limit counts only with an announced answer.

    Its last number is a step on the way, and its last word may be half a number; a base model that answered, and went
    on with a question of its own until the limit, has answered.
    """
    text = record["completion"]
    if record.get("finish_reason") != "length":
        return extract(text, markers=benchmark.markers, last_number=benchmark.last_number)
    return extract(re.sub(r"\S{1,200}\Z", "", text), markers=benchmark.markers, last_number=False)


def _status(record: Record, answer: str | None) -> str:
    if answer is not None:
        return OK
    return TRUNCATED if record.get("finish_reason") == "length" else UNPARSED
