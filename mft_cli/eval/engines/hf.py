"""Generation by plain transformers: the engine that works wherever torch does.

A loop of its own instead of model.generate(): rows that are finished leave the batch at once, samples of one prompt
share its prefill, and every request draws from its own seeded generator, so that a completion does not depend on its
neighbours. Batches are formed from the whole list of requests, not from what a killed run has left over; so a resumed
run repeats whole batches and gets the same bits even in bfloat16.
"""

from __future__ import annotations

import gc
import importlib.util
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from mft_cli.config.model_path import ADAPTER
from mft_cli.errors import UserError, first_line
from mft_cli.eval.engines.base import (
    Engine,
    OnCompletion,
    OnTokens,
    Request,
    Sampling,
    Source,
    Tokenizer,
    Unit,
    batches,
    decoded,
    finish,
)
from mft_cli.eval.engines.sampling import penalised, probabilities
from mft_cli.files import read_json
from mft_cli.models.loading import custom_code_refusal
from mft_cli.models.pretrained import Settings, read_adapted, read_model

REASONS = (OSError, ValueError, KeyError, RuntimeError, ImportError)  # why a folder cannot be loaded


def load_model(
    folder: Path, dtype: str, device: str, trust: bool, adapter: Path | None = None, *, spread: bool = False
) -> PreTrainedModel:  # fmt: skip
    """A causal language model in eval mode, with a LoRA adapter on top of its weights if one is given. Raises UserError.

    `spread`: its layers are laid over all visible GPUs (accelerate), where one does not hold them.
    """
    settings: Settings = {"local_files_only": True}
    if spread:
        settings["device_map"] = "auto"
    try:
        model: Any = read_model(folder, dtype=getattr(torch, dtype), trust=trust, **settings)
    except REASONS as error:
        if "trust_remote_code" in str(error):
            raise UserError(custom_code_refusal(str(folder))) from None
        raise UserError(f"{folder}: transformers cannot load this model ({first_line(error)})") from error
    if adapter is not None:
        model = with_adapter(model, adapter)
    return cast(PreTrainedModel, model.eval() if spread else model.to(device).eval())


def with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The model with a peft adapter, not merged. Raises UserError if the two do not fit."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"{adapter} is a LoRA adapter, which needs the Python package peft: pip install peft") from None
    rows = embedding_rows(adapter)
    if rows > int(model.get_input_embeddings().weight.shape[0]):  # type: ignore[index]
        model.resize_token_embeddings(rows, mean_resizing=False)
    try:
        adapted: Any = read_adapted(model, adapter)
    except REASONS as error:
        raise UserError(f"{adapter}: this adapter does not fit its base model ({first_line(error)})") from error
    return cast(PreTrainedModel, adapted)  # a PeftModel hands everything on


def embedding_rows(adapter: Path) -> int:
    """Rows of the embeddings that an adapter with new tokens was trained with; 0 if it holds none of them."""
    from safetensors import safe_open

    indices = read_json(adapter / ADAPTER).get("trainable_token_indices") or []
    lists = list(indices.values()) if isinstance(indices, dict) else [indices]
    rows = [1 + max(ids) for ids in lists if ids]
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        names = [n for n in file.keys() if re.search(r"(embed_tokens|wte|lm_head)\.weight$", n)]  # noqa: SIM118
        rows += [file.get_slice(n).get_shape()[0] for n in names]
    return max(rows, default=0)


