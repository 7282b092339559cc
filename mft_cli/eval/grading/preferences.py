"""Judged benchmarks (AlpacaEval): a language model behind an endpoint says which of two answers it prefers.

Every pair is judged in both orders, since judges favour a position: the preference is 0, 0.5 or 1. Judgements are a
journal of their own in the cache folder, so that a killed scoring goes on, and scoring again costs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from mft_cli.answers.extraction import without_thoughts
from mft_cli.config.schema.evaluation import ApiConfig, BenchmarkConfig, EvalConfig
from mft_cli.errors import UserError
from mft_cli.eval.engines.api import ApiEngine, endpoint_facts
from mft_cli.eval.engines.base import Completion, Request, Sampling
from mft_cli.eval.grading.graders import OK, UNPARSED, visible_text
from mft_cli.eval.grading.length_control import length_controlled_win_rate, win_rate
from mft_cli.eval.journal import Journal, Record
from mft_cli.files import cache_folder, digest_of, write_json

QUESTION = """Two assistants answered the same instruction. Judge which answer a careful reader would prefer: the one \
that does what was asked, correctly and completely, without padding. The order of the answers means nothing.

<instruction>
{instruction}
</instruction>

<answer_A>
{A}
</answer_A>

<answer_B>
{B}
</answer_B>

Reply with the one letter of the better answer, A or B, and nothing else."""
STRUCTURED = re.compile(  # "key": "A", \boxed{A}, <b>A, **A; "is A", "prefer answer A"
    r"[:={\[>*]\s*[\"'*{(\\]*(?:\w*\{)?[AB](?![A-Za-z'’])|\b(?:is|choose|prefer|verdict|winner)\W+(?:answer\W+)?[AB]\b",
    re.IGNORECASE,
)
ANNOTATIONS = "annotations.json"
ANSWER_TOKENS = 8  # eval.judge.extra gives a judge that thinks aloud more


def grade_preferences(records: Sequence[Record], benchmark: BenchmarkConfig, config: EvalConfig) -> list[Record]:
    """A score for each record with its `preference`; `correct` where the completion is preferred. Raises UserError."""
    if not config.judge.base_url or not config.judge.model:
        raise UserError(
            "a judged benchmark needs eval.judge.base_url and eval.judge.model, an OpenAI-compatible endpoint; the "
            "completions are kept, start the same command again with them"
        )
    pairs = [(record, json.loads(record["gold"])) for record in records]
    answers = judge([question(r, gold, first) for r, gold in pairs for first in (True, False)], config.judge)
    scores, judge_facts = [], endpoint_facts(config.judge)
    for index, (record, gold) in enumerate(pairs):
        # the completion is A the first time and B the second
        votes = [vote(answers[2 * index], "A"), vote(answers[2 * index + 1], "B")]
        preference = sum(0.5 if v is None else v for v in votes) / 2
        scores.append(
            {
                "id": record["id"],
                "sample": record.get("sample", 0),
                "gold": record["gold"],
                "answer": {0.0: "loss", 1.0: "win"}.get(preference, "tie"),
                "correct": preference > 0.5,
                "status": UNPARSED if votes == [None, None] else OK,
                "unclear": votes.count(None),
                "preference": preference,
                "judge": judge_facts,
                "length": len(visible_text(record)),
                "reference_length": len(gold["output"]),
            }
        )
    return scores


def question(record: Record, gold: dict[str, str], first: bool) -> str:
    """What the judge is asked; the completion is answer A if `first`. Filled in one go: answers may hold {B}."""
    two = (visible_text(record), gold["output"])
    values = {"instruction": gold["instruction"], "A": two[0 if first else 1], "B": two[1 if first else 0]}
    return re.sub(r"\{(instruction|A|B)\}", lambda match: values[match[1]], QUESTION)


def vote(answer: str, ours: str) -> float | None:
    """1 if the judge says our letter, 0 if the other one, None if its reply is unclear.

    The letter is the reply's first word, as it was asked for, or the only one of a structured reply ({"better": "A"},
    \\boxed{B}, "Answer: B", "The better answer is **A**."); what follows </think> is the reply.
    """
    reply = without_thoughts(answer).strip()
    first = re.match(
        r"[\s\"'`*(\[<{]*(?:(?:answer|assistant|output|option)[\s_]*)?([AB])(?![A-Za-z'’])(?!\s+(?:and|or)\b)", reply
    )
    if first and not re.match(r"\s+[a-z]", reply[first.end() :]):
        return float(first[1] == ours)
    if first and re.match(r"\s+(?:is|answers|does|gives|wins|seems)\b", reply[first.end() :]):
        worse = re.match(r"\s+(?:is|seems)\s+(?:\w+\s)?(?:worse|wrong|incorrect|weaker|not)\b", reply[first.end() :])
        return None if worse else float(first[1] == ours)
    letters = re.findall(r"(?<![A-Za-z])[AB](?![A-Za-z'’])", reply)
    structured = STRUCTURED.search(reply)
    return float(letters[0] == ours) if len(letters) == 1 and structured else None


def judge(questions: Sequence[str], api: ApiConfig) -> list[str]:
    """The judge's answers, in order; those that it gave before come from the cache."""
    facts = endpoint_facts(api)
    keys = [digest_of([facts, number, text]) for number, text in enumerate(questions)]
    journal = Journal(cache_folder() / "judgements" / f"{digest_of(keys)}.jsonl", keys)
    missing = set(journal.missing())
    if missing:
        messages = [json.dumps([{"role": "user", "content": text}]) for text in questions]
        requests = [Request((), ANSWER_TOKENS, text=text, chat=True) for text in messages]
        engine = ApiEngine(api)

        def report(index: int, completion: Completion) -> None:
            journal.add(keys[index], {"answer": completion.text})

        try:
            engine.generate(
                requests, set(range(len(keys))) - missing, Sampling(0.0, 1.0, (), ()), report, lambda count: None
            )
        finally:
            journal.close()
            engine.close()
    return [str(journal.done[key]["answer"]) for key in keys]


