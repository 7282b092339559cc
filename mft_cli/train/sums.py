"""Named numbers of a step or a validation, summed over micro-batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from mft_cli.distributed.ranks import Ranks
from mft_cli.methods.base import Corrupted

Numbers = Mapping[str, float]


@dataclass
class Sums:
    """Sums of one micro-batch, or of all of them."""

    counts: Numbers = field(default_factory=dict)  # loss term -> how many things it is a mean over
    terms: Numbers = field(default_factory=dict)  # loss term -> its value
    metrics: Numbers = field(default_factory=dict)  # what is only logged -> its value
    parts: Numbers = field(default_factory=dict)  # share that is logged -> its numerator
    wholes: Numbers = field(default_factory=dict)  # and its denominator

    @property
    def shares(self) -> dict[str, float]:
        return {name: part / self.wholes[name] if self.wholes[name] else 0.0 for name, part in self.parts.items()}


def counted(corrupted: Corrupted) -> Sums:
    """The counts and shares of a corrupted micro-batch."""
    shares = corrupted.shares.items()
    parts, wholes = {n: part for n, (part, _) in shares}, {n: whole for n, (_, whole) in shares}
    return Sums(counts=corrupted.counts, parts=parts, wholes=wholes)


def total(micro_batches: list[Sums], ranks: Ranks) -> Sums:
    """Sums over micro-batches, rounded once, and over ranks; all of them have to call. Names come out sorted."""
    flat = [{(f.name, n): v for f in fields(Sums) for n, v in getattr(s, f.name).items()} for s in micro_batches]
    names = sorted({name for numbers in flat for name in numbers})
    sums = ranks.sum([math.fsum(float(numbers.get(name, 0)) for numbers in flat) for name in names])
    result: dict[str, dict[str, float]] = {f.name: {} for f in fields(Sums)}
    for (kind, name), value in zip(names, sums, strict=True):
        result[kind][name] = value
    return Sums(**result)
