"""Rows to tokenized examples, kept as flat arrays that are mapped from a cache file rather than loaded.

The cache's key covers the tokenizer's bytes, the prompt, the source and its file's digest, the limits and this code.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

from mft_cli.config.schema.inputs import DataConfig, SourceConfig
from mft_cli.data.prompts import Piece, Renderer, UnsafeText
from mft_cli.data.sources import Row, Rows
from mft_cli.errors import UserError
from mft_cli.files import cache_folder, digest_of, file_digest, read_object, replacing, write_json

DIGESTS = "digests.json"  # of the cache's other files
ARRAYS = ("ids", "offsets", "tokens", "loss_mask", "lines", "spans", "ratio")
BLOCK = 512  # rows tokenized at once


@dataclass
class Examples:
    """N tokenized examples of T tokens in all. Token arrays are indexed by offsets[i] .. offsets[i + 1]."""

    ids: np.ndarray  # int64 [N], 64-bit digest of source and row
    offsets: np.ndarray  # int64 [N + 1]
    tokens: np.ndarray  # int32 [T]
    loss_mask: np.ndarray  # bool [T], response tokens
    lines: np.ndarray  # int32 [T], line of the response that a token starts in; -1 outside
    spans: np.ndarray  # uint8 [T], one bit for each name in span_names
    ratio: np.ndarray  # float32 [N], the source's own mask_ratio; NaN: the method's
    keys: list[str]  # where each row stands: file:line
    span_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def label_counts(self) -> np.ndarray:
        """Labels of each example: its tokens in the loss but for a first token, which nothing predicts."""
        sums = np.concatenate([[0], np.cumsum(self.loss_mask, dtype=np.int64)])
        starts = self.offsets[:-1]
        return sums[self.offsets[1:]] - sums[starts] - self.loss_mask[np.minimum(starts, len(self.loss_mask) - 1)]

    def take(self, chosen: np.ndarray) -> Examples:
        """The examples at these positions, in this order."""
        lengths = self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = np.repeat(self.offsets[:-1][chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
        per_token = {n: getattr(self, n)[flat] for n in ("tokens", "loss_mask", "lines", "spans")}
        keys = [self.keys[i] for i in chosen]
        return replace(self, ids=self.ids[chosen], offsets=offsets, ratio=self.ratio[chosen], keys=keys, **per_token)


def concatenate(parts: Sequence[Examples]) -> Examples:
    """Several sources' examples as one."""
    if len(parts) == 1:
        return parts[0]
    span_names = tuple(dict.fromkeys(n for p in parts for n in p.span_names))
    starts = np.cumsum([0] + [int(p.offsets[-1]) for p in parts])
    offsets = np.concatenate([p.offsets[:-1] + s for p, s in zip(parts, starts, strict=False)] + [starts[-1:]])
    arrays = {n: np.concatenate([getattr(p, n) for p in parts]) for n in ARRAYS if n not in ("offsets", "spans")}
    spans = np.concatenate([renumber(p.spans, p.span_names, span_names) for p in parts])
    return Examples(
        **arrays, offsets=offsets, spans=spans, keys=[k for p in parts for k in p.keys], span_names=span_names
    )


def renumber(bits: np.ndarray, old: tuple[str, ...], new: tuple[str, ...]) -> np.ndarray:
    result = np.zeros_like(bits)
    for i, name in enumerate(old):
        result |= ((bits >> i) & 1) << new.index(name)
    return result


# ---- one source -----------------------------------------------------------------------------------------------------


def encode_source(
    name: str, source: SourceConfig, rows: Rows, renderer: Renderer, data: DataConfig
) -> tuple[Examples, list[str]]:
    """Tokenized examples of a source and the lines to print. Raises UserError by data.on_long and data.on_bad_row."""
    key = cache_key(name, source, rows, renderer, data)
    folder = cache_folder() / "tokenized" / key
    examples = read_cache(folder) if data.cache else None
    lines = [f"{name}: {rows.summary()}"]
    if examples is None:
        examples, bad = encode_rows(source, rows.rows, renderer, data.on_bad_row)
        if bad:
            lines.append(f"{name}: {len(bad):,} rows dropped in tokenization (first: {bad[0]})")
        if data.cache:
            write_cache(folder, examples)
    examples, notes = limit_length(name, examples, data)
    labels = int(examples.label_counts().sum())
    size = f"{len(examples):,} examples, {int(examples.offsets[-1]):,} tokens, {labels:,} label tokens"
    return examples, [*lines, *notes, f"{name}: {size}, longest {int(examples.lengths.max())} (cache {key})"]


