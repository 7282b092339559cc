"""What a reader must know before reading a number: it stands at the top of every report."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from mft_cli.files import file_digest
from mft_cli.report.compare.pairs import Pair, Subject
from mft_cli.report.read.runs import Evaluation, Run
from mft_cli.report.wording import count, is_number, one_line, percent

ALARM, WARNING, NOTE = "alarm", "warning", "note"  # how loud
LISTED = 12  # places that one notice names
SHARE = re.compile(r"^(\d+(?: of \d+)?) (?=[a-z])")  # what a warning counts


@dataclass(frozen=True)
class Notice:
    """One sentence about one run, or about all the runs and benchmarks that `where` lists."""

    level: str
    where: str
    text: str


def notices(runs: list[Run], pairs: list[Pair], subjects: list[Subject]) -> list[Notice]:
    """All of them, the loudest first."""
    found: list[Notice] = []
    for run in runs:
        found += about_run(run)
        for evaluation in run.evaluations:
            found += about_evaluation(evaluation)
    found += [notice for one in subjects for notice in about_scores(one)]
    found += about_same_text(pairs)
    found += about_refusals(pairs)
    return sorted(together(found), key=lambda notice: (ALARM, WARNING, NOTE).index(notice.level))


def together(found: list[Notice]) -> list[Notice]:
    """One notice for all that differ in their place, or in the count that they begin with ("12 of 40 completions ...")."""
    kinds: dict[tuple[str, str], list[Notice]] = {}
    for notice in dict.fromkeys(found):
        kinds.setdefault((notice.level, SHARE.sub("", notice.text)), []).append(notice)
    return [one[0] if len(one) == 1 else joined(one, text) for (_, text), one in kinds.items()]


def joined(alike: list[Notice], text: str) -> Notice:
    """Several notices as one; a share that each begins with stands behind its place."""
    shares = [SHARE.match(notice.text) for notice in alike]
    places = [f"{n.where} ({share[1]})" if share else n.where for n, share in zip(alike, shares, strict=True)]
    if any(shares):
        text = text[0].upper() + text[1:]
    more = f"; and {len(places) - LISTED} more" if len(places) > LISTED else ""
    return Notice(alike[0].level, "; ".join(places[:LISTED]) + more, text)


def about_run(run: Run) -> list[Notice]:
    """Its state, and what could not be read."""
    found = []
    where = run.label
    progress = f" at step {run.step}" if run.step is not None else ""
    progress += f" of {run.total_steps}" if progress and run.total_steps else ""
    reason = f": {one_line(run.message)}" if run.message else ""
    if run.state == "failed":
        found.append(Notice(ALARM, where, f"The run failed{progress}{reason}"))
    elif run.unfinished:
        found.append(Notice(WARNING, where, f"The run is not finished: {one_line(run.state)}{progress}{reason}"))
    if not run.evaluations:
        found.append(Notice(NOTE, where, "No evaluation in this run folder yet."))
    return found + [Notice(WARNING, where, note) for note in run.notes]


def about_evaluation(evaluation: Evaluation) -> list[Notice]:
    """Contamination, warnings of the evaluation itself, unfinished work, broken files."""
    where = f"{evaluation.label}, {evaluation.benchmark}"
    found = [Notice(WARNING, where, note) for note in evaluation.notes]
    metrics = evaluation.metrics
    if metrics is None:
        have = count(len(evaluation.completions()), "completion")
        scored = f" and {count(len(evaluation.scores), 'score')}" if evaluation.scores else ", no scores"
        found.append(Notice(WARNING, where, f"The evaluation is not finished: {have}{scored}, no metrics.json."))
        return found
    if metrics.get("contaminated"):
        reason = one_line(str(metrics["contaminated"]))
        text = f"CONTAMINATED: {reason} The score says nothing about unseen problems."
        found.append(Notice(ALARM, where, text if reason[-1:] in ".!?" else text.replace(reason, reason + ".")))
    warnings = [one_line(str(text)) for text in listed] if isinstance(listed := metrics.get("warnings"), list) else []
    found += [Notice(WARNING, where, text) for text in warnings if not text.startswith("CONTAMINATED: ")]  # said above
    return found + about_file(evaluation, where)


def about_file(evaluation: Evaluation, where: str) -> list[Notice]:
    """metrics.json records the digest of the completions that were scored."""
    path = evaluation.folder / "generations.jsonl"
    recorded = (evaluation.metrics or {}).get("generations_digest")
    if not recorded:
        return []
    if not path.is_file():
        return [Notice(WARNING, where, "generations.jsonl is missing: the completions behind the scores are gone.")]
    if file_digest(path) != recorded:
        return [Notice(ALARM, where, "generations.jsonl is not the file that was scored: its digest has changed.")]
    return []


def about_scores(one: Subject) -> list[Notice]:
    """metrics.json must follow from scores.jsonl; if it does not, one of the two was changed."""
    where = f"{one.label}, {one.benchmark}"
    accuracy = one.accuracy
    if one.problem:
        return [] if accuracy is None else [Notice(WARNING, where, f"{one.problem}: no paired comparison is possible.")]
    own = sum(one.values.values()) / len(one.values)
    if is_number(accuracy) and abs(own - float(accuracy or 0)) > 1e-6:
        text = f"metrics.json says {percent(accuracy)}, scores.jsonl gives {percent(own)}: one of them was changed."
        return [Notice(ALARM, where, text)]
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
    found = []
    for pair in pairs:
        where = f"{pair.first} and {pair.second}, {pair.benchmark}"
        if pair.refused and "not finished" not in pair.refused:
            found.append(Notice(WARNING, where, f"Not compared: {pair.refused}."))
        found += [Notice(WARNING, where, f"Compared with care: {text}.") for text in pair.cautions]
    if len(found) > 6:  # many pairs, few reasons: the table of pairs says it for each
        reasons = Counter(notice.text for notice in found)
        found = [Notice(WARNING, count(number, "pair"), text) for text, number in reasons.items()]
    return found
