"""Noise at chosen inputs in the place of a mask token, and NEFTune: what needs the model.

`corrupt` marks a batch: where noise goes, and one draw for each position. The forward pass makes all the rest out of
these draws, so no layout of rows changes it. Noise enters at the output of the model's input embedding module. The module
is called and its weight never read: ZeRO-3 makes the weight whole for the call, and peft's wrapper takes part in it.
Formulas and how they differ from the published code: docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from mft_cli.config.schema.methods import MaskedThoughtConfig
from mft_cli.data.pack import Batch, taken, true_at
from mft_cli.methods.base import Corrupted, Inputs, label_count, model_inputs
from mft_cli.methods.cost import ExtraPass
from mft_cli.methods.masked_thought import MaskedThought
from mft_cli.models.kernels.cross_entropy import block_rows, hidden_states, logits_below, with_head
from mft_cli.models.vocabulary import embedding_rows
from mft_cli.rng import Draw, spread

AT, DRAWS = "noise_at", "noise_draws"  # in Batch.extra, [R, T]
WHERE, LENGTHS = "noise_where", "noise_lengths"  # the N marked positions, see `true_at`; tokens of their examples


def marks(batch: Batch, at: Tensor, stream: str, draw: Draw) -> dict[str, Tensor]:
    """For Batch.extra: noise goes where `at`, bool [R, T], and every position has a draw."""
    where = true_at(at)
    draws = draw(stream, batch.epoch, batch.example, batch.positions)
    return {AT: at, DRAWS: draws, WHERE: where, LENGTHS: taken(example_lengths(batch), where)}


def is_marked(batch: Batch) -> bool:
    return AT in batch.extra


class NoisyThought(MaskedThought):
    """masked_thought with another noise than the mask token at the chosen positions: ids stay, the forward pass changes."""

    marked_as = "noise in the input, still trained on"

    def prepare(self, tokenizer: PreTrainedTokenizerFast) -> list[str]:
        self.tokenizer_size = len(tokenizer)
        return []

    def adapt(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
        return model

    def facts(self) -> list[str]:
        return [describe(self.config)]

    def most_new_tokens(self) -> int:
        return 0

    def extra_passes(self, label_share: float, ratios: Sequence[float | None]) -> tuple[ExtraPass, ...]:
        products = head_products(self.config)
        if not products:
            return ()
        share = self.mean_share(label_share, ratios)
        return (ExtraPass(f"clean pass (noise={self.config.noise})", products, share),)

    def mean_share(self, label_share: float, ratios: Sequence[float | None]) -> float:
        """Mean over the run of the share of all tokens that are chosen. Of sources with ratios of their own: the largest."""
        c = self.config
        ratio = max(c.mask_ratio if r is None else r for r in ratios)
        means = {"linear": 1 - c.warmup_fraction / 2, "uniform": 0.5, "late": 1 - c.warmup_fraction}
        mean = means.get(c.schedule, 1.0)  # of falling too, while twice the ratio is below 1
        return ratio * mean * {"response": label_share, "prompt": 1 - label_share}.get(c.target, 1.0)

    def corrupt(self, batch: Batch, progress: float, draw: Draw) -> Corrupted:
        """Marks the batch where the forward pass puts the noise."""
        chosen, candidates = self.choose(batch, progress, draw)
        every = self.config.noise == "neftune" and self.config.neftune_tokens == "all"
        at = batch.real if every else chosen
        marked = replace(batch, extra=marks(batch, at, "masked_thought.noise", draw))
        counts = {"ce": label_count(batch)}
        if every:  # nothing is chosen that could be counted or shown
            return Corrupted(marked, counts)
        return Corrupted(marked, counts, {"masked_share": (int(chosen.sum()), int(candidates.sum()))}, noisy=chosen)

    def inputs(self, model: nn.Module, batch: Batch) -> Inputs:
        return noisy_inputs(model, batch, self.config, self.tokenizer_size) if is_marked(batch) else model_inputs(batch)


def describe(c: MaskedThoughtConfig) -> str:
    """A line on what becomes of chosen inputs."""
    others = {"expected": "the mean embedding under the model's prediction", "sample": "a token that the model samples"}
    return {
        "dropout": f"{c.dropout_rate:g} of a chosen embedding's numbers set to 0",
        "neftune": f"NEFTune with alpha {c.neftune_alpha:g} on the embeddings of {c.neftune_tokens} tokens",
        "model_sample": f"a chosen input becomes a token that the model samples there (temperature {c.temperature:g})",
        "mixup": f"a chosen embedding is {1 - c.mixup_share:g} x its own + {c.mixup_share:g} x "
        f"{others.get(c.mixup_with, 'that of a random token')}",
    }[c.noise] + "; no mask token"


def head_products(c: MaskedThoughtConfig) -> int:
    """Products of the head's size for a chosen position, made after a forward pass over the clean rows; 0: no such pass.

    One for the logits, one more for the mean embedding under them.
    """
    if c.noise == "model_sample":
        return 1
    return {"expected": 2, "sample": 1}.get(c.mixup_with, 0) if c.noise == "mixup" else 0


def noisy_inputs(model: nn.Module, batch: Batch, c: MaskedThoughtConfig, vocabulary: int) -> Inputs:
    """Keyword arguments of the forward pass of a marked batch. `vocabulary`: ids that a token may be drawn from."""
    where = batch.extra[WHERE]
    draws, vocabulary = taken(batch.extra[DRAWS], where), min(vocabulary, embedding_rows(model))
    if c.noise == "neftune":
        return neftune_inputs(model, batch, c.neftune_alpha)
    if c.noise == "dropout":
        return changed_embeddings(model, batch, lambda embedded: dropout(embedded, draws, c.dropout_rate))
    if c.noise == "mixup":
        other = other_embeddings(model, batch, draws, c, vocabulary)
        return changed_embeddings(model, batch, lambda embedded: (1 - c.mixup_share) * embedded + c.mixup_share * other)
    ids = sample(model, predicting(model, batch), draws, vocabulary, c.temperature)
    return model_inputs(replace(batch, input_ids=with_values(batch.input_ids, where, ids)))


def changed_embeddings(model: nn.Module, batch: Batch, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The forward pass's arguments with `change` (of [N, D]) applied to the N marked positions' embeddings."""
    embedded = embeddings(model, batch.input_ids)
    where = batch.extra[WHERE]
    changed = with_values(embedded, where, change(taken(embedded, where)))
    inputs = {**model_inputs(batch), "inputs_embeds": changed}
    del inputs["input_ids"]
    return inputs


