"""The examples of an optimizer step laid into rows, and rows into tensors.

Which examples make up step k depends on (seed, k) alone. Rows are a matter of speed: every sum over label positions is
the same however the examples are laid out, and ranks share the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mft_cli.data.examples import Examples
from mft_cli.rng import Draw, permutation

IGNORE = -100


@dataclass
class Batch:
    """R rows of T positions. Position j predicts token j + 1 of its own example: labels are shifted already."""

    input_ids: Tensor  # int64 [R, T]
    labels: Tensor  # int64 [R, T], the token that position j has to predict, or IGNORE
    loss_mask: Tensor  # bool [R, T], the token at j is a response token
    positions: Tensor  # int64 [R, T], restarted at 0 for every example
    example: Tensor  # int64 [R, T], 64-bit id of the example at j; 0 in padding
    real: Tensor  # bool [R, T], not padding
    line: Tensor  # int64 [R, T], line of the response; -1 outside
    spans: Tensor  # uint8 [R, T], bits of named spans
    ratio: Tensor  # float32 [R, T], the source's own mask_ratio or NaN
    lengths: list[list[int]]  # of each row: its examples' lengths, and the padding's
    epoch: int = 0
    span_names: tuple[str, ...] = ()
    hidden_keys: Tensor | None = None  # bool [R, T], positions that no other position may attend to
    extra: dict[str, Tensor] = field(default_factory=dict)  # what a method hands from corrupt to loss
    _label_at: Tensor | None = field(default=None, init=False, repr=False)

    @property
    def label_at(self) -> Tensor:
        """int64 [N], see `true_at`: the positions that have a label."""
        if self._label_at is None:
            self._label_at = true_at(self.labels != IGNORE)
        return self._label_at

    def to(self, device: torch.device) -> Batch:
        """On `device`. The host does not wait for the copy, nor later for the device to say where the labels are."""
        at = self.label_at
        if self.input_ids.device == device:
            return self
        moved = replace(self, extra={name: copied(tensor, device) for name, tensor in self.extra.items()})
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), Tensor):
                setattr(moved, f.name, copied(value, device))
        moved._label_at = copied(at, device)
        return moved


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return pinned.to(device, non_blocking=True)


def true_at(chosen: Tensor) -> Tensor:
    """int64 [N], where a bool tensor of any shape is True, its elements counted in one line. A device would be waited for."""
    return chosen.flatten().nonzero()[:, 0]


def taken(values: Tensor, at: Tensor, dims: int = 2) -> Tensor:
    """The entries [N, ...] of `values` at positions [N] of its first `dims` dimensions, counted in one line."""
    return values.flatten(0, dims - 1).index_select(0, at)


@dataclass
class Order:
    """The order of examples: an argsort of draws, again each epoch. The last partial step of an epoch is kept."""

    examples: Examples
    seed: int
    global_batch_size: int
    _epoch: int = -1
    _permutation: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.examples) / self.global_batch_size)

    def step(self, k: int) -> tuple[int, np.ndarray]:
        """(epoch, example positions) of optimizer step k, counted from 0."""
        epoch, within = divmod(k, self.steps_per_epoch)
        if epoch != self._epoch:
            ids = torch.from_numpy(np.array(self.examples.ids))
            self._permutation = permutation(Draw(self.seed), "order", epoch, ids).numpy()
            self._epoch = epoch
        start = within * self.global_batch_size
        return epoch, self._permutation[start : start + self.global_batch_size]


def pack_examples(lengths: np.ndarray, row_length: int, packing: bool) -> list[list[int]]:
    """Rows as lists of indices into `lengths`: first-fit decreasing (ties by index), or one example a row."""
    if not packing:
        return [[i] for i in range(len(lengths))]
    rows: list[list[int]] = []
    space: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-int(lengths[i]), i)):
        need = int(lengths[i])
        at = next((r for r, free in enumerate(space) if free >= need), -1)
        if at < 0:
            rows.append([])
            space.append(max(row_length, need))
        rows[at].append(i)
        space[at] -= need
    return rows


def make_batch(examples: Examples, rows: list[list[int]], epoch: int, pad_id: int) -> Batch:
    """Tensors of rows of example positions, in the processor's memory.

    No row at all gives one padding position: a forward pass without labels.
    """
    widths = [sum(int(examples.lengths[i]) for i in row) for row in rows]
    shape = (max(len(rows), 1), max([*widths, 1]))
    flat = {
        "input_ids": np.full(shape, pad_id, dtype=np.int64),
        "labels": np.full(shape, IGNORE, dtype=np.int64),
        "loss_mask": np.zeros(shape, dtype=bool),
        "positions": np.zeros(shape, dtype=np.int64),
        "example": np.zeros(shape, dtype=np.int64),
        "real": np.zeros(shape, dtype=bool),
        "line": np.full(shape, -1, dtype=np.int64),
        "spans": np.zeros(shape, dtype=np.uint8),
        "ratio": np.full(shape, math.nan, dtype=np.float32),
    }
    for r, row in enumerate(rows):
        at = 0
        for i in row:
            place = examples.place(i)
            n = place.stop - place.start
            here = slice(at, at + n)
            tokens, loss_mask = examples.tokens[place], examples.loss_mask[place]
            flat["input_ids"][r, here] = tokens
            flat["labels"][r, at : at + n - 1] = np.where(loss_mask[1:], tokens[1:], IGNORE)
            flat["loss_mask"][r, here] = loss_mask
            flat["positions"][r, here] = np.arange(n)
            flat["example"][r, here] = examples.ids[i]
            flat["real"][r, here] = True
            flat["line"][r, here] = examples.lines[place]
            flat["spans"][r, here] = examples.spans[place]
            flat["ratio"][r, here] = examples.ratio[i]
            at += n
    lengths = [[int(examples.lengths[i]) for i in row] for row in rows] or [[]]
    lengths = [ns + [shape[1] - sum(ns)] * (shape[1] > sum(ns)) for ns in lengths]
    tensors: dict[str, Any] = {n: torch.from_numpy(array) for n, array in flat.items()}
    return Batch(**tensors, lengths=lengths, epoch=epoch, span_names=examples.span_names)