class HfEngine(Engine):
    """Greedy and sampled generation, `batch_size` completions at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, batch_size: int):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        base: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
        self.accepts = set(inspect.signature(base.forward).parameters)

    def units(self, requests: Sequence[Request], done: set[int]) -> list[list[int]]:
        """See Engine."""
        return batches(requests, done, self.batch_size)

    def run(self, source: Source, sampling: Sampling, report: OnCompletion, tokens: OnTokens) -> None:
        """See Engine."""
        while units := source.more(0):
            for unit in units:
                with torch.inference_mode():
                    self._batch(unit, sampling, report, tokens)

    def close(self) -> None:
        """Free the model's memory."""
        del self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _batch(self, unit: Unit, sampling: Sampling, report: OnCompletion, tokens: OnTokens) -> None:
        logits, cache, mask = self._prefill([request.prompt for _, request in unit])
        rows = [Row(index, request, sampling) for index, request in unit]
        while True:
            chosen = next_tokens(rows, logits, sampling)
            tokens(len(rows))
            keep = []
            for position, row in enumerate(rows):
                if row.finished(self.tokenizer):
                    report(row.index, finish(self.tokenizer, row.ids, sampling, row.logprobs, row.entropies))
                else:
                    keep.append(position)
            if not keep:
                return
            if len(keep) < len(rows):
                rows, chosen = [rows[p] for p in keep], [chosen[p] for p in keep]
                index = torch.tensor(keep, device=mask.device)
                cache.batch_select_indices(index)
                mask = mask[index]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            step = torch.tensor(chosen, device=mask.device)[:, None]
            logits, cache = self._forward(step, mask, cache)

    def _prefill(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Cache, Tensor]:
        """Left-padded prompts, each different one computed once: (logits [rows, vocab], cache, mask [rows, length])."""
        unique = list(dict.fromkeys(prompts))
        length = max(map(len, unique))
        device = next(self.model.parameters()).device
        ids = torch.zeros(len(unique), length, dtype=torch.long, device=device)  # the pad id is masked: any will do
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(unique):
            ids[row, length - len(prompt) :] = torch.tensor(prompt, device=device)
            mask[row, length - len(prompt) :] = 1
        logits, cache = self._forward(ids, mask, None)
        if len(unique) < len(prompts):
            index = torch.tensor([unique.index(p) for p in prompts], device=device)
            cache.batch_select_indices(index)
            logits, mask = logits[index], mask[index]
        return logits, cache, mask

    def _forward(self, ids: Tensor, mask: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        extra: dict[str, Tensor | int] = {}
        if "position_ids" in self.accepts:
            extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self.accepts:
            extra["logits_to_keep"] = 1
        out = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        return out.logits[:, -1].float(), out.past_key_values


def next_tokens(rows: Sequence[Row], logits: Tensor, sampling: Sampling) -> list[int]:
    """Each row's next token from logits [rows, vocab], appended to it; plain greedy decoding takes all with one call."""
    if sampling.temperature or sampling.logprobs or sampling.repetition_penalty != 1:
        return [row.choose(line) for row, line in zip(rows, logits, strict=True)]
    tokens = [int(token) for token in logits.argmax(-1).tolist()]  # of equal logits the first one, as for one row
    for row, token in zip(rows, tokens, strict=True):
        row.ids.append(token)
    return tokens


class Row:
    """One completion in the making."""

    def __init__(self, index: int, request: Request, sampling: Sampling):
        self.index, self.request, self.sampling = index, request, sampling
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.entropies: list[float] = []
        self.generator = torch.Generator().manual_seed(request.seed)
        # a stop text of n bytes spans at most n tokens; a few more for a character that begins inside an earlier one
        self.tail = max((len(s.encode()) for s in sampling.stop), default=0) + 4

    def choose(self, logits: Tensor) -> int:
        """The next token from logits [vocab]; it is appended."""
        scores = penalised(logits, [*self.request.prompt, *self.ids], self.sampling.repetition_penalty)
        if self.sampling.temperature == 0:
            token = int(scores.argmax())
        else:
            token = int(torch.multinomial(probabilities(scores, self.sampling), 1, generator=self.generator))
        self.ids.append(token)
        if self.sampling.logprobs:
            self._measure(logits, token)
        return token

    def _measure(self, logits: Tensor, token: int) -> None:
        """Log-probability of the token and entropy of the model's own distribution, before every rule of the sampling."""
        logprob = torch.log_softmax(logits.double(), dim=-1)
        self.logprobs.append(float(logprob[token]))
        self.entropies.append(float(torch.special.entr(logprob.exp()).sum()))

    def finished(self, tokenizer: Tokenizer) -> bool:
        if self.ids[-1] in self.sampling.end_ids or len(self.ids) >= self.request.max_new_tokens:
            return True
        if not self.sampling.stop:
            return False
        text = decoded(tokenizer, self.ids[-self.tail :], self.sampling.kept_special)
        return any(s in text for s in self.sampling.stop)
