"""Digests of a model's files, and SHA256SUMS of an export: what was written, as `sha256sum -c SHA256SUMS` checks it, too."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from mft_cli.errors import UserError
from mft_cli.files import file_digest, read_json, write_atomically, write_json

DIGESTS = ".mft-digests.json"  # sha256 by file, size and time of change: hashing tens of gigabytes takes minutes
SUMS = "SHA256SUMS"
CHANGING = ("README.md",)  # the card gets scores later
LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def digest(file: Path) -> str:
    """sha256 of a file, remembered beside it as long as size and time of change stay the same."""
    store, facts = file.parent / DIGESTS, file.stat()
    known: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError):
        known = read_json(store)
    entry = known.get(file.name) if isinstance(known, dict) else None
    if isinstance(entry, list) and entry[:2] == [facts.st_size, facts.st_mtime_ns]:
        return str(entry[2])
    sha256 = file_digest(file)
    with contextlib.suppress(OSError, TypeError):  # a read-only folder only costs the hashing
        write_json(store, {**known, file.name: [facts.st_size, facts.st_mtime_ns, sha256]})
    return sha256


def write_sums(folder: Path) -> None:
    """SHA256SUMS of all files of an export, those in its subfolders, too: the last file that is written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and is_listed(path))
    lines = [f"{digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    write_atomically(folder / SUMS, "".join(lines))


def is_listed(path: Path) -> bool:
    return path.name not in (SUMS, *CHANGING) and not path.name.startswith(".")


def damage(folder: Path) -> str | None:
    """The first file that is not as it was exported, and how; None where all are, or the folder has no SHA256SUMS."""
    path = folder / SUMS
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except ValueError:
        return f"{SUMS} is damaged"
    matches = [LINE.fullmatch(line) for line in lines]
    listed = {match[2]: match[1] for match in matches if match}
    if len(listed) < max(1, len(lines)):
        return f"{SUMS} is damaged"
    for name, sha256 in listed.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if digest(file) != sha256:
            return f"{name} is not as it was exported"
    unlisted = [path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".json") and is_listed(path)]
    if added := sorted(set(unlisted) - listed.keys()):
        return f"{added[0]} is not in {SUMS}"
    return None


def check_sums(folder: Path, named: str) -> None:
    """Raises UserError for an export whose files are damaged or were changed; `named` is what the user called it."""
    if problem := damage(folder):
        raise UserError(
            f"model.path={named}: {problem}: damaged or changed; copy it again, let the training's command export it again, or "
            f"delete {SUMS} in it if the change is yours"
        )