def write_annotations(scores: Sequence[Record], records: Sequence[Record], out: Path, model: str) -> None:
    """model_outputs.json and annotations.json, as the alpaca_eval package has them."""
    golds = [json.loads(score["gold"]) for score in scores]
    outputs = [
        {"dataset": g.get("dataset"), "instruction": g["instruction"], "output": visible_text(r), "generator": model}
        for g, r in zip(golds, records, strict=True)
    ]
    annotations = [
        {
            "instruction": g["instruction"],
            "output_1": g["output"],
            "generator_1": g.get("generator"),
            "output_2": visible_text(r),
            "generator_2": model,
            "annotator": s["judge"]["model"],
            "preference": 1 + s["preference"],  # theirs is 1 for the reference, 2 for the model
        }
        for g, r, s in zip(golds, records, scores, strict=True)
    ]
    write_json(out / "model_outputs.json", outputs)
    write_json(out / ANNOTATIONS, annotations)


def preference_metrics(scores: Sequence[Record]) -> dict[str, object]:
    """Win rates in percent for metrics.json, and how many of the judge's replies were unclear."""
    golds = [json.loads(score["gold"]) for score in scores]
    preferences = [s["preference"] for s in scores]
    differences = [s["length"] - s["reference_length"] for s in scores]
    rate, error = win_rate(preferences)
    wins = {
        "win_rate": rate,
        "standard_error": error,
        "length_controlled_win_rate": length_controlled_win_rate(preferences, differences),
        "length_control": "logistic regression on length alone, without the instructions' difficulty",
        "mean_length": sum(s["length"] for s in scores) / len(scores),
        "mean_reference_length": sum(s["reference_length"] for s in scores) / len(scores),
        "reference": sorted({str(g.get("generator")) for g in golds}),
        "judge": scores[0]["judge"],
        "orders": "both, averaged",
        "unclear": sum(s["unclear"] for s in scores),
        "replies": 2 * len(scores),
    }
    return {"preference": wins}
