"""Masked critique: some *labels* inside a teacher's critique are dropped, the inputs stay.

A response is <think><critique>..</critique><reasoning>..</reasoning></think><ans>..</ans>, its eight tags special tokens.
Inside the spans named in `spans`, after the first `skip_first` tokens of each, a token is not trained on with probability
`mask_ratio`. Tags are never dropped: they are the format, and no part of the critique.

The format term, added with weight `beta`, is one of two. `argmax_reward`, the paper's, is 1 - (share of examples whose
text, decoded from the argmax of the teacher-forced logits, has the format): it comes out of an argmax, has no gradient,
and moves the logged loss and nothing else. `tag_likelihood` is the mean cross entropy of the tags and of all tokens
inside <ans>: it does train the format.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from mft_cli.answers.critique_format import NAMES, TAGS, has_format
from mft_cli.config.schema.methods import MaskedCritiqueConfig
from mft_cli.data.examples import Examples
from mft_cli.data.pack import IGNORE, Batch, taken, true_at
from mft_cli.errors import UserError
from mft_cli.methods.base import Corrupted, HostSums, Inputs, Losses, Method, label_count, mask_ratios, model_inputs
from mft_cli.methods.collator import MethodCollator
from mft_cli.methods.noise import is_marked, marks, neftune_inputs
from mft_cli.models.kernels.cross_entropy import head_losses, hidden_states
from mft_cli.models.vocabulary import token_id
from mft_cli.rng import Draw, bernoulli

PROMPT = -1  # in place of a document's number: a label of the prompt (loss_on=everything)


class MaskedCritique(Method):
    """Plain fine-tuning with dropped labels inside the critique, and a term for the format."""

    config: MaskedCritiqueConfig
    new_tokens = TAGS
    drops_labels = True

    def __init__(self, config: MaskedCritiqueConfig, logits_chunk: int = 1024):
        super().__init__(config, logits_chunk)
        self.weights = {"ce": 1.0, "format": config.beta}

    def prepare(self, tokenizer: PreTrainedTokenizerFast) -> list[str]:
        """The tags that the tokenizer lacks."""
        known = tokenizer.get_vocab()
        return [tag for tag in TAGS if tag not in known]

    def adapt(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
        self.tokenizer = tokenizer
        self.opens = {n: token_id(tokenizer, f"<{n}>") for n in NAMES}
        self.closes = {n: token_id(tokenizer, f"</{n}>") for n in NAMES}
        return model

    def facts(self) -> list[str]:
        term = self.config.format_term
        what = "has no gradient, the format is not trained" if term == "argmax_reward" else "trains the format"
        alpha = self.config.neftune_alpha
        noise = [f"NEFTune with alpha {alpha:g} on the embeddings of every token"] if alpha else []
        return [f"labels dropped inside {', '.join(self.config.spans)}; format term {term} ({what})", *noise]

    def check(self, examples: Examples) -> None:
        """Raises UserError if a response does not have each tag once and in order."""
        tags = [i for n in NAMES for i in (self.opens[n], self.closes[n])]
        order = [tags[k] for k in (0, 2, 3, 4, 5, 1, 6, 7)]
        is_tag = np.isin(examples.tokens, tags) & examples.loss_mask
        bad = [i for i in range(len(examples)) if examples.tokens[s := examples.place(i)][is_tag[s]].tolist() != order]
        if bad:
            raise UserError(
                f"method.name=masked_critique: {len(bad)} of {len(examples)} responses do not have the tags "
                f"<think><critique>..</critique><reasoning>..</reasoning></think><ans>..</ans> once and in order "
                f"(first: {examples.key(bad[0])}); correct or remove these rows, or check data.on_long"
            )

    # ---- labels ----

    def corrupt(self, batch: Batch, progress: float, draw: Draw) -> Corrupted:
        dropped, candidates = self.choose(batch, draw)
        label_of = torch.zeros_like(dropped)  # position j has the label of token j + 1
        label_of[:, :-1] = dropped[:, 1:]
        labels = torch.where(label_of, torch.full_like(batch.labels, IGNORE), batch.labels)
        format_tokens = torch.zeros_like(dropped)
        format_tokens[:, :-1] = self.format_tokens(batch)[:, 1:]
        counts = {"ce": label_count(replace(batch, labels=labels))}
        tags = format_tokens & (labels != IGNORE)
        counts["examples"], counts["tags"] = count_examples(batch), int(tags.sum())
        counts["format"] = counts["examples" if self.config.format_term == "argmax_reward" else "tags"]
        share = {"masked_share": (int(dropped.sum()), int(candidates.sum()))}
        at = batch.label_at
        extra = {
            "labels": batch.labels, "at": at, "kept": taken(labels, at) != IGNORE,
            "tag_of": true_at(taken(tags, at)), "document": taken(documents(batch), at),
        }  # fmt: skip
        if self.config.neftune_alpha:
            extra |= marks(batch, batch.real, "masked_critique.neftune", draw)
        return Corrupted(replace(batch, labels=labels, extra=extra), counts, share)

    def choose(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """(dropped, candidates) by token, bool [R, T]."""
        c = self.config
        candidates, first = torch.zeros_like(batch.loss_mask), torch.zeros_like(batch.loss_mask)
        for name in c.spans:
            inside, offset = self.inside(batch, name)
            candidates |= inside
            first |= inside & (offset < c.skip_first)  # stays trained on inside of another span, too
        candidates &= batch.loss_mask & ~first & ~self.is_tag(batch.input_ids)
        ratio = mask_ratios(batch, c.mask_ratio)
        epoch = batch.epoch if c.redraw else 0
        return candidates & bernoulli(draw("masked_critique", epoch, batch.example, batch.positions), ratio), candidates

    def inside(self, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
        """(between <name> and </name>, number of the token there from 0), both [R, T]. A span ends with its example."""
        column = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand_as(batch.input_ids)
        opened = last(batch.loss_mask & (batch.input_ids == self.opens[name]), column)
        closed = last(batch.loss_mask & (batch.input_ids == self.closes[name]), column)
        first = column - batch.positions
        between = (opened >= first) & (opened > closed) & (opened < column) & batch.real
        return between, column - opened - 1

    def is_tag(self, ids: Tensor) -> Tensor:
        return torch.isin(ids, torch.tensor([*self.opens.values(), *self.closes.values()], device=ids.device))

    def format_tokens(self, batch: Batch) -> Tensor:
        """Tags of the response and everything between <ans> and </ans>, by token, bool [R, T]."""
        return batch.loss_mask & (self.is_tag(batch.input_ids) | self.inside(batch, "ans")[0])

    # ---- loss ----

    def inputs(self, model: nn.Module, batch: Batch) -> Inputs:
        if not is_marked(batch):
            return model_inputs(batch)
        return neftune_inputs(model, batch, self.config.neftune_alpha)

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        hidden = hidden_states(model, **self.inputs(model, batch))
        extra = batch.extra  # none in validation: that batch was not corrupted
        at = extra.get("at", batch.label_at)
        labels = taken(extra.get("labels", batch.labels), at)
        kept = extra.get("kept", torch.ones_like(labels, dtype=torch.bool))
        total, each, predicted = head_losses(
            model, taken(hidden, at), labels, kept.to(torch.float32), vocab_size=self.vocab_size,
            chunk_tokens=self.logits_chunk,
        )  # fmt: skip
        is_right = predicted == labels
        accuracy = {"token_accuracy": ((is_right & kept).sum(), "ce")}
        if not extra:
            return Losses({"ce": total}, {**accuracy})
        tag_of = extra["tag_of"]
        metrics: dict[str, tuple[Tensor | float, str]] = {
            **accuracy, "tag_loss": (each[tag_of].sum(), "tags"), "tag_accuracy": (is_right[tag_of].sum(), "tags"),
        }  # fmt: skip
        on_host = torch.cat([extra["document"], predicted]), self.reward
        if self.config.format_term == "argmax_reward":
            return Losses({"ce": total}, metrics, on_host)
        tag_sum, _, _ = head_losses(
            model, taken(hidden, at[tag_of]), labels[tag_of], vocab_size=self.vocab_size, chunk_tokens=self.logits_chunk
        )
        return Losses({"ce": total, "format": tag_sum}, metrics, on_host)

    def reward(self, numbers: list[int]) -> HostSums:
        """How many responses, decoded from the argmax at every position, have the format; and how many do not.

        `numbers`: the document of every label (PROMPT: no response's), then the argmax there.
        """
        responses: dict[int, list[int]] = {}
        for document, predicted in zip(numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :], strict=True):
            if document != PROMPT:
                responses.setdefault(document, []).append(predicted)
        count = sum(has_format(self.text(tokens), self.config.strict_format) for tokens in responses.values())
        miss = {"format": float(len(responses) - count)} if self.config.format_term == "argmax_reward" else {}
        return miss, {"format_reward": (float(count), "examples")}

    def text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def documents(batch: Batch) -> Tensor:
    """Number of the document, padding included, that each position stands in, int64 [R, T]; PROMPT where no response follows."""
    lengths = torch.tensor([n for row in batch.lengths for n in row])
    numbers = torch.arange(len(lengths)).repeat_interleave(lengths).view_as(batch.labels)
    asks = torch.ones_like(batch.real)
    asks[:, :-1] = batch.line[:, 1:] < 0
    return numbers.masked_fill(asks, PROMPT)


class MaskedCritiqueCollator(MethodCollator[MaskedCritiqueConfig]):
    """The inputs and labels of method=masked_critique for transformers' Trainer and TRL's SFTTrainer (docs/python.md).

    The paper's format term has no gradient, so leaving it out changes the logged loss alone.
    """

    config_class = MaskedCritiqueConfig

    def refuse(self, config: MaskedCritiqueConfig) -> None:
        if config.format_term != "argmax_reward" and config.beta > 0:
            raise UserError(
                f"method.format_term={config.format_term} is a term of mft's own loss: use mft train, set beta=0, or "
                f"leave format_term at argmax_reward, which has no gradient"
            )
        if config.neftune_alpha > 0:
            raise UserError(
                f"method.neftune_alpha={config.neftune_alpha:g}: a collator makes no embeddings; leave it out and set "
                f"neftune_noise_alpha of the trainer's arguments"
            )


def last(true_at: Tensor, column: Tensor) -> Tensor:
    """Column of the last True at or before each position; -1 before the first."""
    return torch.cummax(torch.where(true_at, column, torch.full_like(column, -1)), dim=1).values


def count_examples(batch: Batch) -> int:
    """Examples with at least one response token."""
    return len(torch.unique(batch.example[batch.loss_mask & batch.real]))
