"""The engine of every eval.decode but plain: plain transformers with a decoder that a method exports next to the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mft_cli.config.schema.evaluation import EvalConfig
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
from mft_cli.eval.engines.hf import HfEngine, Row, load_model
from mft_cli.methods.decoding import DecoderSettings, decoder_class
from mft_cli.models.folder import context_of


def decoder_settings(config: EvalConfig) -> DecoderSettings:
    return DecoderSettings(config.refine_accept, config.refine_order, config.refine_steps)


class DecoderEngine(HfEngine):
    """`batch_size` completions at a time, by the decoder `loading.name`. See Engine.

    Raises UserError if what the decoder needs does not lie in the model's folder.
    """

    def __init__(self, loading: Loading, tokenizer: Tokenizer, batch_size: int, settings: DecoderSettings):
        folder, self.name = Path(loading.folder), loading.name
        decoder = decoder_class(loading.name)
        decoder.facts(folder, settings)  # reported before the model is loaded
        super().__init__(load_model(folder, loading.dtype, loading.device, loading.trust), tokenizer, batch_size)
        self.decoder = decoder(self.model, folder, settings)

    def close(self) -> None:
        """Free the model's memory; logs what decoding did."""
        print(f"{self.name}: {self.decoder.describe()}", flush=True)
        del self.decoder
        super().close()

    def _batch(self, unit: Unit, sampling: Sampling, report: OnCompletion, tokens: OnTokens) -> None:
        rows = [DecodedRow(i, request, sampling, self.room(request), self.tokenizer) for i, request in unit]
        for row in rows:
            if not row.most:  # the context has no room for what the decoder makes at a time
                report(row.index, finish(self.tokenizer, [], sampling))
        rows = [row for row in rows if row.most]
        if rows:
            self.decoder.start([row.request.prompt for row in rows], sampling.end_ids)
        while rows:
            before = sum(len(row.ids) for row in rows)
            self.decoder.extend(rows)
            tokens(sum(len(row.ids) for row in rows) - before)
            going = [position for position, row in enumerate(rows) if not row.done]
            for row in rows:
                if row.done:
                    report(row.index, finish(self.tokenizer, row.ids, sampling))
            if going and len(going) < len(rows):
                self.decoder.keep_rows(going)
            rows = [rows[position] for position in going]

    def room(self, request: Request) -> int:
        """Tokens that this completion may have: what is asked for, and what the context has, in whole granules."""
        known = context_of(self.model.config.to_dict())
        if known is None:
            return request.max_new_tokens
        size = self.decoder.granularity
        return min(request.max_new_tokens, max(0, known - len(request.prompt)) // size * size)


class DecodedRow(Row):
    """One completion in the making. It draws from its own generator, so its neighbours do not matter. See Completion."""

    def __init__(self, index: int, request: Request, sampling: Sampling, most: int, tokenizer: Tokenizer):
        super().__init__(index, request, sampling)
        self.most, self.tokenizer, self.done = most, tokenizer, False

    def take(self, logits: Tensor) -> tuple[int, bool]:
        """The next token, by the rule and the random numbers of plain decoding."""
        token = self.choose(logits)
        self.done = len(self.ids) >= self.most or self.finished(self.tokenizer)
        return token, self.done

    def propose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
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

    def take_all(self, ids: Sequence[int]) -> None:
        """Takes over a chunk; it may be the last."""
        self.ids = (self.ids + list(ids))[: self.most]
        self.done = len(self.ids) == self.most or bool(set(self.ids) & set(self.sampling.end_ids))
        if not self.done and self.sampling.stop:
            text = decoded(self.tokenizer, self.ids, self.sampling.kept_special)
            self.done = any(s in text for s in self.sampling.stop)
