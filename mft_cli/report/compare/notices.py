"""What a reader must know before reading a number: it stands at the top of every report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mft_cli.files import file_digest
from mft_cli.report.compare.pairs import Pair
from mft_cli.report.compare.subjects import Subject
from mft_cli.report.read.runs import Evaluation, Run
from mft_cli.report.wording import count, is_number, one_line, percent

ALARM, WARNING, NOTE = "alarm", "warning", "note"  # how loud
DIGESTS = {  # file -> the field of metrics.json that holds its digest
    "generations.jsonl": "generations_digest", "scores.jsonl": "scores_digest", "gold.jsonl": "gold_digest",
}  # fmt: skip
LISTED = 12  # places that one notice names
SHARE = re.compile(r"^(\d+(?: of \d+)?) (?=[a-z])")  # what a warning counts


@dataclass(frozen=True)
class Notice:
    """One sentence about one run, or about all the runs and benchmarks that `where` lists."""

    level: str
    where: str
    text: str


def notices(
    runs: list[Run], pairs: list[Pair], subjects: list[Subject], weights_now: Callable[[Path], str | None] | None = None
) -> list[Notice]:
    """All of them, the loudest first."""
    collected: list[Notice] = []
    for run in runs:
        collected += about_run(run)
        for evaluation in run.evaluations:
            collected += about_evaluation(evaluation)
            if weights_now is not None:
                collected += about_weights(run, evaluation, weights_now)
    collected += [notice for subject in subjects for notice in about_scores(subject)]
    collected += about_same_text(pairs)
    collected += about_refusals(pairs)
    return sorted(together(collected), key=lambda notice: (ALARM, WARNING, NOTE).index(notice.level))


def together(collected: list[Notice]) -> list[Notice]:
    """One notice for all that differ in their place, or in the count that they begin with ("12 of 40 completions ...")."""
    kinds: dict[tuple[str, str], list[Notice]] = {}
    for notice in dict.fromkeys(collected):
        kinds.setdefault((notice.level, SHARE.sub("", notice.text)), []).append(notice)
    return [alike[0] if len(alike) == 1 else joined(alike, text) for (_, text), alike in kinds.items()]


def joined(alike: list[Notice], text: str) -> Notice:
    """Several notices as one; a share that each begins with stands after its name."""
    shares = [SHARE.match(notice.text) for notice in alike]
    places = [f"{n.where} ({share[1]})" if share else n.where for n, share in zip(alike, shares, strict=True)]
    if any(shares):
        text = text[0].upper() + text[1:]
    more = f"; and {len(places) - LISTED} more" if len(places) > LISTED else ""
    return Notice(alike[0].level, "; ".join(places[:LISTED]) + more, text)


def about_run(run: Run) -> list[Notice]:
    """Its state, and what could not be read."""
    collected = []
    title = run.label
    progress = f" at step {run.step}" if run.step is not None else ""
    progress += f" of {run.total_steps}" if progress and run.total_steps else ""
    reason = f": {one_line(run.message)}" if run.message else ""
    if run.state == "failed":
        collected.append(Notice(ALARM, title, f"The run failed{progress}{reason}"))
    elif run.unfinished:
        collected.append(Notice(WARNING, title, f"The run is not finished: {one_line(run.state)}{progress}{reason}"))
    if not run.evaluations:
        collected.append(Notice(NOTE, title, "No evaluation in this run folder yet."))
    return collected + [Notice(WARNING, title, note) for note in run.notes]


def about_evaluation(evaluation: Evaluation) -> list[Notice]:
    """Contamination, warnings of the evaluation itself, unfinished work, broken files."""
    title = f"{evaluation.label}, {evaluation.benchmark}"
    collected = [Notice(WARNING, title, note) for note in evaluation.notes]
    metrics = evaluation.metrics
    if metrics is None:
        have = count(len(evaluation.completions()), "completion")
        scored = f" and {count(len(evaluation.scores), 'score')}" if evaluation.scores else ", no scores"
        collected.append(Notice(WARNING, title, f"The evaluation is not finished: {have}{scored}, no metrics.json."))
        return collected
    if metrics.get("contaminated"):
        reason = one_line(str(metrics["contaminated"]))
        text = f"CONTAMINATED: {reason} The score says nothing about unseen problems."
        collected.append(Notice(ALARM, title, text if reason[-1:] in ".!?" else text.replace(reason, reason + ".")))
    warnings = [one_line(str(text)) for text in listed] if isinstance(listed := metrics.get("warnings"), list) else []
    # contamination is reported above
    collected += [Notice(WARNING, title, text) for text in warnings if not text.startswith("CONTAMINATED: ")]
    if metrics.get("gold_logprob") and not evaluation.gold:
        text = "gold.jsonl has no line that can be read, although metrics.json has the mean of some: not compared."
        collected.append(Notice(WARNING, title, text))
    return collected + about_file(evaluation, title)


def about_file(evaluation: Evaluation, title: str) -> list[Notice]:
    """metrics.json records the digests of the completions that were scored, and of the scores."""
    collected = []
    for name, recorded in ((name, (evaluation.metrics or {}).get(key)) for name, key in DIGESTS.items()):
        path = evaluation.folder / name
        if not recorded:
            continue
        if not path.is_file():
            collected.append(Notice(WARNING, title, f"{name} is missing: what the scores were computed from is gone."))
        elif file_digest(path) != recorded:
            collected.append(Notice(ALARM, title, f"{name} is not the file of these scores: its digest has changed."))
    return collected


def about_weights(run: Run, evaluation: Evaluation, weights_now: Callable[[Path], str | None]) -> list[Notice]:
    """Scores belong to weights: those that the model's folder holds now must be those that were evaluated."""
    metrics = evaluation.metrics or {}
    model = metrics.get("model")
    scored = model.get("weights_digest") if isinstance(model, dict) else None
    if not scored or (metrics.get("engine") or {}).get("name") == "api":
        return []
    trained = "method.name" in run.config
    name = f"export-{evaluation.checkpoint}" if evaluation.checkpoint else "export"
    folder = run.folder / name if trained else Path(str(run.config.get("model.path") or ""))
    present = weights_now(folder)
    if present is None or present == scored:
        return []
    text = f"STALE: these are scores of other weights than {folder} holds now: run mft eval model.path={folder} again."
    return [Notice(ALARM, f"{evaluation.label}, {evaluation.benchmark}", text)]


