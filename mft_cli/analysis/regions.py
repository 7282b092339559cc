"""Which tokens of an example belong to which region of a target's context, and copies with one region corrupted.

A target is a response token at position j. Of the positions before it, `question` are those of the prompt (without the
first one and without special tokens, so that the form of the chat stays whole), `near` the last `near` response tokens,
`far` all earlier response tokens. Every choice is a draw on (seed, example, position): it is the same for every model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from mft_cli.data.examples import Examples
from mft_cli.rng import Draw

REGIONS = ("question", "near", "far")
HIDDEN, READ = 1, 2  # bits of Examples.spans: no other position sees this one; the next token's distribution is wanted


@dataclass(frozen=True)
class Corruption:
    """`share` of a region's tokens (at least one) become a draw of `ids`; with no ids they are hidden from attention."""

    near: int
    positions: int
    draws: int
    share: float
    ids: np.ndarray  # int64, possible replacements; empty: hide


@dataclass(frozen=True)
class Variant:
    """An example up to its last read target, with some tokens corrupted (none: the clean one)."""

    tokens: np.ndarray  # int32 [T]
    hidden: np.ndarray  # bool [T]
    targets: list[int]  # read at target - 1
    region: str | None = None
    corrupted: tuple[int, ...] = ()  # positions


def pick_targets(loss_mask: np.ndarray, question: np.ndarray, identity: int, how: Corruption, draw: Draw) -> list[int]:
    """Up to `how.positions` response tokens that come after all three regions, by a seeded draw; in order."""
    response = np.flatnonzero(loss_mask)
    first = int(question[0]) if len(question) else len(loss_mask)
    fit = torch.tensor([int(j) for j in response[how.near + 1 :] if j > first], dtype=torch.int64)
    return sorted(fit[lowest(draw, "analysis.target", 0, identity, fit, how.positions)].tolist())


def lowest(draw: Draw, stream: str, epoch: int, identity: int, positions: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` positions with the lowest draws."""
    draws = draw(stream, epoch, torch.full_like(positions, identity), positions)
    return torch.argsort(draws, stable=True)[:count]


def region_of(region: str, j: int, loss_mask: np.ndarray, question: np.ndarray, near: int) -> np.ndarray:
    """Positions of a region of the context of position j."""
    if region == "question":
        return question[question < j]
    response = np.flatnonzero(loss_mask[:j])
    return response[-near:] if region == "near" else response[:-near]


def variants_of(examples: Examples, i: int, special: np.ndarray, how: Corruption, draw: Draw) -> list[Variant]:
    """The clean example first, then the corrupted ones; empty if it has no target.

    Targets with the same question share one copy: what comes after a target cannot change its prediction.
    """
    here = examples.place(i)
    tokens, loss_mask, identity = (
        np.array(examples.tokens[here]),
        np.array(examples.loss_mask[here]),
        int(examples.ids[i]),
    )
    question = np.flatnonzero(~loss_mask & ~np.isin(tokens, special))
    question = question[question > 0]
    targets = pick_targets(loss_mask, question, identity, how, draw)
    if not targets:
        return []
    variants = [Variant(tokens[: targets[-1]], np.zeros(targets[-1], dtype=bool), targets)]
    for epoch in range(how.draws):
        for _, together in groupby(targets, key=lambda j: int((question < j).sum())):
            group = list(together)
            region = region_of("question", group[-1], loss_mask, question, how.near)
            variants.append(corrupt(tokens, "question", region, group, identity, epoch, how, draw))
        for name in ("near", "far"):
            for j in targets:
                region = region_of(name, j, loss_mask, question, how.near)
                variants.append(corrupt(tokens, name, region, [j], identity, epoch, how, draw))
    return variants


def corrupt(
    tokens: np.ndarray, name: str, region: np.ndarray, targets: list[int], identity: int, epoch: int,
    how: Corruption, draw: Draw,
) -> Variant:  # fmt: skip
    """Exactly max(1, round(share x size)) of the region's tokens change; the chosen sets nest while the share grows."""
    positions = torch.from_numpy(region.astype(np.int64))
    count = max(1, math.floor(how.share * len(region) + 0.5))
    chosen = positions[lowest(draw, "analysis.corrupt", epoch, identity, positions, count)].sort().values
    made, hidden = tokens[: targets[-1]].copy(), np.zeros(targets[-1], dtype=bool)
    at = chosen.numpy()
    if len(how.ids):
        picks = draw("analysis.id", epoch, torch.full_like(chosen, identity), chosen).numpy() % len(how.ids)
        new = how.ids[picks]
        new = np.where(new == made[at], how.ids[(picks + 1) % len(how.ids)], new)  # a token never replaces itself
        made[at] = new
    else:
        hidden[at] = True
    return Variant(made, hidden, targets, name, tuple(at.tolist()))


def as_examples(variants: list[Variant]) -> Examples:
    """Variants in the form that packing takes; ids are their indices, `spans` says what is hidden and read."""
    lengths = [len(v.tokens) for v in variants]
    read = [np.isin(np.arange(1, n + 1), v.targets) for v, n in zip(variants, lengths, strict=True)]
    hidden = np.concatenate([v.hidden for v in variants])
    return Examples.of(
        np.arange(len(variants)),
        lengths,
        np.concatenate([v.tokens for v in variants]).astype(np.int32),
        np.zeros(sum(lengths), dtype=bool),
        spans=(hidden * HIDDEN + np.concatenate(read) * READ).astype(np.uint8),
    )
