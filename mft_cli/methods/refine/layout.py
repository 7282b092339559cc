"""Where the chunks of a packed batch lie, which of them are masked, and the index tensors that the head works on.

A row's tokens are cut at every example's start, wherever prompt and response meet, and then every `size` tokens. The
state at column j predicts token j + 1, so a chunk of tokens s .. e - 1 is read at columns s - 1 .. e - 2. Everything
here is vectorised over all chunks of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mft_cli.data.pack import IGNORE, Batch, true_at
from mft_cli.rng import Draw, bernoulli


@dataclass
class Chunks:
    """The N chunks of a batch, in the order of its rows; all tensors are [N] unless said."""

    row: Tensor
    first: Tensor  # column of the first token
    length: Tensor
    position: Tensor  # of the first token in its example: names the chunk in random draws
    loss_mask: Tensor  # bool, a response's chunk
    example: Tensor  # number of its example in the batch
    id: Tensor  # the example's 64-bit id
    of_token: Tensor  # int64 [R, T], chunk of every token, -1 in padding

    @property
    def candidates(self) -> Tensor:
        """Chunks that may be masked: of a response, with at least one token that something predicts."""
        return self.loss_mask & (self.length - (self.position == 0).long() > 0)


def find_chunks(batch: Batch, size: int) -> Chunks:
    """Cuts a batch into chunks of `size` tokens; the last one of a prompt or response may be shorter."""
    column = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand_as(batch.input_ids)
    starts = batch.real & (batch.positions == 0)
    segment = batch.real & (starts | (batch.loss_mask != F.pad(batch.loss_mask[:, :-1], (1, 0))))
    offset = column - torch.where(segment, column, 0).cummax(dim=1).values
    opens = batch.real & (offset % size == 0)
    of_token = torch.where(batch.real, opens.flatten().cumsum(0).view_as(column) - 1, -1)
    row, first = opens.nonzero(as_tuple=True)
    return Chunks(
        row=row, first=first, length=torch.bincount(of_token[batch.real], minlength=len(row)),
        position=batch.positions[opens], loss_mask=batch.loss_mask[opens],
        example=(starts.flatten().cumsum(0).view_as(column) - 1)[opens], id=batch.example[opens], of_token=of_token,
    )  # fmt: skip


def choose_chunks(chunks: Chunks, p: Tensor, epoch: int, draw: Draw) -> Tensor:
    """bool [N]: each candidate with probability p [N]; of an example's two or more, at least one is and one is not.

    The chosen ones of an example are always those with its smallest draws, so the sets nest while p grows.
    """
    candidates, example = chunks.candidates, chunks.example
    draws = draw("chunk_refine", epoch, chunks.id, chunks.position)
    chosen = candidates & bernoulli(draws, p)
    examples = int(example.max()) + 1 if len(example) else 0

    def count(which: Tensor) -> Tensor:
        return torch.zeros(examples, dtype=torch.long, device=example.device).index_add_(0, example, which.long())

    def extreme(how: str, filler: int) -> Tensor:
        start = torch.full((examples,), filler, dtype=torch.long, device=example.device)
        return start.scatter_reduce(0, example[candidates], draws[candidates], how)[example]

    all_of, chosen_of = count(candidates)[example], count(chosen)[example]
    several = candidates & (all_of > 1)
    chosen |= several & (chosen_of == 0) & (draws == extreme("amin", torch.iinfo(torch.long).max))
    return chosen & ~(several & (chosen_of == all_of) & (draws == extreme("amax", -1)))


def choose_tokens(
    batch: Batch, chunks: Chunks, masked: Tensor, partial: float, draw: Draw, prefixes: float = 0.0
) -> Tensor:
    """bool [R, T], tokens to mask: all of a masked chunk, or, in a share `partial` of the chunks, some of it.

    A partly masked chunk has its own ratio from U(0, 1); its token with the smallest draw is masked in any case. A share
    `prefixes` of the partly masked ones keeps a prefix instead, of 1 to all but one of its tokens, and is masked after it.
    """
    inside = chunks.of_token.clamp(min=0)
    chosen = batch.real & (masked[inside] if len(masked) else torch.zeros_like(batch.real))
    if partial == 0 or not len(masked):
        return chosen
    partly = masked & bernoulli(draw("chunk_refine.partial", batch.epoch, chunks.id, chunks.position), partial)
    ratio = draw.unit("chunk_refine.ratio", batch.epoch, chunks.id, chunks.position)
    tokens = draw.unit("chunk_refine.token", batch.epoch, batch.example, batch.positions)
    tokens = torch.where(batch.positions == 0, torch.ones_like(tokens), tokens)  # nothing predicts it
    least = torch.full_like(ratio, 2.0).scatter_reduce(0, inside[batch.real], tokens[batch.real], "amin")
    some = (tokens < ratio[inside]) | (tokens == least[inside])
    if prefixes:
        kept = torch.where(chunks.length > 1, 1 + (ratio * (chunks.length - 1)).long(), 0)
        column = torch.arange(batch.input_ids.shape[1], device=kept.device)
        after_prefix = column - chunks.first[inside] >= kept[inside]
        is_prefix = bernoulli(draw("chunk_refine.prefix", batch.epoch, chunks.id, chunks.position), prefixes)
        some = torch.where(is_prefix[inside], after_prefix, some)
    return chosen & (some | ~partly[inside])


@dataclass
class Layout:
    """R rows with up to M masked chunks and U others, C slots a chunk; at least one of each, perhaps an empty one."""

    chunk: Tensor  # int64 [R, M], number of the chunk in the batch, -1: none
    columns: Tensor  # int64 [R, M, C], the column whose state predicts the slot's token
    slots: Tensor  # bool [R, M, C], slots with a token
    open: Tensor  # bool [R, M, C], slots whose token is masked and has a label
    earlier: Tensor  # bool [R, M, M], the second is an earlier chunk of the same example
    other: Tensor  # int64 [R, U], the unmasked chunks, prompts' too
    other_columns: Tensor  # int64 [R, U, C]
    other_slots: Tensor  # bool [R, U, C]
    other_earlier: Tensor  # bool [R, M, U]
    share: Tensor  # float32 [R, T], 1 / labels of its chunk at a position that predicts an unmasked response chunk
    # where these are, see `true_at`: a device would be waited for
    open_at: Tensor  # int64 [N], open slots
    first_at: Tensor  # int64, the first open slot of every chunk
    share_at: Tensor  # int64, positions with a share

    @property
    def real(self) -> Tensor:
        """bool [R, M], there is a masked chunk."""
        return self.chunk >= 0


def lay_out(batch: Batch, chunks: Chunks, masked: Tensor, tokens: Tensor, size: int) -> Layout:
    """Index tensors of a batch whose chunks `masked` [N] are masked at `tokens` [R, T]."""
    rows = batch.input_ids.shape[0]
    chunk, other = table(masked, chunks.row, rows), table(~masked, chunks.row, rows)
    columns, slots = read_at(chunks, chunk, size)
    other_columns, other_slots = read_at(chunks, other, size)

    def pick(values: Tensor, at: Tensor) -> Tensor:  # [R, T] at [R, M, C]
        return values.gather(1, at.flatten(1)).view_as(at)

    labels = pick(batch.labels, columns)
    following = F.pad(tokens[:, 1:], (0, 1))
    opened, share = slots & pick(following, columns) & (labels != IGNORE), shares(batch, chunks, masked)
    return Layout(
        chunk=chunk, columns=columns, slots=slots, open=opened,
        earlier=is_earlier(chunks, chunk, chunk), other=other, other_columns=other_columns, other_slots=other_slots,
        other_earlier=is_earlier(chunks, chunk, other), share=share, open_at=true_at(opened),
        first_at=true_at(opened & (opened.cumsum(-1) == 1)), share_at=true_at(share > 0),
    )  # fmt: skip


def table(chosen: Tensor, row: Tensor, rows: int) -> Tensor:
    """The chosen chunks of every row side by side, int64 [R, most of a row], -1 after a row's last."""
    picked = chosen.nonzero()[:, 0]
    of = row[picked]
    count = torch.bincount(of, minlength=rows)
    rank = torch.arange(len(picked), device=row.device) - (count.cumsum(0) - count)[of]
    result = torch.full((rows, max(1, int(count.max()))), -1, dtype=torch.long, device=row.device)
    result[of, rank] = picked
    return result


