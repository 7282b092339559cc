"""Files that are whole or not there: atomic writes, digests, locks, the cache folder."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mft_cli.errors import UserError

# What a disk or whoever owns it must fix, not the program.
DISK_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EPERM, errno.EACCES, errno.EROFS, errno.ENODEV,
    errno.ENXIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.EBUSY,
    errno.ELOOP, errno.EREMOTEIO, errno.ENOLCK, errno.EISDIR, errno.ENOTDIR,
}  # fmt: skip
UMASK = os.umask(0o077)  # it can only be read by being set
os.umask(UMASK)
FILE_MODE = 0o666 & ~UMASK
WRITER = f"{os.uname().nodename}-"  # with a process's number: who writes a temporary file
JsonObject = dict[str, Any]  # a parsed JSON object


def disk_problem(error: BaseException) -> str | None:
    """Such as "No space left on device"; None where no disk is at fault. safetensors tells the number in words only."""
    if "No usable temporary directory" in str(error):
        return "no folder for temporary files can be written: set TMPDIR"
    number = getattr(error, "errno", None)
    if number is None and (told := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(told[1])
    return os.strerror(number) if number in DISK_ERRORS else None


def disk_advice(error: OSError) -> str:
    """What helps against one of DISK_ERRORS."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make it readable and writable, or choose another one"
    return "free space or choose another folder"


def temporary_for(path: Path) -> Path:
    """The name next to `path` under which it is written; `remove_leftovers` knows it."""
    return path.with_name(f".{path.name}.{WRITER}{os.getpid()}.tmp")


def remove_abandoned(path: Path) -> None:
    """What killed processes of this machine left beside `path` while they wrote or replaced it; others may be writing it now."""
    name = glob.escape(path.name)
    for left in [*path.parent.glob(f".{name}.{WRITER}*.tmp"), *path.parent.glob(f".old-{name}-{WRITER}*")]:
        number = left.name.removesuffix(".tmp").rpartition("-")[2]
        if number.isdigit() and not is_alive(int(number)):
            remove(left)


def is_alive(number: int) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the name under which the block writes a file or a folder, which is then renamed to `path`.

    A reader and a kill see the old one or the new one, whole; an exception leaves the old one and removes the new.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path)
    temporary = temporary_for(path)
    remove(temporary)
    try:
        yield temporary
        put_in_place(temporary, path)
    finally:
        remove(temporary)


def put_in_place(temporary: Path, path: Path) -> None:
    """Flushes a file, or a folder and its files, and renames it to `path`, in place of what is there."""
    for written in [*temporary.rglob("*"), temporary]:
        if written.is_file() and stat.S_IMODE(written.stat().st_mode) != FILE_MODE:
            with contextlib.suppress(PermissionError):  # a file system that knows no modes
                written.chmod(FILE_MODE)  # safetensors makes files that only their owner can read
        flush(written)
    if path.is_dir() or (temporary.is_dir() and os.path.lexists(path)):
        discard(path)
    os.replace(temporary, path)
    flush(path.parent)


def flush(path: Path) -> None:
    """A file's bytes, or a folder's renames, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """A file or a folder that may be there; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def discard(path: Path) -> None:
    """A folder, or a file in its place. Renamed first: a kill in the middle of removing leaves nothing that looks like a checkpoint."""
    doomed = path.with_name(f".old-{path.name}-{WRITER}{os.getpid()}")
    os.replace(path, doomed)
    remove(doomed)


def remove_leftovers(folder: Path) -> None:
    """What killed processes left in `folder` while they wrote or removed; nobody else may be writing there now."""
    for pattern in (".*.tmp", ".old-*", ".tmp-*"):
        for path in folder.glob(pattern):
            remove(path)


def cache_folder() -> Path:
    """MFT_CACHE_DIR, else the user's cache folder."""
    named = os.environ.get("MFT_CACHE_DIR")
    return Path(named) if named else user_cache() / "mft"


def user_cache() -> Path:
    """XDG_CACHE_HOME, else ~/.cache; for a user without a home, a folder of temporary files."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    home = os.path.expanduser("~")
    return Path(tempfile.gettempdir(), f"cache-{os.getuid()}") if home == "~" else Path(home, ".cache")


def write_atomically(path: Path, content: str | bytes) -> None:
    """A text (as UTF-8) or bytes, see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: object) -> None:
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested for ever") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError, and ValueError for a damaged file."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object was expected, it holds {type(value).__name__}")
    return value


def write_sealed(path: Path, value: JsonObject) -> None:
    """A JSON object with a digest of its own."""
    write_json(path, {**value, "digest": digest_of(value)})


def read_sealed(path: Path) -> JsonObject:
    """What `write_sealed` has written; older files have no digest. Raises FileNotFoundError, and ValueError for a damaged file."""
    value = read_object(path)
    if value.pop("digest", None) not in (None, digest_of(value)):
        raise ValueError("it does not have the digest that was written")
    return value


def read_jsonl(path: Path, errors: str = "strict") -> Iterator[tuple[int, bytes, JsonObject | None]]:
    """(number from 1, line, its object or None for a damaged line) of every line that is not blank; none without a file.

    What becomes of damaged lines is the caller's. Lines end at newlines alone: U+2028 and the like may stand in JSON.
    `errors`: of decoding, "replace" reads a line whose text is no UTF-8.
    """
    if path.is_file():
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line, json_object(line, errors)


def json_object(line: bytes, errors: str = "strict") -> JsonObject | None:
    """None where `line` is no JSON object."""
    try:
        value = json.loads(line.decode("utf-8-sig", errors))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Nested dictionaries to dotted keys; lists stay whole, empty dictionaries stay visible."""
    if isinstance(value, dict) and value:
        flat: dict[str, object] = {}
        for name, inner in value.items():
            flat.update(flatten(inner, f"{prefix}.{name}" if prefix else str(name)))
        return flat
    return {prefix: value} if prefix else {}


def digest_of(value: object) -> str:
    """Hex digest of a JSON-like value, independent of the order of keys; also of texts with a lone surrogate."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """The folder is this process's; raises UserError(refusal) while another one has it. A dead one's lock is free,
    and what it left half-written is removed. Raises UserError at the end if the folder was deleted or moved meanwhile."""
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
        except OSError as error:  # some network file systems have none
            print(
                f"{folder}: its file system has no locks ({error.strerror}): let one command at a time work there",
                flush=True,
            )
        remove_leftovers(folder)
        inode = inode_of(folder)
        gone = (
            f"{folder} was deleted or moved while a command worked there; move it back and start the same command again"
        )
        try:
            yield
        except OSError:
            if inode_of(folder) != inode:
                raise UserError(gone) from None
            raise
        if inode_of(folder) != inode:
            raise UserError(f"{gone} (what came after lies in a new folder of that name)" if folder.exists() else gone)


def inode_of(folder: Path) -> int | None:
    """What tells a folder from a new one of its name; None without one."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None
