"""Rows of one source, whatever it is: a hub data set, a local jsonl / json / csv / parquet file, or a generator."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mft_cli.data.generated import generate
from mft_cli.errors import UserError
from mft_cli.rng import digest64
from mft_cli.run_dir import digest_of, file_digest
from mft_cli.schema import SourceConfig

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
FORMATS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass
class Row:
    """One row: a question with its response, or a conversation (`messages`, each {"role", "content"})."""

    id: int  # 64-bit digest of source and position in it: what random draws are keyed by
    key: str  # where it stands: file:line
    question: str = ""
    response: str = ""
    answer: str | None = None
    system: str | None = None
    messages: list[dict[str, str]] | None = None
    spans: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class Rows:
    """A source's rows, and what was left out."""

    rows: list[Row]
    where: str
    digest: str
    read: int = 0
    bad: list[str] = field(default_factory=list)
    filtered: int = 0

    def summary(self) -> str:
        parts = [f"{len(self.rows):,} rows from {self.where}"]
        if self.filtered:
            parts.append(f"{self.filtered:,} left out by keep_if")
        if self.bad:
            parts.append(f"{len(self.bad):,} bad rows dropped (first: {self.bad[0]})")
        return ", ".join(parts)


class BadRow(ValueError):
    """A row that cannot be used; the text says where and why."""


def load_rows(source: SourceConfig, *, name: str, seed: int, on_bad_row: str = "error") -> Rows:
    """Read, check, filter and draw the rows of a source.

    Raises UserError for a missing file or, with on_bad_row="error", the first bad row (file and line named).
    """
    where, digest, raw = open_source(source)
    result = Rows([], where, digest)
    for index, key, values in raw:
        result.read += 1
        try:
            if isinstance(values, BadRow):
                raise values
            if not keep(source, values, key):
                result.filtered += 1
                continue
            result.rows.append(make_row(source, values, digest64(name, index), key))
        except BadRow as problem:
            if on_bad_row == "error":
                raise UserError(
                    f"{problem}; mend the row, or set data.on_bad_row=drop to leave such rows out"
                ) from None
            result.bad.append(str(problem))
    if not result.rows:
        raise UserError(f"{result.where}: no usable row of {result.read} read ({result.summary()})")
    result.rows = draw_rows(source, result.rows, name, seed)
    return result


def draw_rows(source: SourceConfig, rows: list[Row], name: str, seed: int) -> list[Row]:
    """`fraction`, then `rows`, by a seeded draw in the file's order. A smaller share is a subset of a larger."""
    wanted = max(1, round(source.fraction * len(rows)))
    if source.rows is not None:
        if source.rows > len(rows):
            raise UserError(
                f"source {name}: rows={source.rows}, but only {len(rows)} are there; set rows lower or to null"
            )
        wanted = min(wanted, source.rows)
    if wanted == len(rows):
        return rows
    ranked = sorted(range(len(rows)), key=lambda i: digest64("rows", seed, rows[i].id))
    return [rows[i] for i in sorted(ranked[:wanted])]


# ---- reading --------------------------------------------------------------------------------------------------------

Raw = Iterator[tuple[int, str, Any]]  # index, where, values or a BadRow


def open_source(source: SourceConfig) -> tuple[str, str, Raw]:
    """(where, digest, rows) of a source. The digest is the file's sha256, or a digest of what names the rows."""
    if source.path.startswith("generated:"):
        made = generate(source.path, source.split, source.rows, source.options)
        digest = digest_of([source.path, source.split, source.rows, source.options])
        return f"{source.path} ({source.split})", digest, ((i, f"{source.path}:{i}", v) for i, v in enumerate(made))
    file = local_file(source)
    if file is not None:
        kind = source.format if source.format != "auto" else FORMATS.get(file.suffix, "")
        if kind not in READERS:
            raise UserError(f"{file}: cannot tell the format from the name; set format to jsonl, json, csv or parquet")
        return str(file), file_digest(file), READERS[kind](file)
    return open_hub(source)


def local_file(source: SourceConfig) -> Path | None:
    """A file named by `path`, or the first of `local` under MFT_DATA_DIR; null: the hub. Raises UserError."""
    path = Path(source.path).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return None  # a folder in the hub's layout: the datasets library reads it
    if path.suffix in FORMATS or source.path.startswith(("/", "./", "../", "~")):
        raise UserError(f"{source.path}: no such file")
    folder = os.environ.get("MFT_DATA_DIR")
    if folder:
        if not Path(folder).is_dir():
            raise UserError(f"MFT_DATA_DIR={folder}: no such folder")
        for candidate in source.local:
            if (Path(folder) / candidate).is_file():
                return Path(folder) / candidate
    return None


def readable(reader: Callable[[Path], Raw]) -> Callable[[Path], Raw]:
    """A reader whose file as a whole may be unreadable: wrong encoding, broken parquet. Names the file."""

    def read(file: Path) -> Raw:
        try:
            yield from reader(file)
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{file}: cannot be read as {file.suffix.lstrip('.')} in UTF-8 ({error})") from None
        except Exception as error:
            if type(error).__module__.startswith("pyarrow"):
                raise UserError(f"{file}: no readable parquet file ({first_line(error)})") from None
            raise

    return read