def read_at(chunks: Chunks, chosen: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Columns and slots, [R, M, C], of chosen chunks [R, M]."""
    slot = torch.arange(size, device=chosen.device)
    if not len(chunks.first):
        empty = torch.zeros(*chosen.shape, size, dtype=torch.long, device=chosen.device)
        return empty, empty.bool()
    at = chosen.clamp(min=0)
    columns = chunks.first[at][..., None] + slot - 1
    unseen = (chunks.position[at][..., None] == 0) & (slot == 0)  # an example's first token: nothing predicts it
    slots = (chosen >= 0)[..., None] & (slot < chunks.length[at][..., None]) & ~unseen
    return torch.where(slots, columns, 0), slots


def is_earlier(chunks: Chunks, mine: Tensor, theirs: Tensor) -> Tensor:
    """bool [R, M, K]: chunk `theirs` [R, K] lies before chunk `mine` [R, M] in the same example."""
    if not len(chunks.example):
        return torch.zeros(*mine.shape, theirs.shape[1], dtype=torch.bool, device=mine.device)
    a, b = (chunks.example[x.clamp(min=0)] for x in (mine, theirs))
    there = (mine >= 0)[:, :, None] & (theirs >= 0)[:, None]
    return there & (a[:, :, None] == b[:, None]) & (theirs[:, None] < mine[:, :, None])


def shares(batch: Batch, chunks: Chunks, masked: Tensor) -> Tensor:
    """float32 [R, T]: at a position that predicts a token of an unmasked response chunk 1 / the chunk's labels."""
    predicted = F.pad(chunks.of_token[:, 1:], (0, 1), value=-1)
    unmasked = (batch.labels != IGNORE) & (predicted >= 0)
    if not len(masked):
        return torch.zeros_like(unmasked, dtype=torch.float32)
    unmasked &= ~masked[predicted.clamp(min=0)]
    count = torch.bincount(predicted[unmasked], minlength=len(masked)).clamp(min=1)
    return torch.where(unmasked, 1.0 / count[predicted.clamp(min=0)], 0.0).float()
