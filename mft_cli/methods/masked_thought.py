"""Masked thought (arXiv 2403.02178): corrupt response tokens in the *input*, keep the labels.

A masked position is still trained on; only what later tokens can read of it is gone. Labels, positions and (unless
drop_attention) attention do not change. A candidate is a token of `method.target` (the response), inside `method.spans` if any
are named; each one is masked with probability p, which rises from 0 to `method.mask_ratio` in the first `warmup_fraction` of
the run (schedule=linear). To read: `corrupt`, `choose`, `probability`; what stands before them is done once.

Where `method.noise` puts something else in the mask token's place, the method is `NoisyThought` (`noise.py`), which chooses its
positions as this one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from mft_cli.config.schema.methods import MaskedThoughtConfig
from mft_cli.data.examples import Examples
from mft_cli.data.pack import Batch
from mft_cli.errors import UserError
from mft_cli.methods.base import Corrupted, Method, label_count, mask_ratios
from mft_cli.methods.collator import MethodCollator
from mft_cli.methods.mask_token import choose_mask_token
from mft_cli.methods.token_runs import covered
from mft_cli.models.vocabulary import check_has_row, embedding_rows, token_id
from mft_cli.rng import Draw, bernoulli


class MaskedThought(Method):
    """Each candidate token is corrupted with probability p = mask_ratio * min(1, progress / warmup_fraction) (schedule=linear)."""

    config: MaskedThoughtConfig
    marked_as = "masked in the input, still trained on"
    span_bits: int | None = None  # bits of Batch.spans for the named spans

    def prepare(self, tokenizer: PreTrainedTokenizerFast) -> list[str]:
        """Choose the mask token; returns it if it has to be added."""
        self.hides_positions = self.config.drop_attention
        self.tokenizer_size = len(tokenizer)  # the mask token comes after it, if it is added
        self.mask_token = choose_mask_token(tokenizer, self.config.mask_token)
        return [] if self.mask_token in tokenizer.get_vocab() else [self.mask_token]

    def adapt(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
        self.mask_id = token_id(tokenizer, self.mask_token)
        self.added = self.mask_id >= self.tokenizer_size
        self.keep_new_tokens = self.config.keep_mask_token
        if not hasattr(model, "get_input_embeddings"):  # mft data show and some collators have no model
            return model
        check_has_row(model, "method.mask_token", self.mask_token, self.mask_id)
        rows = embedding_rows(model)
        self.tokenizer_size = min(self.tokenizer_size, rows)  # random ids need rows
        if self.added and rows == self.mask_id + 1:
            # The mask token is only ever read, never predicted. Its row is the table's last, with no spare row after it: leave it
            # out of the softmax, as the export does, which does not have the token. Spare rows take part in both.
            self.vocab_size = self.mask_id
        return model

    def check(self, examples: Examples) -> None:
        """Finds the bits of the named spans in the training examples. Raises UserError for one that no source has."""
        if self.span_bits is not None:
            return  # training examples are checked first; validation examples are not corrupted
        for name in self.config.spans:
            if name not in examples.span_names:
                known = ", ".join(examples.span_names) or "none"
                raise UserError(
                    f"method.spans={self.config.spans}: no source has a span {name!r}; there are {known}; name it in "
                    f"data.sources.<name>.spans, such as {{{name}: '/[0-9]+/'}}"
                )
        self.span_bits = sum(1 << examples.span_names.index(name) for name in self.config.spans)

    def facts(self) -> list[str]:
        origin = "added" if self.added else "the tokenizer's own"
        return [f"mask token: {self.mask_token} (id {self.mask_id}, {origin})"]

    def most_new_tokens(self) -> int:
        return 1

    def corrupt(self, batch: Batch, progress: float, draw: Draw) -> Corrupted:
        chosen, candidates = self.choose(batch, progress, draw)
        replacement = torch.full_like(batch.input_ids, self.mask_id)
        if self.config.random_fraction > 0:
            kind = draw("masked_thought.random", batch.epoch, batch.example, batch.positions)
            ids = draw("masked_thought.id", batch.epoch, batch.example, batch.positions) % self.tokenizer_size
            replacement = torch.where(bernoulli(kind, self.config.random_fraction), ids, replacement)
        corrupted = replace(
            batch,
            input_ids=torch.where(chosen, replacement, batch.input_ids),
            hidden_keys=chosen if self.config.drop_attention else None,
        )
        share = (int(chosen.sum()), int(candidates.sum()))
        return Corrupted(corrupted, {"ce": label_count(batch)}, {"masked_share": share})

    def choose(self, batch: Batch, progress: float, draw: Draw) -> tuple[Tensor, Tensor]:
        """(chosen, candidates), both bool [R, T]. The first token of an example (BOS) is never a candidate."""
        c = self.config
        candidates = batch.real & (batch.positions > 0)
        if c.target == "response":
            candidates &= batch.loss_mask
        elif c.target == "prompt":
            candidates &= ~batch.loss_mask
        if c.spans:
            candidates &= (batch.spans & (self.span_bits or 0)) != 0
        p = self.probability(batch, progress, draw)
        if c.granularity == "token":
            chosen = bernoulli(draw("masked_thought", batch.epoch, batch.example, batch.positions), p)
        elif c.granularity == "step":
            # a step is a line of the text
            chosen = bernoulli(draw("masked_thought.line", batch.epoch, batch.example, batch.line), p)
        else:
            chosen = covered(batch, p, c.span_mean, draw)
        return chosen & candidates, candidates

    def probability(self, batch: Batch, progress: float, draw: Draw) -> Tensor:
        """p at every position, float64 [R, T]: a source's own mask_ratio takes precedence over the method's."""
        c = self.config
        ratio = mask_ratios(batch, c.mask_ratio)
        if c.schedule == "uniform":
            return ratio * draw.unit("masked_thought.ratio", batch.epoch, batch.example)
        if c.schedule == "falling":
            return (2 * (1 - progress) * ratio).clamp(max=1)
        if c.schedule == "late":
            return ratio * float(progress >= c.warmup_fraction)
        if c.schedule == "constant" or c.warmup_fraction == 0:
            return ratio
        assert c.schedule == "linear"
        return ratio * min(1.0, progress / c.warmup_fraction)


class MaskedThoughtCollator(MethodCollator[MaskedThoughtConfig]):
    """The inputs and labels of method=masked_thought for transformers' Trainer and TRL's SFTTrainer (docs/python.md)."""

    config_class = MaskedThoughtConfig

    def refuse(self, config: MaskedThoughtConfig) -> None:
        if config.noise != "token":
            raise UserError(
                f"method.noise={config.noise} needs the model's forward pass: use mft train, or noise=token"
            )
        if config.drop_attention:
            raise UserError("method.drop_attention=true needs mft's attention: use mft train, or leave it out")

    def row(self, item: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        cast(MaskedThought, self.method).span_bits = None  # every data set numbers its spans by itself
        lines = getattr(item.get("example"), "lines", None)
        if self.config.granularity == "step" and lines is not None and (lines < 0).all() and len(lines) > 1:
            raise UserError(
                "method.granularity=step masks whole lines, and these rows do not say where lines are: take the examples "
                "of mft_cli.load_examples, or another granularity"
            )
        return super().row(item)