def encode_rows(
    source: SourceConfig, rows: list[Row], renderer: Renderer, on_bad_row: str
) -> tuple[Examples, list[str]]:
    """Tokenize rows. A row that cannot be encoded is an error or is left out, by on_bad_row."""
    bad: list[str] = []
    columns: dict[str, list[Any]] = {n: [] for n in ("ids", "keys", "lengths", *ARRAYS[2:6])}
    span_names = tuple(source.spans)
    for row, result in pieces_of(source, rows, renderer):
        if isinstance(result, str):
            if on_bad_row == "error":
                raise UserError(
                    f"{row.key}: {result}; mend the row, or set data.on_bad_row=drop to leave such rows out"
                )
            bad.append(f"{row.key}: {result}")
            continue
        columns["ids"].append(row.id)
        columns["keys"].append(row.key)
        columns["lengths"].append(sum(len(p.ids) for p in result))
        line = 0
        for piece in result:
            columns["tokens"].append(np.array(piece.ids, dtype=np.int32))
            columns["loss_mask"].append(np.full(len(piece.ids), piece.loss_mask))
            lines, line = line_numbers(piece, line)
            columns["lines"].append(lines)
            columns["spans"].append(span_bits(piece, row.spans, span_names))
    if not columns["ids"]:
        raise UserError(f"no usable row of {len(rows)} (first: {bad[0]})")
    examples = Examples(
        ids=np.array(columns["ids"], dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(columns["lengths"])]).astype(np.int64),
        tokens=np.concatenate(columns["tokens"]),
        loss_mask=np.concatenate(columns["loss_mask"]),
        lines=np.concatenate(columns["lines"]),
        spans=np.concatenate(columns["spans"]),
        ratio=np.full(len(columns["ids"]), math.nan if source.mask_ratio is None else source.mask_ratio, np.float32),
        keys=columns["keys"],
        span_names=span_names,
    )
    return examples, bad


def pieces_of(source: SourceConfig, rows: list[Row], renderer: Renderer) -> Iterator[tuple[Row, list[Piece] | str]]:
    """Each row with its pieces, or with the reason why it has none."""
    for start in range(0, len(rows), BLOCK):
        for row in rows[start : start + BLOCK]:
            try:
                pieces = (
                    renderer.conversation(row.messages, source.loss_on)
                    if row.messages is not None
                    else renderer.plain(row.response)
                    if source.layout == "text"
                    else renderer.pieces(row.question, row.response, row.answer, row.system, row.choices)
                )
                check_spans(pieces, row.spans)
                yield row, pieces
            except (UnsafeText, ValueError, TemplateError) as problem:
                yield row, str(problem)


def line_numbers(piece: Piece, first: int) -> tuple[np.ndarray, int]:
    """Line of every token of a piece in the loss, counted on from `first`, and the next piece's first line."""
    result = np.full(len(piece.ids), -1, dtype=np.int32)
    if not piece.loss_mask or piece.offsets is None:
        return result, first
    breaks = np.array([m.start() for m in re.finditer("\n", piece.text)], dtype=np.int64)
    starts = np.array([s for s, _ in piece.offsets], dtype=np.int64)
    result[: len(starts)] = first + np.searchsorted(breaks, starts, side="left")
    result[len(starts) :] = result[len(starts) - 1] if len(starts) else first  # the end token ends the last line
    return result, first + len(breaks) + 1


def span_range(text: str, pattern: str) -> tuple[int, int] | None:
    """Characters of a span: a /regex/'s first group (or whole match), or the place of a literal text."""
    if pattern.startswith("/"):
        match = re.search(pattern.strip("/"), text, re.DOTALL)
        return match.span(1 if match.re.groups else 0) if match else None
    at = text.find(pattern.strip())
    return (at, at + len(pattern.strip())) if at >= 0 else None


def check_spans(pieces: list[Piece], spans: dict[str, str]) -> None:
    """Every named span must lie in a response, and a literal one only once. Raises ValueError."""
    texts = [p.text for p in pieces if p.loss_mask]
    for name, pattern in spans.items():
        if not any(span_range(t, pattern) for t in texts):
            raise ValueError(f"the span {name!r} is not in the response")
        if not pattern.startswith("/") and sum(t.count(pattern.strip()) for t in texts) > 1:
            raise ValueError(f"the span {name!r} is in the response more than once")


def span_bits(piece: Piece, spans: dict[str, str], names: tuple[str, ...]) -> np.ndarray:
    """One bit a named span: tokens that lie wholly inside its characters (by the tokenizer's offsets)."""
    bits = np.zeros(len(piece.ids), dtype=np.uint8)
    if not piece.loss_mask or piece.offsets is None:
        return bits
    for i, name in enumerate(names):
        span = span_range(piece.text, spans[name])
        if span:
            inside = [s >= span[0] and e <= span[1] and e > s for s, e in piece.offsets]
            bits[: len(inside)] |= np.array(inside, dtype=np.uint8) << i
    return bits


