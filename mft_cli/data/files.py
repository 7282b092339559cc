"""Files of rows: finding them (local, or downloaded once), and reading jsonl, json, csv, tsv, parquet and xml. No torch.

A name with braces stands for several files, read one after the other: `GSM-IC_{2step,mstep}.json`.
"""

from __future__ import annotations

import bz2
import csv
import functools
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import urllib.error
import urllib.request
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, TextIO

from mft_cli.config.schema.inputs import SourceConfig, expand
from mft_cli.errors import UserError, first_line
from mft_cli.files import cache_folder, write_atomically

FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".xml": "xml",
    ".txt": "text",
}  # fmt: skip
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
LONGEST_INTEGER = 4300  # digits; Python refuses to convert more
# for processes whose files another one has brought
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
Raw = Iterator[tuple[int, str, Any]]  # index, where, values or a BadRow


class BadRow(ValueError):
    """A row that cannot be used; the text says where and why."""


class HugeInteger(str):
    """The digits of an integer that is not a number that anything could be meant by: a field that holds one is a bad row."""


# ---- where they are -------------------------------------------------------------------------------------------------


def suffix(name: str | Path) -> str:
    """The ending that says what a file is: .json of rows.json and of rows.json.gz."""
    path = PurePosixPath(str(name))
    return path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix


def local_files(source: SourceConfig) -> list[Path] | None:
    """The files that `path` names, or the first of `local` under MFT_DATA_DIR; None: neither. Raises UserError."""
    paths = [Path(name).expanduser() for name in expand(source.path)]
    if all(path.is_file() for path in paths):
        return paths
    if is_url(source.path):
        return local_copy(source)
    if any(path.is_dir() for path in paths):
        return None  # a folder in the hub's layout: the datasets library reads it
    if suffix(paths[0]) in FORMATS or source.path.startswith(("/", "./", "../", "~")):
        missing = next(path for path in paths if not path.is_file())
        raise UserError(f"{missing}: no such file")
    return local_copy(source)


def local_copy(source: SourceConfig) -> list[Path] | None:
    folder = os.environ.get("MFT_DATA_DIR")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise UserError(f"MFT_DATA_DIR={folder}: no such folder")
    for candidate in source.local:
        files = [Path(folder) / name for name in expand(candidate)]
        if all(file.is_file() for file in files):
            return files
    return None


def local_hint(source: SourceConfig) -> str:
    """The end of a sentence on what cannot be fetched: where a copy would be found."""
    return f", or put {' or '.join(source.local)} under the folder that MFT_DATA_DIR names" if source.local else ""


def is_url(path: str) -> bool:
    return path.startswith(("https://", "http://"))


def download_place(url: str) -> Path:
    """Where a downloaded file is kept."""
    name = re.sub(r"[^\w.-]", "_", url.rsplit("/", 1)[-1])
    return cache_folder() / "downloads" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"


def downloaded(source: SourceConfig) -> list[Path]:
    """The files of a source whose path is an address, each downloaded once. Raises UserError."""
    return [download(url, source) for url in expand(source.path)]


def offline() -> bool:
    """Whether the user forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def download(url: str, source: SourceConfig) -> Path:
    target = download_place(url)
    if target.is_file():
        return target
    hint = local_hint(source)
    if offline():
        raise UserError(f"{url}: is not downloaded yet, and HF_HUB_OFFLINE is set; unset it{hint}")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            content = answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise UserError(f"{url}: cannot be downloaded ({error}); check the address and the network{hint}") from None
    write_atomically(target, content)
    return target


# ---- reading --------------------------------------------------------------------------------------------------------


def read_rows(file: Path, kind: str) -> Raw:
    """The rows of a file; `kind` is a format, or auto to go by the name. Raises UserError."""
    kind = kind if kind != "auto" else FORMATS.get(suffix(file), "")
    if kind not in READERS:
        raise UserError(f"{file}: cannot tell the format from the name; set format to {', '.join(READERS)}")
    return READERS[kind](file)


def read_files(files: list[Path], kind: str) -> Raw:
    """Rows of several files, one after the other; every index is a row's own."""
    if len(files) == 1:
        return read_rows(files[0], kind)
    rows = ((key, values) for file in files for _, key, values in read_rows(file, kind))
    return ((index, key, values) for index, (key, values) in enumerate(rows))


