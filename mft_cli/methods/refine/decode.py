"""Decoding by refinement: a chunk of mask tokens after the finished text, refined; some tokens are accepted, from the left
or the most confident ones, and the rest is refined again, until the chunk is full. The first open slot is left to the
backbone, whose state there is exact. The finished text is in the backbone's cache.

All rows of a batch work on their n-th chunk at the same time. B rows, C slots a chunk, D the backbone's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from mft_cli.methods.decoding import Completion, DecoderSettings
from mft_cli.methods.refine.folder import head_digest, open_head
from mft_cli.methods.refine.head import Context, Refined
from mft_cli.models.kernels.cross_entropy import causal_lm, head_is_plain, hidden_states, own_logits


@dataclass
class Tally:
    """What decoding did: mean steps are steps / refinements, over all rounds of all chunks."""

    chunks: int = 0
    rounds: int = 0
    refinements: int = 0
    steps: int = 0

    def describe(self) -> str:
        rounds, steps = self.rounds / max(1, self.chunks), self.steps / max(1, self.refinements)
        return f"{self.chunks} chunks, {rounds:.1f} rounds a chunk, {steps:.2f} refinement steps a round"


Choose = Callable[[Tensor], tuple[Tensor, Tensor]]  # logits [n, V] -> tokens [n], their probabilities [n]


class RefineDecoder:
    """Left-padded prompts in, chunk after chunk out. See Decoder."""

    def __init__(self, model: PreTrainedModel, folder: Path, settings: DecoderSettings):
        self.model, self.head = model, open_head(folder, model, settings.steps)
        self.accept, self.order = settings.accept, settings.order
        self.settings = self.head.settings
        self.size = self.granularity = self.settings.chunk_size
        self.plain_head = head_is_plain(model)
        self.tally = Tally()

    @staticmethod
    def facts(folder: Path, settings: DecoderSettings) -> dict[str, object]:
        """The head and how its tokens are accepted: both decide the text."""
        return {"head": head_digest(folder), "refine_accept": settings.accept, "refine_order": settings.order} | (
            {} if settings.steps is None else {"refine_steps": settings.steps}
        )

    def start(self, prompts: Sequence[tuple[int, ...]], ends: Sequence[int]) -> None:
        """Read the prompts: cache, last state, and the codes of the prompts' own chunks."""
        self.ends = ends
        device = next(self.model.parameters()).device
        length = max(map(len, prompts))
        ids = torch.zeros(len(prompts), length, dtype=torch.long, device=device)  # padding is masked: any id will do
        self.mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = torch.tensor(prompt, device=device)
            self.mask[row, length - len(prompt) :] = 1
        self.cache = DynamicCache(config=causal_lm(self.model).config.get_text_config())
        states = self.states(ids, self.mask)
        self.last = states[:, -1]
        self.codes: list[Tensor] = []  # [B, K, C, W] of finished chunks
        self.slots: list[Tensor] = []  # bool [B, K, C]
        if self.head.attend is not None:
            columns, slots = prompt_columns([len(p) for p in prompts], length, self.size, device)
            rows = torch.arange(len(prompts), device=device)[:, None, None]
            self.keep(states[rows, columns], slots)

    def extend(self, completions: Sequence[Completion]) -> None:
        """A chunk for every completion."""
        chunks = self.chunk([completion.propose for completion in completions], self.ends).tolist()
        for completion, ids in zip(completions, chunks, strict=True):
            completion.take_all(ids)

    def describe(self) -> str:
        """What decoding did."""
        untrained = (
            ""
            if self.settings.partial_fill
            else (
                "; the head was not trained on partly filled chunks, which this decoding meets: method.partial_fill=0.5 does it"
            )
        )
        return self.tally.describe() + untrained

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states [B, T, D] of ids [B, T] after what the cache holds, which is prolonged by them."""
        if self.settings.hidden == "embedding":
            embedded: Tensor = self.model.get_input_embeddings()(ids)
            return embedded
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return hidden_states(
            self.model, input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self.cache,
            use_cache=True,
        )  # fmt: skip

    def keep(self, hidden: Tensor, slots: Tensor) -> None:
        """The codes of finished chunks, hidden [B, K, C, D], for later ones to read."""
        if self.head.attend is not None:
            self.codes.append(self.head.encode(hidden, slots))
            self.slots.append(slots)

    def chunk(self, choose: Sequence[Choose], ends: Sequence[int]) -> Tensor:
        """The next chunk of every row, int64 [B, C]; `choose` is one for each row. After a row's first end token it holds mask tokens."""
        rows, device = len(self.last), self.last.device
        ids = torch.full((rows, self.size), self.settings.mask_id, dtype=torch.long, device=device)
        open_, slots = torch.ones_like(ids, dtype=torch.bool), torch.ones_like(ids, dtype=torch.bool)
        end_ids = torch.tensor(list(ends), dtype=torch.long, device=device)
        self.tally.chunks += rows
        while bool(open_.any()):
            refined, came_in = self.refine(ids, slots, open_.any(1))
            for row in open_.any(1).nonzero()[:, 0].tolist():
                open_slots = open_[row].nonzero()[:, 0]
                hidden = refined.hidden[row, 0][open_slots]
                if self.settings.hidden == "backbone":
                    hidden[0] = came_in[row, 0, open_slots[0]]  # exact: everything before it is filled
                tokens, sure = choose[row](self.logits(hidden))
                best = self.accepted(sure)
                ids[row, open_slots[best]] = tokens[best]
                open_[row, open_slots[best]] = False
            # nothing is needed after an end token, and training never saw anything there
            ended = torch.isin(ids, end_ids).long().cumsum(1)
            slots = (ended == 0) | ((ended == 1) & torch.isin(ids, end_ids))
            open_ &= slots
            ids = torch.where(slots, ids, self.settings.mask_id)
        self.finish(ids, slots)
        return ids

    def accepted(self, sure: Tensor) -> Tensor:
        """Which of the open slots, whose proposals have probabilities `sure` [n], are accepted in a round."""
        count = min(self.accept, len(sure))
        return torch.arange(count, device=sure.device) if self.order == "left" else sure.topk(count).indices

    def refine(self, ids: Tensor, slots: Tensor, working: Tensor) -> tuple[Refined, Tensor]:
        """The head's view of a chunk as it stands [B, C], and the states that came in; the cache is left as it was."""
        before = self.cache.get_seq_length()
        mask = torch.cat([self.mask, torch.ones_like(ids[:, 1:])], 1)
        states = self.states(ids[:, :-1], mask)
        if self.cache.get_seq_length() > before:
            self.cache.crop(before - self.cache.get_seq_length())
        hidden = torch.cat([self.last[:, None], states], 1)[:, None]
        context = None
        if self.head.attend is not None:
            codes, there = torch.cat(self.codes, 1), torch.cat(self.slots, 1)
            mine = torch.zeros(len(ids), 1, 1, dtype=torch.bool, device=ids.device)
            context = Context(codes, there, there.any(-1)[:, None], mine)
        early = self.settings.early_stop
        refined: Refined = self.head(hidden, slots[:, None], working[:, None], context, early=early, alone=True)
        self.tally.rounds += int(working.sum())
        self.tally.refinements += int(refined.refined.sum())
        self.tally.steps += int(refined.steps.sum())
        return refined, hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, V] in fp32; the mask token is never an answer."""
        made = self.model.get_output_embeddings()(hidden) if self.plain_head else own_logits(self.model, hidden)
        logits: Tensor = made.float()
        logits[:, self.settings.mask_id] = -torch.inf
        return logits

    def finish(self, ids: Tensor, slots: Tensor) -> None:
        """A full chunk into the cache, its codes for later chunks."""
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], 1)
        states = self.states(ids, self.mask)
        hidden = torch.cat([self.last[:, None], states[:, :-1]], 1)
        self.keep(hidden[:, None], slots[:, None])
        self.last = states[:, -1]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        index = torch.tensor(rows, device=self.last.device)
        if self.cache.get_seq_length():
            self.cache.batch_select_indices(index)
        self.mask, self.last = self.mask[index], self.last[index]
        self.codes, self.slots = [c[index] for c in self.codes], [s[index] for s in self.slots]


def prompt_columns(lengths: list[int], width: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Columns and slots [B, K, C] of the chunks of left-padded prompts, cut from their first token on as in training."""
    length = torch.tensor(lengths, device=device)[:, None, None]
    token = torch.arange(-(-max(lengths) // size) * size, device=device).view(1, -1, size)
    slots = (token < length) & (token > 0)  # nothing predicts the first token
    return torch.where(slots, width - length + token - 1, 0), slots
