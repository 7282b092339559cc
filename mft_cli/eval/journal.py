"""generations.jsonl as a journal: appended while completions arrive, rewritten in canonical order at the end.

Every line carries `key`, a digest of the prompt's ids, every sampling field, the engine, the weights and the sample's
index. A line whose key is not asked for belongs to other settings and is never reused. In the file a digest of the whole
line follows the key, so that a line which was damaged is made again. Whatever the order in which completions arrived, and
however often the run was killed, the finished file is the same.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from mft_cli.errors import UserError
from mft_cli.files import JsonObject, digest_of, file_digest, read_jsonl, write_atomically

Record = JsonObject
NOTHING: Mapping[str, type] = {}
SEALED = re.compile("([0-9a-f]{16})-([0-9a-f]{16})")  # key and digest of a line


def completion_key(settings_digest: str, problem: str, sample: int, prompt: Sequence[int | str]) -> str:
    """Key of one completion (16 hex digits). `prompt`: ids or text, room and seed.

    `settings_digest` covers sampling, engine, weights and tokenizer.
    """
    return digest_of([settings_digest, problem, sample, list(prompt)])


def read_lines(path: Path, damaged: list[int] | None = None) -> tuple[list[Record], int]:
    """The file's records and the number of bytes that they take. A torn last line (a killed writer's) is left out.

    Numbers of lines in the middle that are not JSON objects, or not as they were written, are added to `damaged`; without it
    they raise UserError.
    """
    records: list[Record] = []
    for number, line, record in read_jsonl(path):
        if (whole := unsealed(record)) is not None:
            records.append(whole)
        elif not line.endswith(b"\n"):
            return records, path.stat().st_size - len(line)
        elif damaged is not None:
            damaged.append(number)
        else:
            raise UserError(
                f"{path}: line {number} is damaged or was changed; remove the line or the file and start again"
            )
    return records, path.stat().st_size if path.is_file() else 0


def sealed(record: Record) -> Record:
    """As it stands in a file: the record's digest behind its key."""
    return {**record, "key": f"{record['key']}-{digest_of(json.loads(dump(record)))}"}


def unsealed(record: Record | None) -> Record | None:
    """What was sealed; None where it is not as it was then. Lines of older versions have no digest."""
    seal = SEALED.fullmatch(str((record or {}).get("key")))
    if record is None or seal is None:
        return record
    plain = {**record, "key": seal[1]}
    return plain if digest_of(plain) == seal[2] else None


class Journal:
    """The completions of one benchmark on their way to the file. `done` maps keys to records.

    `fields`: what a record must have, and of which type; one that was damaged is made again.
    """

    def __init__(self, path: Path, keys: Sequence[str], fields: Mapping[str, type] = NOTHING):
        self.path, self.keys = path, list(keys)
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("two completions have the same key")
        damaged: list[int] = []
        records, good = read_lines(path, damaged)
        expected_keys = set(self.keys)
        asked = [r for r in records if r.get("key") in expected_keys]
        self.done = {r["key"]: r for r in asked if all(isinstance(r.get(name), kind) for name, kind in fields.items())}
        if lost := len(damaged) + len({r["key"] for r in asked}) - len(self.done):
            print(f"{path}: {lost} damaged records are made again", flush=True)
        self.foreign = len(records) - len(self.done)
        self._good_bytes = good
        self._file: IO[bytes] | None = None

    def missing(self) -> list[int]:
        """Indices into `keys` that still have to be generated."""
        return [i for i, key in enumerate(self.keys) if key not in self.done]

    def add(self, key: str, record: Record) -> None:
        """Append one completion; it survives a kill -9 from here on. A key that is there already is left as it is."""
        if key in self.done:
            return
        self.done[key] = {**record, "key": key}
        self._open().write(dump(sealed(self.done[key])).encode())
        self._open().flush()

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab")  # noqa: SIM115
            self._file.truncate(self._good_bytes)  # cuts a torn line off
            if self._good_bytes and not self._ends_with_newline():
                self._file.write(b"\n")
        return self._file

    def _ends_with_newline(self) -> bool:
        with open(self.path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def finish(self) -> str:
        """Rewrite the file whole, in the order of `keys`; returns its sha256. Raises ValueError if one is missing."""
        if self.missing():
            raise ValueError(f"{len(self.missing())} completions are missing")
        self.close()
        text = "".join(dump(sealed(self.done[key])) for key in self.keys)
        if not self.path.is_file() or self.path.read_bytes() != text.encode():
            write_atomically(self.path, text)
        return file_digest(self.path)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def dump(record: Record) -> str:
    """One line. ASCII only, so that no completion can hold a line separator or a surrogate that breaks the file."""
    return json.dumps(record, ensure_ascii=True) + "\n"
