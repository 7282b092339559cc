"""Decoding with a draft by the head that the backbone verifies: the text is the backbone's own, in fewer passes.

A round of a row, whose last token is chosen but not read yet (pending):

1. The backbone reads the pending token and mask tokens up to the end of the chunk. Its state at the pending token is exact,
   so the next token is the backbone's own and becomes the pending one. The head refines the chunk's states into a draft.
2. The backbone reads the pending token and the draft. As long as the token that it would have chosen is the draft's, it goes
   on to the next state; the first other one is the new pending token.

So two passes give two tokens at least, and one per draft token that was right on top. A head that reads embeddings
needs no first pass. With a temperature every token is drawn from the backbone's distribution with the random numbers that
plain decoding would have used: for a draft that is one token per slot, acceptance of a draft that equals the drawn token
is the rejection sampling of Leviathan et al. 2022 (arXiv 2211.17192). B rows, C slots a chunk, D the backbone's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from mft_cli.methods.decoding import Completion, DecoderSettings
from mft_cli.methods.refine.decode import prompt_columns
from mft_cli.methods.refine.folder import head_digest, open_head
from mft_cli.methods.refine.head import Context, Refined
from mft_cli.methods.refine.text import Text


@dataclass
class Tally:
    """Counts over rows: what a pass of the backbone gave."""

    tokens: int = 0
    passes: int = 0
    drafted: int = 0
    accepted: int = 0


class VerifyDecoder:
    """See the module's text, and Decoder."""

    granularity = 1

    def __init__(self, model: PreTrainedModel, folder: Path, settings: DecoderSettings):
        self.model, self.head = model, open_head(folder, model, settings.steps)
        self.settings = self.head.settings
        self.size = self.settings.chunk_size
        self.reads_states = self.settings.hidden == "backbone"
        self.tally = Tally()

    @staticmethod
    def facts(folder: Path, settings: DecoderSettings) -> dict[str, object]:
        """The head: it changes no token, but how fast they come."""
        return {"head": head_digest(folder)}

    def start(self, prompts: Sequence[tuple[int, ...]], ends: Sequence[int]) -> None:
        """Reads the prompts and encodes their chunks."""
        self.text = Text(self.model, prompts)
        states = self.text.prompt_states
        self.pending: list[int] = []
        self.state = states[:, -1]  # [B, D], the last exact one
        width = states.shape[-1]
        self.readings = states.new_zeros(len(prompts), self.size, width)  # what the head reads of the present chunk
        self.filled = [0] * len(prompts)  # of its slots; 0: the present chunk has not begun
        self.finished = [False] * len(prompts)
        self.codes: list[list[Tensor]] = [[] for _ in prompts]  # [C, W] of each finished chunk of a row
        self.slots: list[list[Tensor]] = [[] for _ in prompts]  # bool [C]
        self.last_reading = self.state
        if self.head.attend is None and self.reads_states:
            return
        read = states if self.reads_states else self.embed(self.left_padded(prompts))
        self.last_reading = read[:, -1]
        if self.head.attend is not None:
            columns, slots = prompt_columns([len(p) for p in prompts], self.text.width, self.size, states.device)
            rows = torch.arange(len(prompts), device=states.device)[:, None, None]
            codes = self.head.encode(read[rows, columns], slots)
            for row in range(len(prompts)):
                count = -(-len(prompts[row]) // self.size)
                self.codes[row], self.slots[row] = list(codes[row, :count]), list(slots[row, :count])

    def left_padded(self, prompts: Sequence[tuple[int, ...]]) -> Tensor:
        rows = [[0] * (self.text.width - len(prompt)) + list(prompt) for prompt in prompts]
        return torch.tensor(rows, device=self.state.device)

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    # ---- a round ----

    def extend(self, completions: Sequence[Completion]) -> None:
        """Two passes of the backbone, at least two tokens for each completion that goes on."""
        if not self.pending:
            logits = self.text.logits(self.state)
            taken = [c.take(line) for c, line in zip(completions, logits, strict=True)]
            self.pending, self.finished = [t for t, _ in taken], [f for _, f in taken]
            for row in range(len(taken)):
                self.fill(row, self.last_reading[row])
            self.tally.tokens += len(taken)
            self.tally.passes += len(taken)
        drafts = self.draft(completions)
        self.verify(completions, drafts)

    def draft(self, completions: Sequence[Completion]) -> list[list[int]]:
        """The head's tokens for the rest of every row's chunk, after the pending token."""
        width = self.size - min(self.filled)
        ids = torch.full((len(completions), width), self.settings.mask_id, device=self.state.device)
        ids[:, 0] = torch.tensor(self.pending, device=self.state.device)
        if self.reads_states:
            read = self.text.append(ids)
            self.text.keep_of_last(width, torch.ones_like(ids[:, 0]))
            logits = self.text.logits(read[:, 0])
            self.tally.passes += self.finished.count(False)
            for row, completion in enumerate(completions):
                if not self.finished[row]:
                    self.take(row, completion, logits[row], read[row, 0])
            read = read[:, 1:]
        else:
            read = self.embed(ids)
        return self.refine(read)

    def refine(self, read: Tensor) -> list[list[int]]:
        """Draft tokens for the open slots of every row; read [B, n, D] begins at its first open slot."""
        hidden = self.readings.clone()
        for row, filled in enumerate(self.filled):
            rest = min(self.size - filled, read.shape[1])
            hidden[row, filled : filled + rest] = read[row, :rest]
        drafts: list[list[int]] = [[] for _ in self.filled]
        least = 1 if self.reads_states else 0  # the state of the pending token is not known before it is read
        open_rows = [row for row, n in enumerate(self.filled) if n >= least and not self.finished[row]]
        if not open_rows:
            return drafts
        refined = self.refined(hidden)
        tokens = self.text.logits(refined.hidden[:, 0])
        tokens[..., self.settings.mask_id] = -torch.inf
        chosen = tokens.argmax(-1).tolist()
        for row in open_rows:
            drafts[row] = chosen[row][self.filled[row] :]
        return drafts

    def refined(self, hidden: Tensor) -> Refined:
        """The head's view of every row's chunk [B, C, D]."""
        slots = torch.ones(len(hidden), 1, self.size, dtype=torch.bool, device=hidden.device)
        context = None
        if self.head.attend is not None:
            empty = hidden.new_zeros(1, self.size, self.settings.width)
            codes = pad_sequence([torch.stack(c) if c else empty for c in self.codes], batch_first=True)
            known = pad_sequence([torch.stack(s) if s else slots[0] & False for s in self.slots], batch_first=True)
            mine = torch.zeros(len(hidden), 1, 1, dtype=torch.bool, device=hidden.device)
            context = Context(codes.to(hidden.dtype), known, known.any(-1)[:, None], mine)
        made: Refined = self.head(
            hidden[:, None], slots, slots.any(-1), context, early=self.settings.early_stop, alone=True
        )
        return made

    def verify(self, completions: Sequence[Completion], drafts: list[list[int]]) -> None:
        """The backbone reads pending tokens and drafts; each row takes its tokens as far as they agree, and one more."""
        going = [row for row, done in enumerate(self.finished) if not done]
        if not going:
            return
        width = 1 + max(map(len, drafts))
        ids = torch.full((len(completions), width), self.settings.mask_id, device=self.state.device)
        for row, draft in enumerate(drafts):
            line = [self.pending[row], *draft]
            ids[row, : len(line)] = torch.tensor(line, device=ids.device)
        states = self.text.append(ids)
        read = states if self.reads_states else self.embed(ids)
        logits = self.text.logits(states)
        kept = [1] * len(completions)
        for row in going:
            kept[row] = self.accept(row, completions[row], drafts[row], logits[row], read[row])
        self.text.keep_of_last(width, torch.tensor(kept, device=ids.device))
        self.tally.passes += len(going)

    def accept(self, row: int, completion: Completion, draft: list[int], logits: Tensor, read: Tensor) -> int:
        """Takes tokens until one is not the draft's; returns how many columns of the pass are the text's."""
        self.tally.drafted += len(draft)
        for column, line in enumerate(logits):
            token = self.take(row, completion, line, read[column])
            agrees = column < len(draft) and token == draft[column]
            if not agrees or self.finished[row]:
                return column + 1
            self.tally.accepted += 1
        raise AssertionError("the last column has no draft to agree with")

    def take(self, row: int, completion: Completion, logits: Tensor, reading: Tensor) -> int:
        """The completion's next token; `reading` is what the head reads of the column before it."""
        self.fill(row, reading)
        token, self.finished[row] = completion.take(logits)
        self.pending[row] = token
        self.tally.tokens += 1
        return token

    def fill(self, row: int, reading: Tensor) -> None:
        """One more slot of the present chunk; a full one is encoded for later chunks, and the next may begin."""
        self.readings[row, self.filled[row]] = reading
        self.filled[row] = (self.filled[row] + 1) % self.size
        if not self.filled[row] and self.head.attend is not None:
            slots = torch.ones(1, 1, self.size, dtype=torch.bool, device=reading.device)
            self.codes[row].append(self.head.encode(self.readings[row][None, None].clone(), slots)[0, 0])
            self.slots[row].append(slots[0, 0])

    def keep_rows(self, rows: Sequence[int]) -> None:
        """See Decoder."""
        index = torch.tensor(rows, device=self.state.device)
        self.text.keep_rows(index)
        self.state, self.readings = self.state[index], self.readings[index]
        for name in ("pending", "filled", "codes", "slots", "finished"):
            values = getattr(self, name)
            setattr(self, name, [values[row] for row in rows])

    def describe(self) -> str:
        t = self.tally
        return (
            f"{t.tokens} tokens in {t.passes} passes of the backbone, {t.tokens / max(1, t.passes):.2f} tokens a pass; "
            f"{t.accepted} of {t.drafted} draft tokens accepted"
        )
