"""Rows of one source, whatever it is: a hub data set, a local jsonl / json / csv / parquet file, or a generator."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mft_cli.config.schema.inputs import SourceConfig, expand
from mft_cli.data.conversations import Turn, conversation, tools_of, tools_of_turns
from mft_cli.data.files import BadRow, HugeInteger, Raw, downloaded, is_url, local_files, local_hint, read_files
from mft_cli.data.generated import generate
from mft_cli.data.layouts import resolve
from mft_cli.data.multiple_choice import read_choices
from mft_cli.errors import UserError, first_line
from mft_cli.files import digest_of, file_digest
from mft_cli.rng import digest64

ADVICE = "correct the row, or set data.on_bad_row=drop to leave such rows out"


@dataclass
class Row:
    """One row: a question with its response, a conversation (`messages`), or with neither question nor messages plain text."""

    id: int  # 64-bit digest of source and position in it: what random draws are keyed by
    key: str  # where it stands: file:line
    question: str = ""
    response: str = ""
    answer: str | None = None  # of a multiple-choice row the letter
    choices: dict[str, str] = field(default_factory=dict)  # letter -> option, in the order shown
    system: str | None = None
    rewritten: bool = False  # whether `rewrite` changed the response
    messages: list[Turn] | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)  # of a conversation, in OpenAI's form
    spans: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def characters(self) -> int:
        """Length of what becomes tokens, without prompt and template."""
        turns = sum(len(str(turn.get("content"))) for turn in self.messages or [])
        return len(self.question) + len(self.response) + turns


@dataclass
class Rows:
    """A source's rows, and what was left out."""

    rows: list[Row]
    location: str
    digest: str
    source: SourceConfig  # with the layout that was detected, where it was auto
    form: str = ""  # the sentence on what was detected
    read: int = 0
    bad: list[str] = field(default_factory=list)
    filtered: int = 0
    repeated: int = 0
    rewritten: int = 0

    def summary(self) -> str:
        parts = [f"{len(self.rows):,} rows from {self.location}"]
        if self.filtered:
            parts.append(f"{self.filtered:,} left out by keep_if")
        if self.repeated:
            parts.append(f"{self.repeated:,} repetitions left out by unique")
        if self.rewritten:
            parts.append(f"{self.rewritten:,} responses changed by rewrite")
        if self.bad:
            parts.append(f"{len(self.bad):,} bad rows dropped (first: {self.bad[0]})")
        return ", ".join(parts)


def load_rows(source: SourceConfig, *, name: str, seed: int, on_bad_row: str = "error", advice: str = ADVICE) -> Rows:
    """Read, check, filter and draw the rows of a source.

    Raises UserError for a missing file or, with on_bad_row="error", the first bad row (file and line named, `advice` given).
    """
    result, raw = open_rows(source, name)
    return read_opened(result, raw, name=name, seed=seed, on_bad_row=on_bad_row, advice=advice)


def read_opened(result: Rows, raw: Raw, *, name: str, seed: int, on_bad_row: str, advice: str = ADVICE) -> Rows:
    """Fills what `open_rows` opened. Raises UserError as `load_rows`."""
    source, seen = result.source, set[str]()
    for index, key, values in raw:
        result.read += 1
        try:
            if isinstance(values, BadRow):
                raise values
            if not keep(source, values, key):
                result.filtered += 1
                continue
            if source.unique is not None and is_known(laid_out(get(values, source.unique, key)), seen):
                result.repeated += 1
                continue
            result.rows.append(make_row(source, values, digest64(name, index), key))
            result.rewritten += result.rows[-1].rewritten
        except BadRow as problem:
            if on_bad_row == "error":
                raise UserError(f"{problem}; {advice}") from None
            result.bad.append(str(problem))
    if not result.rows:
        raise UserError(f"{result.location}: no usable row of {result.read} read ({result.summary()})")
    result.rows = draw_rows(source, result.rows, name, seed)
    return result


def open_rows(source: SourceConfig, name: str) -> tuple[Rows, Raw]:
    """(no rows yet, what is read): the source's layout is detected where it is auto. Raises UserError."""
    location, digest, raw = open_source(source)
    form = ""
    if source.layout == "auto":
        first, raw = peek(raw)
        source, form = resolve(source, name, first)
    return Rows([], location, digest, source, form), raw