# ---- limits ---------------------------------------------------------------------------------------------------------


def limit_length(name: str, examples: Examples, data: DataConfig) -> tuple[Examples, list[str]]:
    """Apply data.max_length. An example that is left without labels is always an error or a counted drop."""
    lengths, labels = examples.lengths, examples.label_counts()
    long = lengths > data.max_length
    notes = []
    if long.any():
        worst = int(np.argmax(lengths))
        if data.on_long == "error":
            raise UserError(
                f"{name}: {int(long.sum()):,} of {len(examples):,} examples are longer than data.max_length="
                f"{data.max_length} tokens (longest {int(lengths[worst])}: {examples.keys[worst]}); raise "
                f"data.max_length, or set data.on_long=drop or truncate"
            )
        if data.on_long == "drop":
            lost = int(labels[long].sum())
            examples = examples.take(np.flatnonzero(~long))
        else:
            examples = truncate(examples, data.max_length)
            lost = int(labels.sum() - examples.label_counts().sum())
        done = "dropped" if data.on_long == "drop" else "truncated"
        notes.append(
            f"{name}: {int(long.sum()):,} of {len(lengths):,} examples over {data.max_length} tokens {done}, "
            f"{lost:,} of {int(labels.sum()):,} label tokens lost"
        )
    empty = (examples.label_counts() if len(examples) else np.zeros(0)) == 0
    if empty.any():
        first = examples.keys[int(np.argmax(empty))]
        if data.on_long != "truncate":
            raise UserError(f"{name}: {int(empty.sum()):,} examples have no label token (first: {first})")
        notes.append(f"{name}: {int(empty.sum()):,} examples dropped: nothing of the response is left (first: {first})")
        examples = examples.take(np.flatnonzero(~empty))
    if not len(examples):
        raise UserError(f"{name}: no example is left; set data.max_length higher")
    return examples, notes


def truncate(examples: Examples, limit: int) -> Examples:
    keep = np.concatenate(
        [np.arange(s, min(e, s + limit)) for s, e in zip(examples.offsets, examples.offsets[1:], strict=False)]
    )
    lengths = np.minimum(examples.lengths, limit)
    per_token = {n: getattr(examples, n)[keep] for n in ("tokens", "loss_mask", "lines", "spans")}
    return replace(examples, offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), **per_token)


# ---- cache ----------------------------------------------------------------------------------------------------------


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of everything that decides ids: the fast tokenizer's own bytes, special tokens and chat template."""
    parts = [tokenizer.backend_tokenizer.to_str(), str(tokenizer.chat_template), str(tokenizer.special_tokens_map)]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def cache_key(name: str, source: SourceConfig, rows: Rows, renderer: Renderer, data: DataConfig) -> str:
    from dataclasses import asdict

    here = Path(__file__).parent
    code = [file_digest(file) for file in sorted(here.glob("*.py"))]  # all of it: what is split off later counts too
    chosen = hashlib.sha256(np.array([r.id for r in rows.rows], dtype=np.int64).tobytes()).hexdigest()
    limits = [data.max_length, data.on_long, data.on_bad_row]
    tokenizer = tokenizer_digest(renderer.tokenizer)
    return digest_of([name, asdict(source), rows.digest, chosen, asdict(renderer.prompt), tokenizer, limits, code])


def write_cache(folder: Path, examples: Examples) -> None:
    """Written beside and renamed: a kill leaves no half cache, and two runs may write the same."""
    try:
        with replacing(folder) as temporary:
            temporary.mkdir()
            for name in ARRAYS:
                np.save(temporary / f"{name}.npy", getattr(examples, name))
            (temporary / "keys.json").write_text(json.dumps([examples.keys, examples.span_names]))
            write_json(temporary / DIGESTS, {path.name: file_digest(path) for path in sorted(temporary.iterdir())})
    except OSError as error:
        if not folder.exists():
            raise UserError(
                f"{folder}: the cache cannot be written ({error}); free space or set data.cache=false"
            ) from None


def read_cache(folder: Path) -> Examples | None:
    """None where there is none, or a file of it is not as it was written: the rows are tokenized again."""
    try:
        if any(file_digest(folder / name) != digest for name, digest in read_object(folder / DIGESTS).items()):
            return None
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        keys, span_names = json.loads((folder / "keys.json").read_text())
    except (OSError, ValueError):
        return None
    return Examples(**arrays, keys=keys, span_names=tuple(span_names))