def with_values(tensor: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """`tensor` [R, T, ...] with `values` [N, ...] at N of its positions."""
    return tensor.flatten(0, 1).index_put((where,), values).view_as(tensor)


def embeddings(model: nn.Module, ids: Tensor) -> Tensor:
    """[..., D], as the model's body would look them up."""
    embedded: Tensor = model.get_input_embeddings()(ids)  # type: ignore[operator]
    return embedded


# ---- the formulas ---------------------------------------------------------------------------------------------------


def dropout(embedded: Tensor, draws: Tensor, rate: float) -> Tensor:
    """Every number of `embedded` [N, D] is 0 with probability `rate`, else divided by 1 - rate; in steps of 1 / 65,536."""
    limit = round(rate * 65536)
    if limit == 65536:
        return torch.zeros_like(embedded)
    drop = spread(draws, embedded.shape[-1], torch.int16) < limit - 32768
    return (embedded * (65536 / (65536 - limit))).masked_fill(drop, 0)


def neftune_inputs(model: nn.Module, batch: Batch, alpha: float) -> Inputs:
    """NEFTune (arXiv 2310.05914) at the marked positions."""
    draws, lengths = taken(batch.extra[DRAWS], batch.extra[WHERE]), batch.extra[LENGTHS]

    def noisy(embedded: Tensor) -> Tensor:
        return embedded + neftune(draws, lengths, embedded.shape[-1], alpha).to(embedded)

    return changed_embeddings(model, batch, noisy)


def neftune(draws: Tensor, lengths: Tensor, width: int, alpha: float) -> Tensor:
    """fp32 noise [N, width], uniform in [-1, 1] times alpha / sqrt(length x width); `lengths` [N] in tokens."""
    unit = (spread(draws, width, torch.int32).to(torch.float32) + 0.5) / 2**31
    return unit * (alpha / (lengths * width).to(torch.float32).sqrt())[:, None]


def example_lengths(batch: Batch) -> Tensor:
    """Tokens of the example that each position stands in, int64 [R, T]."""
    rows = [torch.tensor(row).repeat_interleave(torch.tensor(row)) for row in batch.lengths]
    return torch.stack(rows)


def other_embeddings(model: nn.Module, batch: Batch, draws: Tensor, c: MaskedThoughtConfig, vocabulary: int) -> Tensor:
    """What is mixed into the marked positions' embeddings, [N, D]."""
    if c.mixup_with == "random":
        return embeddings(model, draws % vocabulary)
    hidden = predicting(model, batch)
    if c.mixup_with == "sample":
        return embeddings(model, sample(model, hidden, draws, vocabulary, c.temperature))
    return expected(model, hidden, vocabulary, c.temperature)


# ---- what the model predicts ----------------------------------------------------------------------------------------


@torch.no_grad()
def predicting(model: nn.Module, batch: Batch) -> Tensor:
    """Hidden states [N, D] from which the clean model predicts the marked positions: those of the positions before.

    Every rank makes this pass, also for a batch without marks: ZeRO-3's collectives are counted.
    """
    hidden = hidden_states(model, **model_inputs(batch))
    return taken(hidden, batch.extra[WHERE] - 1)  # an example's first position is never marked


def sample(model: nn.Module, hidden: Tensor, draws: Tensor, vocabulary: int, temperature: float) -> Tensor:
    """Ids [N] drawn from softmax(logits / temperature) over the first `vocabulary` ids."""
    drawn: Tensor = with_head(model, _sample, model, hidden, draws, vocabulary, temperature)
    return drawn


@torch.no_grad()
def _sample(model: nn.Module, hidden: Tensor, draws: Tensor, vocabulary: int, temperature: float) -> Tensor:
    rows = block_rows(hidden.device, vocabulary)
    parts = zip(hidden.split(rows), draws.split(rows), strict=True)
    return torch.cat(
        [race(logits_below(model, part, vocabulary) / temperature, part_draws) for part, part_draws in parts]
    )


def race(logits: Tensor, draws: Tensor) -> Tensor:
    """Ids [n] drawn from softmax(logits [n, V]) by one exponential clock a token: the first to ring wins.

    Unlike a search in the cumulated distribution, rounding moves the outcome only where two clocks all but tie.
    """
    unit = ((spread(draws, logits.shape[-1], torch.int32) & 0x7FFFFFFF).to(torch.float32) + 0.5) / 2**31  # never 0
    return (logits - torch.log(-torch.log1p(-unit))).argmax(-1)


@torch.no_grad()
def expected(model: nn.Module, hidden: Tensor, vocabulary: int, temperature: float) -> Tensor:
    """sum over tokens of probability x embedding, [N, D], a constant: its gradient would keep N x V probabilities."""
    table = embeddings(model, torch.arange(vocabulary, device=hidden.device))
    mean: Tensor = with_head(model, _expected, model, hidden, table, temperature)
    return mean


def _expected(model: nn.Module, hidden: Tensor, table: Tensor, temperature: float) -> Tensor:
    rows = block_rows(hidden.device, len(table))
    parts = (logits_below(model, part, len(table)) / temperature for part in hidden.split(rows))
    return torch.cat([torch.softmax(logits, -1).to(table.dtype) @ table for logits in parts])
