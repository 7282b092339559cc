"""The engine of eval.decode=refine: progressive unmasking with the head that method=chunk_refine exports."""

from __future__ import annotations

import gc
from pathlib import Path

import torch
from torch import Tensor

from mft_cli.eval.engines.base import (
    Loading,
    OnCompletion,
    OnTokens,
    Request,
    Sampling,
    Tokenizer,
    Unit,
    decoded,
    finish,
)
from mft_cli.eval.engines.hf import HfEngine, load_model
from mft_cli.methods.refine.decode import Decoder
from mft_cli.methods.refine.folder import read_head, read_settings


class RefineEngine(HfEngine):
    """`batch_size` completions at a time, `accept` tokens of a chunk in a round. See Engine.

    Raises UserError if the folder holds no head.
    """

    def __init__(self, loading: Loading, tokenizer: Tokenizer, batch_size: int, accept: int):
        folder, device = Path(loading.folder), loading.device
        read_settings(folder)  # told before the model is loaded
        self.model = load_model(folder, loading.dtype, device, loading.trust)
        head = read_head(folder).to(next(self.model.parameters()).dtype).to(device).eval()
        self.tokenizer, self.batch_size = tokenizer, batch_size
        self.decoder = Decoder(self.model, head, accept)

    def close(self) -> None:
        """Free the model's memory; says what decoding did."""
        print(f"refine: {self.decoder.tally.describe()}", flush=True)
        del self.model, self.decoder
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _batch(self, unit: Unit, sampling: Sampling, report: OnCompletion, tokens: OnTokens) -> None:
        rows = [_Row(i, request, sampling, self.room(request)) for i, request in unit]
        for row in rows:
            if not row.most:  # not a chunk fits into the context
                report(row.index, finish(self.tokenizer, [], sampling))
        rows = [row for row in rows if row.most]
        if rows:
            self.decoder.start([row.request.prompt for row in rows])
        while rows:
            made = self.decoder.chunk([row.choose for row in rows], sampling.end_ids).tolist()
            keep = []
            for position, (row, ids) in enumerate(zip(rows, made, strict=True)):
                if row.add(ids, self.tokenizer):
                    report(row.index, finish(self.tokenizer, row.ids, sampling))
                else:
                    keep.append(position)
            tokens(len(rows) * self.decoder.size)
            if keep and len(keep) < len(rows):
                self.decoder.keep_rows(keep)
            rows = [rows[p] for p in keep]

    def room(self, request: Request) -> int:
        """Tokens that this completion may have: what is asked for, and whole chunks of what the context has."""
        known = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        size = self.decoder.size
        room = request.max_new_tokens if known is None else max(0, known - len(request.prompt)) // size * size
        return min(request.max_new_tokens, room)


class _Row:
    """One completion in the making. It draws from its own generator, so its neighbours do not matter."""

    def __init__(self, index: int, request: Request, sampling: Sampling, most: int):
        self.index, self.request, self.sampling, self.most = index, request, sampling, most
        self.ids: list[int] = []
        self.generator = torch.Generator().manual_seed(request.seed)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """A token for each of n open slots, logits [n, V], and its probability: (tokens [n], probabilities [n])."""
        if self.sampling.temperature == 0:
            sure, token = logits.softmax(-1).max(-1)
            return token, sure
        probability = torch.softmax(logits.double().cpu() / self.sampling.temperature, dim=-1)
        ranked, order = probability.sort(descending=True)
        ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= self.sampling.top_p, 0.0)  # nucleus
        chosen = torch.multinomial(ranked, 1, generator=self.generator)
        token = order.gather(1, chosen)
        return token[:, 0].to(logits.device), probability.gather(1, token)[:, 0].to(logits.device)

    def add(self, ids: list[int], tokenizer: Tokenizer) -> bool:
        """Takes over a chunk; True if the completion is finished."""
        self.ids = (self.ids + ids)[: self.most]
        if len(self.ids) == self.most or set(self.ids) & set(self.sampling.end_ids):
            return True
        if not self.sampling.stop:
            return False
        text = decoded(tokenizer, self.ids, self.sampling.kept_special)
        return any(s in text for s in self.sampling.stop)
