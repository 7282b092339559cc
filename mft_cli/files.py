"""Files that are whole or not there: atomic writes, digests, locks, the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mft_cli.errors import UserError


def flush_folder(folder: Path) -> None:
    """A rename is on the disk only once the folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(folder: Path) -> None:
    """Renamed first: a kill in the middle of removing leaves nothing that looks like a checkpoint."""
    doomed = folder.with_name(f".old-{folder.name}-{os.getpid()}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def cache_folder() -> Path:
    """MFT_CACHE_DIR, else the user's cache folder."""
    named = os.environ.get("MFT_CACHE_DIR")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mft"


def write_atomically(path: Path, text: str) -> None:
    """Write beside, flush to the disk, rename: a reader or a kill sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to dotted keys; lists stay whole, empty dictionaries stay visible."""
    if isinstance(value, dict) and value:
        flat: dict[str, Any] = {}
        for name, inner in value.items():
            flat.update(flatten(inner, f"{prefix}.{name}" if prefix else str(name)))
        return flat
    return {prefix: value} if prefix else {}


def digest_of(value: Any) -> str:
    """Hex digest of a JSON-like value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """The folder is this process's; raises UserError(refusal) while another one has it. A dead one's lock is free."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115  closed below
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: a file stands where this folder is to be; move it, or choose another one") from None
    except OSError as error:
        raise UserError(
            f"{folder}: the folder cannot be made or written ({error.strerror}); name another one with run_dir="
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(refusal) from None
        yield