def read_jsonl(file: Path) -> Raw:
    with open(file, encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, f"{file}:{number}", parse_object(line, f"{file}:{number}")


def parse_object(line: str, where: str) -> dict[str, Any] | BadRow:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return BadRow(f"{where}: invalid JSON ({error.msg} at column {error.colno})")
    return (
        value if isinstance(value, dict) else BadRow(f"{where}: expected a JSON object, found {type(value).__name__}")
    )


def read_json(file: Path) -> Raw:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: invalid JSON ({error})") from None
    if not isinstance(values, list):
        raise UserError(f"{file}: expected a JSON list of objects, found {type(values).__name__}")
    for index, value in enumerate(values):
        where = f"{file}: item {index}"
        yield index, where, value if isinstance(value, dict) else BadRow(f"{where}: expected an object")


def read_csv(file: Path) -> Raw:
    csv.field_size_limit(1 << 30)
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        for values in reader:
            where = f"{file}:{reader.line_num}"
            torn = None in values or None in values.values()
            yield reader.line_num, where, BadRow(f"{where}: wrong number of columns") if torn else values


def read_parquet(file: Path) -> Raw:
    import pyarrow.parquet as parquet

    index = 0
    for batch in parquet.ParquetFile(file).iter_batches():
        for values in batch.to_pylist():
            yield index, f"{file}: row {index}", values
            index += 1


READERS = {"jsonl": read_jsonl, "json": read_json, "csv": readable(read_csv), "parquet": readable(read_parquet)}


def open_hub(source: SourceConfig) -> tuple[str, str, Raw]:
    """A hub data set (or a local folder in the hub's layout), through the datasets library."""
    from datasets import load_dataset

    where = source.path + (f"/{source.name}" if source.name else "") + f":{source.split}"
    try:
        rows = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # the library raises many kinds for offline, missing, gated and misnamed
        hint = f", or put {' or '.join(source.local)} under the folder that MFT_DATA_DIR names" if source.local else ""
        raise UserError(
            f"{where}: cannot be loaded ({first_line(error)}); check the name and the network{hint}"
        ) from None
    digest = digest_of([source.path, source.name, source.split, source.revision, getattr(rows, "_fingerprint", "")])
    return where, digest, ((i, f"{where}[{i}]", values) for i, values in enumerate(rows))


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


# ---- one row --------------------------------------------------------------------------------------------------------


def get(values: dict[str, Any], path: str, where: str) -> Any:
    """A field; dots reach into objects and lists. Raises BadRow with the fields that exist."""
    found: Any = values
    for part in [path] if path in values else path.split("."):
        if isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
            continue
        if not isinstance(found, dict) or part not in found:
            raise BadRow(f"{where}: no field {path!r}; fields: {', '.join(map(str, values))}")
        found = found[part]
    return found


def text(values: dict[str, Any], path: str, where: str, *, empty: bool = False) -> str:
    """A field's text; `a+b` joins fields that are not empty with a blank line. Numbers become text."""
    parts = [get(values, p, where) for p in path.split("+")]
    for part in parts:
        if not isinstance(part, (str, int, float)) and part is not None:
            raise BadRow(f"{where}: field {path!r} is {type(part).__name__}, expected text")
    joined = "\n\n".join(str(part) for part in parts if part not in (None, ""))
    if not joined.strip() and not empty:
        raise BadRow(f"{where}: field {path!r} is empty")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in joined):
        raise BadRow(f"{where}: field {path!r} is not valid UTF-8")
    return joined


def keep(source: SourceConfig, values: dict[str, Any], where: str) -> bool:
    """Whether a row passes keep_if; text such as "True" in a CSV counts as its value."""
    return all(same(get(values, k, where), wanted) for k, wanted in source.keep_if.items())


def same(found: Any, wanted: Any) -> bool:
    return found == wanted or (isinstance(found, str) and found.strip().lower() == str(wanted).lower())


def make_row(source: SourceConfig, values: dict[str, Any], id: int, where: str) -> Row:
    row = Row(id, where, meta=values)
    if source.layout != "question_response":
        row.messages = conversation(source, values, where)
        return row
    row.question = text(values, source.question, where)
    row.response = text(values, source.response, where)
    if source.remove is not None:
        row.response = re.sub(source.remove, "", row.response)
    row.answer = text(values, source.answer, where) if source.answer else None
    row.system = text(values, source.system, where, empty=True) or None if source.system else None
    row.spans = {n: p if p.startswith("/") else text(values, p, where) for n, p in source.spans.items()}
    return row


def conversation(source: SourceConfig, values: dict[str, Any], where: str) -> list[dict[str, str]]:
    """`messages` ({"role", "content"}) or ShareGPT ({"from", "value"}) turns, checked: it must end with an answer."""
    turns = get(values, source.messages, where)
    if source.layout == "text_turns" and isinstance(turns, str):
        turns = split_turns(turns)
    if not isinstance(turns, list):
        raise BadRow(f"{where}: field {source.messages!r} is {type(turns).__name__}, expected a list of turns")
    role, content = ("from", "value") if source.layout == "sharegpt" else ("role", "content")
    result = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get(content), str) or turn.get(role) not in SHAREGPT_ROLES:
            raise BadRow(
                f"{where}: a turn needs {role!r} (one of {', '.join(SHAREGPT_ROLES)}) and the text {content!r}"
            )
        result.append({"role": SHAREGPT_ROLES[turn[role]], "content": turn[content]})
    while result and result[-1]["role"] != "assistant":
        result.pop()  # a last question without an answer teaches nothing
    if not any(t["role"] == "assistant" and t["content"].strip() for t in result):
        raise BadRow(f"{where}: no assistant turn with text")
    return result


def split_turns(text: str) -> list[dict[str, str]]:
    """One text of "### Human: ..." and "### Assistant: ..." turns (Guanaco's form) as messages."""
    parts = re.split(r"### (Human|Assistant):", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[r], "content": c.strip()} for r, c in zip(parts[1::2], parts[2::2], strict=True)]


def all_derived_from(sources: Iterable[SourceConfig]) -> list[str]:
    """Benchmarks that any of the sources contains or was made from."""
    return sorted({tag for source in sources for tag in source.derived_from})