def peek(raw: Raw) -> tuple[list[tuple[int, str, Any]], Raw]:
    """(the rows up to the first that can be read, all rows)."""
    first = []
    for item in raw:
        first.append(item)
        if not isinstance(item[2], BadRow):
            break
    return first, itertools.chain(first, raw)


def is_known(value: str, seen: set[str]) -> bool:
    """Whether a value was there before; notes it."""
    known = value in seen
    seen.add(value)
    return known


def draw_rows(source: SourceConfig, rows: list[Row], name: str, seed: int) -> list[Row]:
    """`fraction`, then `rows`, by a seeded draw in the file's order. A smaller share is a subset of a larger."""
    count = max(1, round(source.fraction * len(rows)))
    if source.rows is not None:
        if source.rows > len(rows):
            raise UserError(
                f"source {name}: rows={source.rows}, but only {len(rows)} are there; set rows lower or to null"
            )
        count = min(count, source.rows)
    if count == len(rows):
        return rows
    ranked = sorted(range(len(rows)), key=lambda i: digest64("rows", seed, rows[i].id))
    return [rows[i] for i in sorted(ranked[:count])]


# ---- reading --------------------------------------------------------------------------------------------------------


def open_source(source: SourceConfig) -> tuple[str, str, Raw]:
    """(where, digest, rows) of a source. The digest is the file's sha256, or a digest of what names the rows."""
    if source.path.startswith("generated:"):
        made = generate(source.path, source.split, source.rows, source.options)
        digest = digest_of([source.path, source.split, source.rows, source.options])
        return f"{source.path} ({source.split})", digest, ((i, f"{source.path}:{i}", v) for i, v in enumerate(made))
    files = local_files(source)
    if files is None and is_url(source.path):
        files = downloaded(source)
    if files is not None:
        return " + ".join(map(str, files)), files_digest(files), read_files(files, source.format)
    return open_hub(source)


def files_digest(files: list[Path]) -> str:
    """sha256 of a file; of several, a digest of theirs."""
    digests = [file_digest(file) for file in files]
    return digests[0] if len(files) == 1 else digest_of(digests)


def local_digest(source: SourceConfig) -> tuple[str, str] | None:
    """(where, digest) of a source that lies in local files now, as `load_rows` gives them; None for others."""
    files = None if source.path.startswith("generated:") else local_files(source)
    return None if files is None else (" + ".join(map(str, files)), files_digest(files))


def open_hub(source: SourceConfig) -> tuple[str, str, Raw]:
    """A hub data set (or a local folder in the hub's layout), through the datasets library."""
    from datasets import concatenate_datasets, load_dataset

    location = source.path + (f"/{source.name}" if source.name else "") + f":{source.split}"
    try:
        parts = [
            load_dataset(source.path, name, split=source.split, revision=source.revision)
            for name in (expand(source.name) if source.name else [None])
        ]
        rows = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    except Exception as error:  # the library raises many kinds for offline, missing, gated and misnamed
        raise UserError(
            f"{location}: cannot be loaded ({first_line(error)}); check the name and the network{local_hint(source)}"
        ) from None
    digest = digest_of([source.path, source.name, source.split, source.revision, getattr(rows, "_fingerprint", "")])
    return location, digest, ((i, f"{location}[{i}]", values) for i, values in enumerate(rows))


# ---- one row --------------------------------------------------------------------------------------------------------


def get(values: dict[str, Any], path: str, location: str) -> Any:
    """A field; dots reach into objects and lists, `a|b` is the first that exists. Raises BadRow with those there are."""
    for option in [path] if path in values else path.split("|"):
        value: Any = values
        for part in [option] if option in values else option.split("."):
            if isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            elif isinstance(value, dict) and part in value:
                value = value[part]
            else:
                break
        else:
            return value
    raise BadRow(f"{location}: no field {path!r}; fields: {', '.join(map(str, values))}")


