"""The fields that the report reads, and what each may hold: one wrong value costs that value, not the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

from mft_cli.files import JsonObject
from mft_cli.report.wording import is_number

Record = JsonObject
Check = Callable[[object], bool]


def text(value: object) -> bool:
    """A text."""
    return isinstance(value, str)


def whole(value: object) -> TypeGuard[int]:
    """A number of things; as large as a real one may be, since a float must hold it."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def share(value: object) -> bool:
    """A number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def number(value: object) -> bool:
    """A finite number of a size that a measurement has."""
    return is_number(value) and abs(value) < 1e300


def interval(value: object) -> bool:
    """Two finite numbers in order."""
    return isinstance(value, list) and len(value) == 2 and all(map(number, value)) and value[0] <= value[1]


def table(value: object) -> bool:
    """An object."""
    return isinstance(value, dict)


def texts(value: object) -> bool:
    """A list of texts."""
    return isinstance(value, list) and all(map(text, value))


def name(value: object) -> bool:
    """What identifies a problem."""
    return text(value) or whole(value)


def span(value: object) -> bool:
    """Two whole numbers in order: the first character, and the one after the last."""
    return isinstance(value, list) and len(value) == 2 and all(map(whole, value)) and value[0] <= value[1]


def curve(value: object) -> bool:
    """Points of two shares."""
    return isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 and all(map(share, p)) for p in value)


STATE: dict[str, Check] = {
    "state": text,
    "step": whole,
    "total_steps": whole,
    "message": text,
    "time": text,
    "seconds": number,
    "logged": table,
}
PROVENANCE: dict[str, Check] = {"started": text, "git": table, "packages": table, "hardware": table, "data": table}
METRICS: dict[str, Check] = {
    "n": whole, "samples": whole, "accuracy": share, "interval": interval, "interval_method": text, "unparsed": whole,
    "truncated": whole, "timed_out": whole, "gold_logprob": table, "contaminated": text, "warnings": texts,
    "engine": table, "seconds": table, "generations_digest": text, "scores_digest": text, "gold_digest": text,
    "model": table, "prompt_text": text,
    "failure_detection": table, "overlap": table, "scoring_version": whole,
}  # fmt: skip
GOLD: dict[str, Check] = {"mean": number, "interval": interval}
FAILURE: dict[str, Check] = {
    "n": whole, "wrong": whole, "auroc": share, "interval": interval, "threshold": number, "flagged": whole,
    "precision": share, "precision_interval": interval, "recall": share, "recall_interval": interval, "aurc": share,
    "risk": share, "risk_coverage": curve, "agreement": table, "interval_method": text, "threshold_rule": text,
}  # fmt: skip
AGREEMENT: dict[str, Check] = {
    "auroc_entropy": share, "auroc_disagreement": share, "difference": number, "interval": interval,
}  # fmt: skip
STEP: dict[str, Check] = {"step": whole}
COMPLETION: dict[str, Check] = {
    "id": name, "sample": whole, "prompt": text, "completion": text, "finish_reason": text, "completion_tokens": whole,
}  # fmt: skip
SCORE: dict[str, Check] = {"id": name, "sample": whole, "status": text, "answer_from": text, "answer_span": span}
GOLD_LINE: dict[str, Check] = {"id": name, "logprob_sum": number, "tokens": lambda value: whole(value) and value > 0}


def checked(record: Record, checks: dict[str, Check], file_name: str, notes: list[str]) -> Record:
    """The record without the fields that hold what they cannot; null counts as not there. Says so in `notes`."""
    wrong = [key for key, check in checks.items() if record.get(key) is not None and not check(record[key])]
    if wrong:
        notes.append(f"{file_name}: {', '.join(wrong)} cannot be read and is left out")
    return {
        key: value for key, value in record.items() if key not in wrong and (value is not None or key not in checks)
    }


def checked_lines(
    rows: list[Record], checks: dict[str, Check], needed: tuple[str, ...], file_name: str, notes: list[str]
) -> list[Record]:
    """The same for lines; a line without a needed field is left out, and all such lines are counted."""
    some: list[str] = []
    kept = [row for row in (checked(row, checks, file_name, some) for row in rows) if all(key in row for key in needed)]
    lost = len(rows) - len(kept)
    if lost or some:
        notes.append(f"{file_name}: fields of {max(lost, len(some))} lines cannot be read; {lost} lines are left out")
    return kept
