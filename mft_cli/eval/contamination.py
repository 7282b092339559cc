"""Whether a model was trained on what it is evaluated on: by what its training data declared, and by its questions.

Declared: `derived_from` in mft.json. Measured: the digests of all training questions that an export carries
(mft_cli.data.questions), in which the benchmark's questions are looked up. Both are inherited by continued runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mft_cli.eval.metrics_file import Metrics, Overlap
from mft_cli.files import JsonObject
from mft_cli.stats import intervals


def contamination(facts: JsonObject, benchmark: str, derived_from: Sequence[str]) -> str | None:
    """The reason why a score is contaminated, or None. A benchmark's own name counts as one of its tags."""
    tags = {benchmark, *derived_from}
    shared = sorted(tags & set(facts.get("derived_from") or ()))
    if not shared:
        return None
    return f"the training data says that it contains or was made from {', '.join(shared)}, which {benchmark} is made of"


def overlap(folder: Path, ids: Sequence[str], questions: Sequence[str], bases: Sequence[str] = ()) -> Overlap | None:
    """The problems whose question the model in `folder` was trained on; None where the folder does not say.

    `bases`: the questions that the problems are variants of; one that was trained on counts as well.
    {"problems", "of", "training_questions", "ids", "bases"}. Equal questions only (case, punctuation and spaces
    aside): a reworded question is not found. Raises UserError for a damaged file.
    """
    from mft_cli.data.questions import known, read_questions

    digests = None if folder == Path() else read_questions(folder)  # an endpoint has no folder
    if digests is None:
        return None
    trained_on = zip(known(questions, digests), known(bases or questions, digests), strict=True)
    hits = [id for id, hit in zip(ids, trained_on, strict=True) if any(hit)]
    return {
        "problems": len(hits), "of": len(ids), "training_questions": len(digests), "ids": hits, "bases": bool(bases),
    }  # fmt: skip


def reason(declared: str | None, measured: Overlap | None) -> str | None:
    """What metrics.json calls `contaminated`: the declared reason, the measured one, or both; None for neither."""
    parts = [declared] if declared else []
    if measured and measured["problems"]:
        share = 100 * measured["problems"] / measured["of"]
        what = "questions or the base problems that they vary" if measured.get("bases") else "questions"
        parts.append(f"the model was trained on {measured['problems']} of the {measured['of']} {what} ({share:.1f} %)")
    return "; ".join(parts) or None


def split_accuracy(metrics: Metrics, scores: Sequence[JsonObject]) -> None:
    """Adds to metrics["overlap"] the accuracy on the problems that were trained on, and on the rest with an interval."""
    measured = metrics.get("overlap")
    if not measured or not measured["problems"]:
        return
    trained = set(measured["ids"])
    shares: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
    for score in scores:
        shares[score["id"] in trained].setdefault(score["id"], []).append(float(score["correct"]))
    means = {side: [sum(s) / len(s) for s in by_problem.values()] for side, by_problem in shares.items()}
    hit, rest = means[True], means[False]
    measured["accuracy_trained_on"] = sum(hit) / len(hit) if hit else None
    measured["accuracy_rest"] = sum(rest) / len(rest) if rest else None
    single = all(value in (0.0, 1.0) for value in rest)
    if rest:
        measured["interval_rest"] = list(
            intervals.wilson(int(sum(rest)), len(rest)) if single else intervals.bootstrap_mean(rest)
        )
