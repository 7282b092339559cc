"""Examples for another trainer: the order in which `mft train` takes them, as items of a torch dataset.

What an item is masked with depends on its epoch and on the progress of the training, so an item carries both. Nothing has
to be told to a collator while training goes on, and workers, ranks and resumes change nothing.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset

from mft_cli.data.examples import BY_TOKEN, Examples
from mft_cli.data.pack import Order
from mft_cli.errors import UserError
from mft_cli.rng import digest64

Item = dict[str, Any]


class Ordered(Dataset[Item], ABC):
    """Items that depend on their place alone."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Item: ...

    def as_dataset(self) -> datasets.Dataset:
        """The same items as a data set of the datasets library, which TRL asks for; nothing is copied."""

        def items(columns: Mapping[str, list[int]]) -> dict[str, list[Any]]:
            rows = [self[place] for place in columns["place"]]
            return {name: [row[name] for row in rows] for name in rows[0]}

        return datasets.Dataset.from_dict({"place": range(len(self))}).with_transform(items)


class TrainingOrder(Ordered):
    """Every step of a training, laid end to end: item i belongs to optimizer step i // global_batch_size.

    A trainer that takes the items one after the other, `global_batch_size` to a step, over all ranks, makes the steps of
    `mft train` with the same seed. The last step of an epoch may have fewer examples: it is filled with blanks, one token
    without a label. `examples` are tokenized rows (see `tokenized`). Raises UserError where there is nothing to train on.
    """

    def __init__(
        self, examples: Examples | Iterable[Mapping[str, Any]], *, global_batch_size: int, epochs: float = 1.0,
        steps: int | None = None, seed: int = 1,
    ):  # fmt: skip
        self.examples = as_examples(examples)
        self.order = Order(self.examples, seed, global_batch_size)
        self.steps = math.ceil(epochs * self.order.steps_per_epoch) if steps is None else steps

    def __len__(self) -> int:
        return self.steps * self.order.global_batch_size

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a loop over the items
        step, within = divmod(int(index), self.order.global_batch_size)
        epoch, chosen = self.order.step(step)
        place = {"epoch": epoch, "progress": step / self.steps}
        item = item_of(self.examples, int(chosen[within])) if within < len(chosen) else item_of(blank(), 0)
        return {**item, **place}


class ValidationOrder(Ordered):
    """Examples to validate on, in their own order: a collator leaves them clean, as `mft train` does."""

    def __init__(self, examples: Examples | Iterable[Mapping[str, Any]]):
        self.examples = as_examples(examples)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {**item_of(self.examples, int(index)), "epoch": 0, "progress": None}


def item_of(examples: Examples, i: int) -> Item:
    """One example, by itself under the name that collators look for: a worker gets no other example's tokens."""
    place = examples.place(i)
    alone = {name: getattr(examples, name)[place] for name in BY_TOKEN}
    example = replace(examples.take(np.array([i])), starts=np.zeros(1, dtype=np.int64), **alone)
    return {"input_ids": example.tokens, "example": example}


@functools.cache
def blank() -> Examples:
    """An example of one token that has no label."""
    return tokenized([{"input_ids": [0], "completion_mask": [0]}])


def as_examples(examples: Examples | Iterable[Mapping[str, Any]]) -> Examples:
    result = examples if isinstance(examples, Examples) else tokenized(examples)
    if not len(result):
        raise UserError("no example to train on: expected at least one tokenized row")
    return result


def tokenized(rows: Iterable[Mapping[str, Any]]) -> Examples:
    """Rows that another library tokenized, as examples.

    A row has `input_ids`, and one of `completion_mask` or `assistant_masks` (1 where the loss is computed, as TRL writes
    them) or `labels` (-100 where it is not, not shifted, as transformers takes them); without any of them every token is
    trained on. `example`, an integer, says which example it is; without it equal ids are equal examples. Raises UserError.
    """
    columns: dict[str, list[Any]] = {"ids": [], "tokens": [], "loss_mask": []}
    for number, row in enumerate(rows):
        if "input_ids" not in row:
            raise UserError(f"row {number} has no input_ids (it has {', '.join(row)}): tokenize the rows first")
        ids = [int(i) for i in row["input_ids"]]
        loss_mask = loss_mask_of(row, len(ids))
        if len(loss_mask) != len(ids) or not ids:
            raise UserError(
                f"row {number} has {len(ids)} input_ids and {len(loss_mask)} entries that say where the loss is"
            )
        columns["ids"].append(int(row["example"]) if "example" in row else digest64(*ids))
        columns["tokens"].append(np.array(ids, dtype=np.int32))
        columns["loss_mask"].append(np.array(loss_mask, dtype=bool))
    return Examples.of(
        np.array(columns["ids"], dtype=np.int64), [len(tokens) for tokens in columns["tokens"]],
        np.concatenate([np.zeros(0, np.int32), *columns["tokens"]]),
        np.concatenate([np.zeros(0, bool), *columns["loss_mask"]]),
        keys=np.array([f"row {i}".encode() for i in range(len(columns["ids"]))]),
    )  # fmt: skip


def loss_mask_of(row: Mapping[str, Any], length: int) -> Sequence[bool]:
    for name in ("completion_mask", "assistant_masks"):
        if name in row:
            return [bool(v) for v in row[name]]
    return [int(v) >= 0 for v in row["labels"]] if "labels" in row else [True] * length