def about_scores(subject: Subject) -> list[Notice]:
    """metrics.json must follow from scores.jsonl; if it does not, one of the two was changed."""
    title = f"{subject.label}, {subject.benchmark}"
    accuracy = subject.accuracy
    if subject.problem:
        text = f"{subject.problem}: no paired comparison is possible."
        return [] if accuracy is None else [Notice(WARNING, title, text)]
    recomputed = sum(subject.values.values()) / len(subject.values)
    if is_number(accuracy) and abs(recomputed - float(accuracy or 0)) > 1e-6:
        numbers = f"metrics.json says {percent(accuracy)}, scores.jsonl gives {percent(recomputed)}"
        text = f"{numbers}: one of them was changed."
        return [Notice(ALARM, title, text)]
    return []


def about_same_text(pairs: list[Pair]) -> list[Notice]:
    """Two runs whose texts are equal to the last character."""
    return [
        Notice(
            ALARM,
            f"{pair.first} and {pair.second}, {pair.benchmark}",
            f"These two runs produced the same text for all {pair.same_text[1]} completions: "
            "the swept setting had no effect or the same weights were evaluated.",
        )
        for pair in pairs
        if pair.same_text and pair.same_text[0] == pair.same_text[1]
    ]


def about_refusals(pairs: list[Pair]) -> list[Notice]:
    """Comparisons that were not made, and those made under different conditions, once for each reason."""
    collected = []
    for pair in pairs:
        title = f"{pair.first} and {pair.second}, {pair.benchmark}"
        if pair.refused and "not finished" not in pair.refused:
            collected.append(Notice(WARNING, title, f"Not compared: {pair.refused}."))
        collected += [Notice(WARNING, title, f"Compared with care: {text}.") for text in pair.cautions]
    if len(collected) > 6:  # many pairs, few reasons: the table of pairs says it for each
        reasons = Counter(notice.text for notice in collected)
        collected = [Notice(WARNING, count(number, "pair"), text) for text, number in reasons.items()]
    return collected