def open_text(file: Path, encoding: str = "utf-8-sig", errors: str | None = None, newline: str | None = None) -> TextIO:
    """A text file, decompressed where its name says so; a byte order mark at its start is skipped."""
    return io.TextIOWrapper(open_bytes(file), encoding=encoding, errors=errors, newline=newline)


def open_bytes(file: Path) -> IO[bytes]:
    if file.suffix == ".zst":
        import pyarrow

        return pyarrow.input_stream(str(file), compression="zstd")
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return openers.get(file.suffix, open)(file, "rb")


def readable(reader: Callable[[Path], Raw]) -> Callable[[Path], Raw]:
    """A reader whose file as a whole may be unreadable: wrong encoding, broken archive or parquet. Names the file."""

    def read(file: Path) -> Raw:
        kind = suffix(file).lstrip(".")
        try:
            yield from reader(file)
        except (UnicodeDecodeError, csv.Error, EOFError, lzma.LZMAError, xml.etree.ElementTree.ParseError) as error:
            raise UserError(f"{file}: cannot be read as {kind} in UTF-8 ({error})") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{file}: invalid JSON ({error})") from None
        except RecursionError:
            raise UserError(f"{file}: nested too deeply; write a row a line (jsonl) to find which one") from None
        except OSError as error:  # among them what gzip and bz2 say of a damaged archive
            raise UserError(f"{file}: cannot be read as {kind} ({first_line(error)})") from None
        except Exception as error:
            if type(error).__module__.startswith("pyarrow"):
                raise UserError(f"{file}: not a readable {kind} file ({first_line(error)})") from None
            raise

    return read


def read_jsonl(file: Path) -> Raw:
    with open_text(file, errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, f"{file}:{number}", parse_object(line, f"{file}:{number}")


def parse_object(line: str, location: str) -> dict[str, Any] | BadRow:
    try:
        value = parse_json(line)
    except json.JSONDecodeError as error:
        return BadRow(f"{location}: invalid JSON ({error.msg} at column {error.colno})")
    except RecursionError:
        return BadRow(f"{location}: nested too deeply")
    return as_row(value, location)


def integer(digits: str) -> int | HugeInteger:
    return int(digits) if len(digits) <= LONGEST_INTEGER else HugeInteger(digits)


JSON = json.JSONDecoder(parse_constant=lambda _: None, parse_int=integer)


def parse_json(text: str) -> Any:
    """A JSON value; NaN and Infinity, which JSON does not have, are missing values (null)."""
    return JSON.decode(text)


def as_row(value: Any, location: str) -> dict[str, Any] | BadRow:
    if isinstance(value, dict):
        return value
    return BadRow(f"{location}: expected a JSON object, found {type(value).__name__}")


def read_json(file: Path) -> Raw:
    with open_text(file) as text:
        values = parse_json(text.read())
    if not isinstance(values, list):
        raise UserError(f"{file}: expected a JSON list of objects, found {type(values).__name__}")
    for index, value in enumerate(values):
        location = f"{file}: item {index}"
        yield index, location, as_row(value, location)


def read_csv(file: Path, delimiter: str = ",") -> Raw:
    csv.field_size_limit(1 << 30)
    with open_text(file, newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter)
        for values in reader:
            location = f"{file}:{reader.line_num}"
            torn = None in values or None in values.values()
            yield reader.line_num, location, BadRow(f"{location}: wrong number of columns") if torn else values


def read_parquet(file: Path) -> Raw:
    import pyarrow.parquet as parquet

    index = 0
    for batch in parquet.ParquetFile(file).iter_batches():
        for values in batch.to_pylist():
            yield index, f"{file}: row {index}", values
            index += 1


def read_xml(file: Path) -> Raw:
    """A row for every element whose children are plain text: its attributes and its children, by name."""
    with open_text(file) as text:
        root = xml.etree.ElementTree.parse(text).getroot()
    records = (e for e in root.iter() if len(e) and not any(len(child) for child in e))
    for index, element in enumerate(records):
        values = {**element.attrib, **{child.tag: (child.text or "").strip() for child in element}}
        yield index, f"{file}: {element.tag} {index}", values


def read_text(file: Path) -> Raw:
    """One row with the whole file as `text`."""
    with open_text(file) as text:
        yield 0, str(file), {"text": text.read()}


READERS = {
    "jsonl": readable(read_jsonl), "json": readable(read_json), "csv": readable(read_csv),
    "tsv": readable(functools.partial(read_csv, delimiter="\t")), "parquet": readable(read_parquet), "xml": readable(read_xml),
    "text": readable(read_text),
}  # fmt: skip
