"""Rows to tokenized examples: in blocks, with many rows in several processes."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields

import numpy as np
from jinja2 import TemplateError

from mft_cli.config.schema.inputs import SourceConfig
from mft_cli.console import StepProgress
from mft_cli.data.examples import BY_TOKEN, Examples
from mft_cli.data.prompts import Piece, Renderer, Segment, UnsafeText
from mft_cli.data.questions import digests_of
from mft_cli.data.sources import Row
from mft_cli.errors import UserError

BLOCK = 1024  # rows that the tokenizer gets at once
ROWS_A_PROCESS = 8192  # fewer are not worth the start of a process


@dataclass
class Block:
    """Tokenized rows, their questions' digests, and the rows that could not be encoded with the reason."""

    ids: np.ndarray  # int64, each example's row
    keys: np.ndarray  # bytes
    lengths: np.ndarray  # int64
    labels: np.ndarray  # int64
    highest: np.ndarray  # int64
    tokens: np.ndarray  # the rest as in Examples
    loss_mask: np.ndarray
    lines: np.ndarray
    spans: np.ndarray
    asked_ids: np.ndarray  # int64 [K], the row of each question
    asked_digests: np.ndarray  # uint64 [K]
    bad: list[str] = field(default_factory=list)


ARRAYS = tuple(f.name for f in fields(Block) if f.name != "bad")


def encode_rows(name: str, source: SourceConfig, rows: list[Row], renderer: Renderer, on_bad_row: str) -> Block:
    """Tokenized rows. Raises UserError for a row that cannot be encoded, or leaves it out, by `on_bad_row`."""
    blocks: list[Block] = []
    progress = StepProgress(f"{name}: tokenized rows", 0, len(rows))
    for number, block in enumerate(encoded_blocks(Work(source, rows, renderer)), 1):
        if block.bad and on_bad_row == "error":
            raise UserError(f"{block.bad[0]}; correct the row, or set data.on_bad_row=drop to leave such rows out")
        blocks.append(block)
        progress.update(min(number * BLOCK, len(rows) - 1))
    progress.close()
    bad = [reason for block in blocks for reason in block.bad]
    if not any(len(block.ids) for block in blocks):
        raise UserError(f"no usable row of {len(rows)} (first: {bad[0]})")
    return Block(**{n: np.concatenate([getattr(b, n) for b in blocks]) for n in ARRAYS}, bad=bad)


@dataclass
class Work:
    """What a process needs to encode rows."""

    source: SourceConfig
    rows: list[Row]
    renderer: Renderer

    def block(self, start: int) -> Block:
        return encode_block(self.source, self.rows[start : start + BLOCK], self.renderer)


def encoded_blocks(work: Work) -> Iterator[Block]:
    """The blocks of all rows in their order; many rows are shared among forked processes, which inherit them."""
    starts = range(0, len(work.rows), BLOCK)
    processes = min(len(os.sched_getaffinity(0)), len(work.rows) // ROWS_A_PROCESS)
    if processes < 2:
        yield from map(work.block, starts)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, inherit, (work,)) as pool:
        yield from pool.map(inherited_block, starts)


inherited: list[Work] = []


