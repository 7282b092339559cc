"""Tokenized examples as flat arrays, which may be mapped from files: choosing, cutting and joining move no token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

BY_TOKEN = ("tokens", "loss_mask", "lines", "spans")
BY_EXAMPLE = ("ids", "starts", "lengths", "labels", "highest", "ratio", "keys")


@dataclass
class Examples:
    """N tokenized examples in arrays of T tokens; example i is at `place(i)`. Tokens of no example may lie between them."""

    ids: np.ndarray  # int64 [N], 64-bit digest of source and row
    starts: np.ndarray  # int64 [N], position of the first token
    lengths: np.ndarray  # int64 [N]
    labels: np.ndarray  # int64 [N], tokens in the loss but for a first token, which nothing predicts
    highest: np.ndarray  # int64 [N], the largest token id
    ratio: np.ndarray  # float32 [N], the source's own mask_ratio; NaN: the method's
    keys: np.ndarray  # bytes [N], UTF-8: where each row stands, file:line
    tokens: np.ndarray  # int32 [T]
    loss_mask: np.ndarray  # bool [T], response tokens
    lines: np.ndarray  # int32 [T], line of the response that a token starts in; -1 outside
    spans: np.ndarray  # uint8 [T], one bit for each name in span_names
    span_names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        ids: np.ndarray,
        lengths: Sequence[int] | np.ndarray,
        tokens: np.ndarray,
        loss_mask: np.ndarray,
        **more: Any,
    ) -> Examples:
        """Examples that lie one behind the other; `more` names other fields, which are nothing where it does not."""
        sizes, n = np.asarray(lengths, dtype=np.int64), len(ids)
        starts = np.cumsum(sizes) - sizes
        places = [slice(s, s + size) for s, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
        fields = {
            "labels": np.array([loss_mask[place][1:].sum() for place in places], dtype=np.int64),
            "highest": np.array([tokens[place].max() for place in places], dtype=np.int64),
            "ratio": np.full(n, np.nan, np.float32), "keys": np.full(n, b""),
            "lines": np.full(len(tokens), -1, np.int32), "spans": np.zeros(len(tokens), np.uint8), **more,
        }  # fmt: skip
        return cls(ids=ids, starts=starts, lengths=sizes, tokens=tokens, loss_mask=loss_mask, **fields)

    def __len__(self) -> int:
        return len(self.ids)

    def place(self, i: int) -> slice:
        """Where example i is in the arrays of tokens."""
        start = int(self.starts[i])
        return slice(start, start + int(self.lengths[i]))

    def key(self, i: int) -> str:
        """Where the row of example i stands: file:line."""
        return bytes(self.keys[i]).decode("utf-8", "surrogateescape")

    def flat(self, name: str) -> np.ndarray:
        """An array of tokens with those of the examples alone, one behind the other: a copy."""
        array = getattr(self, name)
        return np.concatenate([array[:0], *(array[self.place(i)] for i in range(len(self)))])

    def take(self, chosen: np.ndarray) -> Examples:
        """The examples at these positions, in this order."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in BY_EXAMPLE})

    def truncated(self, limit: int) -> Examples:
        """Every example's first `limit` tokens."""
        cut = replace(
            self, lengths=np.minimum(self.lengths, limit), labels=self.labels.copy(), highest=self.highest.copy()
        )
        for i in np.flatnonzero(self.lengths > limit):
            here = cut.place(i)
            cut.labels[i] = int(self.loss_mask[here][1:].sum())
            cut.highest[i] = self.tokens[here].max()
        return cut


def concatenate(parts: Sequence[Examples], tokens: dict[str, np.ndarray] | None = None) -> Examples:
    """Several sources' examples as one. `tokens` are their `joined_tokens`, where these are somewhere already."""
    if len(parts) == 1:
        return parts[0]
    before = np.cumsum([0] + [len(p.tokens) for p in parts])
    joined = {n: np.concatenate([getattr(p, n) for p in parts]) for n in BY_EXAMPLE if n != "starts"}
    joined["starts"] = np.concatenate([p.starts + b for p, b in zip(parts, before, strict=False)])
    return Examples(**joined, **(tokens or joined_tokens(parts)), span_names=all_span_names(parts))


def joined_tokens(parts: Sequence[Examples]) -> dict[str, np.ndarray]:
    """The arrays of tokens of several sources, one behind the other."""
    joined = {n: np.concatenate([getattr(p, n) for p in parts]) for n in BY_TOKEN if n != "spans"}
    names = all_span_names(parts)
    return joined | {"spans": np.concatenate([renumber(p.spans, p.span_names, names) for p in parts])}


def all_span_names(parts: Sequence[Examples]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in part.span_names))


def renumber(bits: np.ndarray, old: tuple[str, ...], new: tuple[str, ...]) -> np.ndarray:
    """Bits of named spans, numbered as in `new` instead of as in `old`."""
    result = np.zeros_like(bits)
    for i, name in enumerate(old):
        result |= ((bits >> i) & 1) << new.index(name)
    return result
