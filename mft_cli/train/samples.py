"""Texts generated while training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from mft_cli.config.schema.training import LogConfig
from mft_cli.data.load import Loaded
from mft_cli.data.pack import make_batch
from mft_cli.data.prompts import Renderer
from mft_cli.eval.engines.base import decoded
from mft_cli.methods.base import Method
from mft_cli.models.pretrained import plain_attention
from mft_cli.models.vocabulary import structure_tokens
from mft_cli.rng import Draw


def sampler(
    path: Path, config: LogConfig, seed: int, model: PreTrainedModel, method: Method, renderer: Renderer, loaded: Loaded
) -> Callable[[int], None] | None:
    """What appends greedy completions of a few validation (else training) prompts, and what the method adds, to `path`."""
    if not config.samples_every_steps:
        return None
    examples = loaded.validation if loaded.validation is not None else loaded.train

    def sample(step: int) -> None:
        model.eval()
        batches = [
            make_batch(examples, [[i]], 0, 0).to(model.device) for i in range(min(config.samples, len(examples)))
        ]
        more = [method.sample(model, batch, renderer.tokenizer, Draw(seed)) for batch in batches]
        with generating(model), torch.no_grad(), open(path, "a", encoding="utf-8") as file:
            for i in range(len(batches)):
                here = examples.place(i)
                first = here.start + int(examples.loss_mask[here].argmax())
                prompt = torch.from_numpy(examples.tokens[here.start : first].astype("int64"))[None].to(model.device)
                made = model.generate(  # type: ignore[operator]
                    input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=config.sample_tokens,
                    do_sample=False, eos_token_id=renderer.end_ids, pad_token_id=renderer.tokenizer.pad_token_id,
                )  # fmt: skip
                text = decoded(
                    renderer.tokenizer, made[0, prompt.shape[1] :].tolist(), structure_tokens(renderer.tokenizer)
                )
                row = {"step": step, "row": examples.key(i), "completion": text, **more[i]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        model.train()

    return sample


@contextmanager
def generating(model: PreTrainedModel) -> Iterator[None]:
    """A model in training, made to generate: packed rows need lengths, generation has plain sequences."""
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    model.config._attn_implementation = plain_attention(model)
    try:
        yield
    finally:
        model.config._attn_implementation = attention
        model.train(training)
