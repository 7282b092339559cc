"""The examples of an optimizer step dealt to ranks: evenly by tokens first, then cut into micro-batches.

No number depends on it. Speed does: a step takes as long as its slowest rank.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mft_cli.config.schema.training import TrainingConfig
from mft_cli.data.pack import Order, pack_examples

Rows = list[list[int]]  # rows of indices of examples


@dataclass(frozen=True)
class Layout:
    """How rows are made, and by how many ranks they are shared."""

    row_length: int
    packing: bool
    micro_batch_size: int
    world: int = 1

    @classmethod
    def of(cls, config: TrainingConfig, max_length: int, world: int) -> Layout:
        """`max_length`: of an example, in tokens."""
        return cls(config.row_length or max(1024, max_length), config.packing, config.rows_at_once, world)


def deal(lengths: np.ndarray, layout: Layout) -> list[list[Rows]]:
    """Of every rank its micro-batches: lists of rows of indices into `lengths`.

    Every rank has the same number of them; one with nothing left has empty ones.
    """
    size = layout.micro_batch_size
    if layout.world == 1:
        rows_of = [pack_examples(lengths, layout.row_length, layout.packing)]
    else:
        rows_of = share(even_rows(lengths, layout), lengths, layout.world)
    most = max(len(rows) for rows in rows_of)
    return [[rows[i : i + size] for i in range(0, most, size)] for rows in rows_of]


def even_rows(lengths: np.ndarray, layout: Layout) -> Rows:
    """The fewest rows of equal width that every rank can have as many of; or one example a row."""
    if not layout.packing:
        return pack_examples(lengths, layout.row_length, packing=False)
    limit = max(layout.row_length, int(lengths.max(initial=0)))
    each = max(1, math.ceil(lengths.sum() / (layout.world * limit)))
    while True:
        rows = spread(lengths, each * layout.world)
        if all(width(row, lengths) <= limit for row in rows):
            return [row for row in rows if row]
        each += 1


def spread(lengths: np.ndarray, count: int) -> Rows:
    """`count` rows, some perhaps empty: the longest example first, each into the shortest row (Graham 1969)."""
    rows: Rows = [[] for _ in range(count)]
    widths = [(0, r) for r in range(count)]
    for i in np.argsort(-lengths, kind="stable").tolist():
        taken, r = widths[0]
        rows[r].append(i)
        heapq.heapreplace(widths, (taken + int(lengths[i]), r))
    return rows


def share(rows: Rows, lengths: np.ndarray, world: int) -> list[Rows]:
    """Of every rank its rows, the widest first: round by round forth and back, so that all rows of a round are alike."""
    ordered = sorted(rows, key=lambda row: -width(row, lengths))
    shares: list[Rows] = [[] for _ in range(world)]
    for r, row in enumerate(ordered):
        round_number, turn = divmod(r, world)
        shares[turn if round_number % 2 == 0 else world - 1 - turn].append(row)
    return shares


def width(row: list[int], lengths: np.ndarray) -> int:
    return int(lengths[row].sum())


def padded_size(block: Rows, lengths: np.ndarray) -> int:
    """Of a micro-batch, padding included. An empty one has a position, too."""
    return max(1, len(block)) * max([1, *(width(row, lengths) for row in block)])


@dataclass(frozen=True)
class Balance:
    """What ranks do in a step, over several steps."""

    passes: float  # micro-batches of a rank in a step, on average
    useful: float  # tokens as a share of the positions that all ranks compute or wait for
    idle: int  # ranks that have no example, in the step that has most of them


MEASURED = 50  # steps, at most


def balance_of(order: Order, layout: Layout) -> Balance:
    """Of the first epoch's first steps."""
    steps = range(min(MEASURED, order.steps_per_epoch))
    return balance((order.examples.lengths[order.step(k)[1]] for k in steps), layout)


def balance(steps: Iterable[np.ndarray], layout: Layout) -> Balance:
    """Of steps with examples of these lengths."""
    tokens = computed = passes = idle = count = 0
    for lengths in steps:
        dealt = deal(lengths, layout)
        rounds = list(zip(*dealt, strict=True))
        tokens += int(lengths.sum())
        computed += layout.world * sum(max(padded_size(block, lengths) for block in blocks) for blocks in rounds)
        idle = max(idle, sum(not any(blocks) for blocks in dealt))
        passes, count = passes + len(rounds), count + 1
    return Balance(passes / max(1, count), tokens / max(1, computed), idle)


def idle_notice(balance: Balance, layout: Layout, batch: int) -> str:
    """One line on how evenly several ranks work at `batch` examples a step."""
    line = f"{layout.world} ranks: {balance.useful:.0%} of what they compute or wait for are tokens"
    if not balance.idle:
        return line
    return (
        f"warning: {balance.idle} of {layout.world} ranks have no example in a step: train.global_batch_size={batch} "
        f"is too small for them; raise it, or start fewer ranks"
    )
