"""Named numbers of a step or a validation, summed over micro-batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import islice

import torch
from torch import Tensor

from mft_cli.distributed.ranks import Ranks
from mft_cli.methods.base import Corrupted, Losses

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


@dataclass
class Logged:
    """What is logged of a micro-batch, as the host's numbers."""

    terms: dict[str, float]
    metrics: dict[str, tuple[float, str]]  # see Losses
    shares: dict[str, tuple[float, int]]  # see Corrupted

    def divided(self, counts: Numbers) -> Sums:
        """The sums, every one divided by the count of its term; a count may be 0, its sum is then 0, too."""
        return Sums(
            terms={n: v / max(1, counts[n]) for n, v in self.terms.items()},
            metrics={n: v / max(1, counts[term]) for n, (v, term) in self.metrics.items()},
            parts={n: part for n, (part, _) in self.shares.items()},
            wholes={n: whole for n, (_, whole) in self.shares.items()},
        )


def logged(micro_batches: list[tuple[Losses, Corrupted]]) -> list[Logged]:
    """What is logged of micro-batches. The host waits for the device once for all of them."""
    tensors = [t for losses, corrupted in micro_batches for t in tensors_of(losses, corrupted)]
    numbers = iter(read(tensors))

    def number(value: Tensor | float) -> float:
        return next(numbers)[0] if isinstance(value, Tensor) else float(value)

    rows = []
    for losses, corrupted in micro_batches:
        terms = {n: number(value) for n, value in losses.sums.items()}
        metrics = {n: (number(value), term) for n, (value, term) in losses.metrics.items()}
        shares = {n: (number(part), whole) for n, (part, whole) in corrupted.shares.items()}
        if losses.on_host is not None:
            more_terms, more_metrics = losses.on_host[1]([int(v) for v in next(numbers)])
            terms, metrics = {**terms, **more_terms}, {**metrics, **more_metrics}
        rows.append(Logged(terms, metrics, shares))
    return rows


def tensors_of(losses: Losses, corrupted: Corrupted) -> list[Tensor]:
    """In the order in which `logged` takes their numbers."""
    metrics, shares = (v for v, _ in losses.metrics.values()), (part for part, _ in corrupted.shares.values())
    values = [*losses.sums.values(), *metrics, *shares, *(losses.on_host or ())[:1]]
    return [v for v in values if isinstance(v, Tensor)]


def read(tensors: list[Tensor]) -> list[list[float]]:
    """The numbers of each, by one copy."""
    if not tensors:
        return []
    numbers = iter(torch.cat([t.detach().reshape(-1).to(torch.float64) for t in tensors]).tolist())
    return [list(islice(numbers, t.numel())) for t in tensors]


def total(micro_batches: list[Sums], ranks: Ranks) -> Sums:
    """Sums over micro-batches, rounded once, and over ranks; all of them have to call. Names come out sorted."""
    flat = [{(f.name, n): v for f in fields(Sums) for n, v in getattr(s, f.name).items()} for s in micro_batches]
    names = sorted({name for numbers in flat for name in numbers})
    sums = ranks.sum([math.fsum(float(numbers.get(name, 0)) for numbers in flat) for name in names])
    result: dict[str, dict[str, float]] = {f.name: {} for f in fields(Sums)}
    for (kind, name), value in zip(names, sums, strict=True):
        result[kind][name] = value
    return Sums(**result)