def text(values: dict[str, Any], path: str, location: str, *, empty: bool = False) -> str:
    """A field's text; `a+b` joins fields that are not empty with a blank line. Numbers become text.

    A path with braces is a text with fields in it: `{Body} {Question}`; a list there is a line an item, a list of lists
    a table.
    """
    if "{" in path:
        joined = re.sub(r"\{([^{}]+)\}", lambda match: laid_out(get(values, match[1], location)), path)
    else:
        parts = [get(values, p, location) for p in path.split("+")]
        for part in parts:
            if isinstance(part, HugeInteger):
                raise BadRow(f"{location}: field {path!r} is an integer of {len(part):,} digits, expected text")
            if not isinstance(part, (str, int, float)) and part is not None:
                raise BadRow(f"{location}: field {path!r} is {type(part).__name__}, expected text")
        joined = "\n\n".join(str(part) for part in parts if not is_missing(part))
    if not joined.strip() and not empty:
        raise BadRow(f"{location}: field {path!r} is empty")
    try:
        joined.encode()
    except UnicodeEncodeError:  # surrogates
        raise BadRow(f"{location}: field {path!r} is not valid UTF-8") from None
    return joined


def is_missing(value: Any) -> bool:
    """Nothing, an empty text, or a number that is none (NaN, infinity: how tables write a missing value)."""
    return value in (None, "") or (isinstance(value, float) and not math.isfinite(value))


def laid_out(value: Any) -> str:
    """A value as text: a list's items on lines, an inner list's cells between bars."""
    if isinstance(value, list):
        return "\n".join(
            " | ".join(map(laid_out, item)) if isinstance(item, list) else laid_out(item) for item in value
        )
    return "" if is_missing(value) else str(value).strip()


def keep(source: SourceConfig, values: dict[str, Any], location: str) -> bool:
    """Whether a row passes keep_if; text such as "True" in a CSV counts as its value, /text/ is searched for."""
    return all(same(get(values, k, location), expected) for k, expected in source.keep_if.items())


def same(value: Any, expected: Any) -> bool:
    if isinstance(expected, str) and len(expected) > 2 and expected.startswith("/") and expected.endswith("/"):
        return re.search(expected[1:-1], laid_out(value)) is not None
    return value == expected or (isinstance(value, str) and value.strip().lower() == str(expected).lower())


def make_row(source: SourceConfig, values: dict[str, Any], id: int, location: str) -> Row:
    row = Row(id, location, meta=values)
    if source.layout == "text":
        row.response = text(values, source.response or "text", location)
        return row
    if source.layout == "prompt_completion":
        row.messages = conversation(
            get(values, source.question, location), f"{location}: field {source.question!r}", ends=False
        )
        response = get(values, source.response or "completion", location)
        row.messages += conversation(response, f"{location}: field {source.response!r}")
        row.tools = read_tools(source, values, get(values, source.question, location), location)
        return row
    if source.layout != "question_response":
        turns = get(values, source.messages, location)
        row.messages = conversation(
            turns, f"{location}: field {source.messages!r}", split=source.layout == "text_turns"
        )
        row.tools = read_tools(source, values, turns, location)
        return row
    row.question = without(source.remove_question, text(values, source.question, location))
    given = without(source.remove, text(values, source.response, location)) if source.response else ""
    row.response = rewritten(source.rewrite, given)
    row.rewritten = row.response != given
    if source.choices:
        answer = get(values, source.answer, location) if source.answer else None
        options = [get(values, field, location) for field in source.choices]
        row.choices, row.answer = read_choices(options, answer, source.choices_seed, row.question, location)
    elif source.answer:
        row.answer = without(source.remove_answer, text(values, source.answer, location))
    row.system = text(values, source.system, location, empty=True) or None if source.system else None
    row.spans = {n: p if p.startswith("/") else text(values, p, location) for n, p in source.spans.items()}
    return row


def read_tools(source: SourceConfig, values: dict[str, Any], turns: Any, location: str) -> list[dict[str, Any]]:
    """A conversation's tools; only a field that the user has named must be there."""
    if source.tools is None:
        return []
    usual = source.tools == SourceConfig().tools and not any(name in values for name in source.tools.split("|"))
    value = tools_of_turns(turns) if usual else get(values, source.tools, location)
    return tools_of(value, f"{location}: field {source.tools!r}")


def without(pattern: str | None, text: str) -> str:
    """The text without what a pattern finds."""
    return text if pattern is None else re.sub(pattern, "", text)


def rewritten(rules: dict[str, str], text: str) -> str:
    """The text after each pattern's matches have been replaced, one pattern after the other."""
    for pattern, replacement in rules.items():
        text = re.sub(pattern, replacement, text)
    return text


def all_derived_from(sources: Iterable[SourceConfig]) -> list[str]:
    """Benchmarks that any of the sources contains or was made from."""
    return sorted({tag for source in sources for tag in source.derived_from})
