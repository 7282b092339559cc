"""A method inside another trainer: a data collator that gives transformers' Trainer the inputs and labels of `mft train`.

Masks are a function of (seed, epoch, example, position), so each example is corrupted by itself, and however a trainer
lays its batches, an example gets the same masks. What a method does in its loss is not here: its class says what it refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from mft_cli.config.schema.methods import MethodConfig
from mft_cli.config.validate import build
from mft_cli.data.examples import Examples
from mft_cli.data.pack import IGNORE, make_batch
from mft_cli.errors import UserError
from mft_cli.methods import make
from mft_cli.models.vocabulary import extend_model, extend_tokenizer
from mft_cli.rng import Draw

Config = TypeVar("Config", bound=MethodConfig)


class MethodCollator(Generic[Config]):
    """Items of a `TrainingOrder` or `ValidationOrder` to a batch of tensors.

    Padded: input_ids, attention_mask and labels, int64 [R, T]. `padding_free`: input_ids, position_ids and labels [1, T],
    the examples back to back. Labels are not shifted (transformers shifts them); IGNORE = -100 is not trained on.

    New tokens that the method needs are added to `tokenizer`, and to `model`, which has to be given then.
    `keys` are the method's keys (docs/keys.md, without `method.`). Raises UserError for a wrong key.
    """

    config_class: type[Config]

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, model: nn.Module | None = None, *, seed: int = 1,
        padding_free: bool = False, **keys: object,
    ):  # fmt: skip
        self.config = build(self.config_class, keys, "method.")
        self.refuse(self.config)
        self.method = make(self.config, logits_chunk=1)  # the other trainer makes the logits
        new = self.method.prepare(tokenizer)
        if new and model is None:
            raise UserError(
                f"the tokenizer lacks {', '.join(new)}: give the model, {type(self).__name__}(tokenizer, model, ...), "
                f"so that it gets embedding rows for them"
            )
        if model is not None:
            extend_model(model, tokenizer, new)
        extend_tokenizer(tokenizer, new)
        self.method.adapt(nn.Identity() if model is None else model, tokenizer)
        pad = tokenizer.pad_token_id
        self.pad_id = pad if isinstance(pad, int) else 0
        self.draw, self.padding_free = Draw(seed), padding_free

    def refuse(self, config: Config) -> None:
        """Raises UserError for keys whose effect lies in the method's own loss or attention."""

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        rows = [self.row(item) for item in items]
        ids, labels = [row[0] for row in rows], [row[1] for row in rows]
        if self.padding_free:
            positions = torch.cat([torch.arange(len(row)) for row in ids])
            return {
                "input_ids": torch.cat(ids)[None],
                "position_ids": positions[None],
                "labels": torch.cat(labels)[None],
            }
        real = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_id),
            "attention_mask": pad_sequence(real, batch_first=True, padding_value=0),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE),
        }

    def row(self, item: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(input ids, labels) of one item, int64 [T]."""
        if "progress" not in item or not isinstance(item.get("example"), Examples):
            raise UserError(
                "an item does not say its epoch and progress, which its masks depend on: wrap the rows in "
                "mft_cli.TrainingOrder(rows, global_batch_size=..., epochs=...), those to validate on in "
                "mft_cli.ValidationOrder(rows), and set remove_unused_columns=False"
            )
        example, progress = item["example"], item["progress"]
        batch = make_batch(example, [[0]], item["epoch"], self.pad_id)
        if example.loss_mask.any():
            self.method.check(example)
        done = (
            self.method.for_validation(batch, self.draw)
            if progress is None
            else self.method.corrupt(batch, progress, self.draw)
        ).batch
        labels = torch.full_like(done.labels[0], IGNORE)
        labels[1:] = done.labels[0, :-1]
        return done.input_ids[0], labels
