"""Runs of a row's text, and the token ids of each.

Segments are tokenized apart, so that a response follows exactly the ids that generation is asked with. A tokenizer that
writes a blank before every text (SentencePiece's, as Llama 2's) would write one before every segment: for such a one a row is
tokenized as a whole and cut, where the part before each response has the ids that it has alone.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Offsets = list[tuple[int, int]]  # of each token: its first character, and the one after its last


@dataclass
class Segment:
    """A run of text; `end` is the id that is written after it."""

    text: str
    loss_mask: bool = False
    end: int | None = None


@dataclass
class Piece:
    """A run of token ids; `loss_mask` marks response tokens, `text` and `offsets` are kept for responses."""

    ids: list[int]
    loss_mask: bool = False
    text: str = ""
    offsets: Offsets | None = None


def begins_with_blank(tokenizer: Any) -> bool:
    """Whether the tokenizer writes a blank before a text that has none; an endpoint's messages have no tokens."""
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    return bool(ids) and tokenizer.convert_ids_to_tokens(ids)[0].startswith(("▁", "Ġ"))


def ids_of(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Of texts at once, which is faster than one by one."""
    return [ids for ids, _ in encoded(tokenizer, texts, offsets=False)]


def encoded(tokenizer: Any, texts: Sequence[str], offsets: bool = True) -> list[tuple[list[int], Offsets]]:
    if not texts:
        return []
    only = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    result = tokenizer(list(texts), **only, return_offsets_mapping=offsets)
    return list(zip(result["input_ids"], result["offset_mapping"] if offsets else itertools.repeat([]), strict=False))


def apart(tokenizer: Any, rows: Sequence[list[Segment]]) -> list[list[Piece]]:
    """The pieces of each row's segments, each tokenized by itself."""
    contexts = iter(ids_of(tokenizer, [s.text for row in rows for s in row if not s.loss_mask]))
    responses = iter(encoded(tokenizer, [s.text for row in rows for s in row if s.loss_mask]))
    return [[piece_of(s, *(next(responses) if s.loss_mask else (next(contexts), []))) for s in row] for row in rows]


def piece_of(segment: Segment, ids: list[int], offsets: Offsets) -> Piece:
    ids = [*ids, segment.end] if segment.end is not None else list(ids)
    return Piece(ids, True, segment.text, offsets) if segment.loss_mask else Piece(ids)


def in_context(tokenizer: Any, rows: Sequence[list[Segment]]) -> list[list[Piece]]:
    """The pieces of each row's segments, cut from the ids of the whole row; apart where these cannot be cut so."""
    wholes = encoded(tokenizer, ["".join(s.text for s in row) for row in rows])
    asked = [list(before_responses(row)) for row in rows]
    alone = iter(ids_of(tokenizer, [text for texts in asked for text in texts]))
    result = []
    for row, whole, texts in zip(rows, wholes, asked, strict=True):
        pieces, expected = cut(row, *whole), list(itertools.islice(alone, len(texts)))
        fits = pieces is not None and list(ids_before_responses(pieces)) == expected
        result.append(pieces if pieces is not None and fits else apart(tokenizer, [row])[0])
    return result


def cut(segments: list[Segment], ids: list[int], offsets: Offsets) -> list[Piece] | None:
    """A row's ids as pieces; None where a token belongs to two segments."""
    result, done, start = [], 0, 0
    starts = [a for a, _ in offsets]
    for segment in segments:
        stop = start + len(segment.text)
        end = bisect_left(starts, stop, lo=done)
        if any(b > stop for _, b in offsets[done:end]):
            return None
        inside = [(max(a - start, 0), b - start) for a, b in offsets[done:end]]
        result.append(piece_of(segment, ids[done:end], inside))
        done, start = end, stop
    return result


def before_responses(segments: list[Segment]) -> Iterator[str]:
    """The text before each response."""
    text = ""
    for segment in segments:
        if segment.loss_mask:
            yield text
        text += segment.text


def ids_before_responses(pieces: list[Piece]) -> Iterator[list[int]]:
    ids: list[int] = []
    for piece in pieces:
        if piece.loss_mask:
            yield list(ids)
        ids += piece.ids
