"""Files that a run has digests of, compared with them: a flipped bit can leave a number that is a number, too."""

from __future__ import annotations

import json
from pathlib import Path

from mft_cli.files import digest_of, file_digest
from mft_cli.report.read.fields import Record

CHANGED = "is not as it was written: damaged or changed by hand"


def seal_note(name: str, value: Record) -> list[str]:
    """Of a file that has a digest of its own (files.write_sealed), such as run.json."""
    rest = {key: inner for key, inner in value.items() if key != "digest"}
    return [] if value.get("digest") in (None, digest_of(rest)) else [f"{name} {CHANGED}"]


def file_notes(folder: Path, digests: Record) -> list[str]:
    """`digests`: file name -> sha256 of the file when it was complete."""
    return [
        f"{name} {CHANGED}" if (folder / name).is_file() else f"{name} is gone"
        for name, digest in digests.items()
        if not (folder / name).is_file() or file_digest(folder / name) != digest
    ]


def metrics_note(metrics: Record) -> list[str]:
    """Of an evaluation's metrics.json; those of before it had a digest are taken as they are."""
    return [] if metrics.get("digest") in (None, metrics_digest(metrics)) else [f"metrics.json {CHANGED}"]


def metrics_digest(metrics: Record) -> str:
    """Digest of all but the times."""
    rest = json.loads(json.dumps({k: v for k, v in metrics.items() if k != "digest"}))  # as it is read back
    return digest_of(without_times(rest))


def without_times(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {k: without_times(v) for k, v in value.items() if k != "seconds"}