def inherit(work: Work) -> None:
    """In a forked process: what it works on. The tokenizer's own threads would wait for those of its parent."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    inherited[:] = [work]


def inherited_block(start: int) -> Block:
    return inherited[0].block(start)


def encode_block(source: SourceConfig, rows: list[Row], renderer: Renderer) -> Block:
    """The rows, tokenized together."""
    usable, segments, bad = [], [], []
    for row in rows:
        try:
            examples = examples_of(source, row, renderer)
            for example in examples:
                check_spans(example, row.spans)
        except (UnsafeText, ValueError, TemplateError) as problem:
            bad.append(f"{row.key}: {problem}")
            continue
        segments += examples
        usable += [row] * len(examples)
    return to_arrays(source, usable, renderer.tokenized(segments), bad)


def examples_of(source: SourceConfig, row: Row, renderer: Renderer) -> list[list[Segment]]:
    """The segments of a row's examples: one, and more where a conversation's answers cannot stand in one text."""
    if row.messages is not None:
        return renderer.conversation(row.messages, source.loss_on, row.tools)
    if source.layout == "text":
        return [renderer.plain(row.response)]
    return [renderer.segments(row.question, row.response, row.answer, row.system, row.choices)]


def to_arrays(source: SourceConfig, rows: list[Row], pieces: list[list[Piece]], bad: list[str]) -> Block:
    everything, span_names = source.loss_on == "everything", tuple(source.spans)
    flat = [piece for row_pieces in pieces for piece in row_pieces]
    sizes = [len(piece.ids) for piece in flat]
    tokens = np.fromiter(itertools.chain.from_iterable(p.ids for p in flat), dtype=np.int32, count=sum(sizes))
    loss_mask = np.repeat(np.array([piece.loss_mask or everything for piece in flat], dtype=bool), sizes)
    lengths = np.array([sum(len(p.ids) for p in row_pieces) for row_pieces in pieces], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    in_loss = np.add.reduceat(loss_mask, starts, dtype=np.int64) if rows else np.zeros(0, np.int64)
    asked_ids, asked_digests = digests_of(rows)
    return Block(
        ids=np.array([row.id for row in rows], dtype=np.int64),
        keys=np.array([row.key.encode("utf-8", "surrogateescape") for row in rows], dtype=bytes),
        lengths=lengths,
        labels=in_loss - loss_mask[starts],
        highest=(np.maximum.reduceat(tokens, starts) if rows else tokens).astype(np.int64),
        tokens=tokens,
        loss_mask=loss_mask,
        lines=joined([lines for row_pieces in pieces for lines in line_numbers(row_pieces)], np.int32),
        spans=span_bits(rows, pieces, span_names) if span_names else np.zeros(len(tokens), dtype=np.uint8),
        asked_ids=asked_ids,
        asked_digests=asked_digests,
        bad=bad,
    )


def joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


def to_examples(block: Block, source: SourceConfig) -> Examples:
    """A source's examples, in the block's own arrays (mapped ones stay mapped)."""
    ratio = math.nan if source.mask_ratio is None else source.mask_ratio
    same = {n: getattr(block, n) for n in ("ids", "keys", "lengths", "labels", "highest", *BY_TOKEN)}
    return Examples(
        **same, starts=np.cumsum(block.lengths) - block.lengths, ratio=np.full(len(block.ids), ratio, np.float32),
        span_names=tuple(source.spans),
    )  # fmt: skip


# ---- lines and named spans ------------------------------------------------------------------------------------------


def line_numbers(pieces: list[Piece]) -> Iterator[np.ndarray]:
    """Of each piece the line of every token, counted over the row's responses; -1 outside."""
    first = 0
    for piece in pieces:
        result = np.full(len(piece.ids), -1, dtype=np.int32)
        if piece.loss_mask and piece.offsets is not None:
            breaks = [m.start() for m in re.finditer("\n", piece.text)]
            starts = np.fromiter((s for s, _ in piece.offsets), dtype=np.int64, count=len(piece.offsets))
            result[: len(starts)] = first + np.searchsorted(np.array(breaks, dtype=np.int64), starts, side="left")
            # the end token ends the last line
            result[len(starts) :] = result[len(starts) - 1] if len(starts) else first
            first += len(breaks) + 1
        yield result


def span_range(text: str, pattern: str) -> tuple[int, int] | None:
    """Characters of a span: a /regex/'s first group (or whole match), or the place of a literal text."""
    if pattern.startswith("/"):
        match = re.search(pattern.strip("/"), text, re.DOTALL)
        return match.span(1 if match.re.groups else 0) if match else None
    at = text.find(pattern.strip())
    return (at, at + len(pattern.strip())) if at >= 0 else None


def check_spans(segments: list[Segment], spans: dict[str, str]) -> None:
    """Every named span must lie in a response, and a literal one only once. Raises ValueError."""
    texts = [s.text for s in segments if s.loss_mask]
    for name, pattern in spans.items():
        if not any(span_range(t, pattern) for t in texts):
            raise ValueError(f"the span {name!r} is not in the response")
        if not pattern.startswith("/") and sum(t.count(pattern.strip()) for t in texts) > 1:
            raise ValueError(f"the span {name!r} is in the response more than once")


def span_bits(rows: list[Row], pieces: list[list[Piece]], names: tuple[str, ...]) -> np.ndarray:
    """One bit a named span: tokens that lie wholly inside its characters (by the tokenizer's offsets)."""
    bits = [
        piece_bits(piece, row.spans, names)
        for row, row_pieces in zip(rows, pieces, strict=True)
        for piece in row_pieces
    ]
    return joined(bits, np.uint8)


def piece_bits(piece: Piece, spans: dict[str, str], names: tuple[str, ...]) -> np.ndarray:
    bits = np.zeros(len(piece.ids), dtype=np.uint8)
    if not piece.loss_mask or piece.offsets is None:
        return bits
    for i, name in enumerate(names):
        span = span_range(piece.text, spans[name])
        if span:
            inside = [s >= span[0] and e <= span[1] and e > s for s, e in piece.offsets]
            bits[: len(inside)] |= np.array(inside, dtype=np.uint8) << i
    return bits
