"""New tokens and the rows of embeddings that they need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mft_cli.answers.critique_format import TAGS
from mft_cli.console import quiet_transformers
from mft_cli.distributed.zero import gathered, shape_of


def add_words(tokenizer: Any, tokens: list[str]) -> None:
    """Add special tokens to a tokenizer; those that it has stay as they are."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens], special_tokens=True)


def add_tokens(model: nn.Module, tokenizer: Any, tokens: list[str]) -> int:
    """Rows of the embeddings for new tokens, each the mean of the old rows. Returns the rows added.

    `tokens` are new: the tokenizer lacks them, or they are the last that were added to it.
    Many models have more embedding rows than words; such a spare row is used and overwritten, not appended.
    """
    if not tokens:
        return 0
    add_words(tokenizer, tokens)
    words = len(tokenizer) - len(tokens)
    before = embedding_rows(model)
    if len(tokenizer) > before:
        with quiet_transformers():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # type: ignore[operator]
    modules = {model.get_input_embeddings(), model.get_output_embeddings()}  # type: ignore[operator]
    with torch.no_grad(), gathered([p for m in modules for p in m.parameters()], modify=True):
        for module in modules:
            weight = module.weight
            weight[words : len(tokenizer)] = weight[:words].float().mean(0).to(weight.dtype)
            if getattr(module, "bias", None) is not None:
                module.bias[words : len(tokenizer)] = module.bias[:words].float().mean().to(module.bias.dtype)
    return embedding_rows(model) - before


def embedding_rows(model: Any) -> int:
    return int(shape_of(table(model.get_input_embeddings()))[0])


def table(embedding: Any) -> Tensor:
    """An embedding's or head's weight, also inside the wrapper that peft puts around one whose new rows train."""
    weight: Tensor = getattr(embedding, "original_module", embedding).weight
    return weight


def structure_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Ids of the special tokens that give a completion its structure (a critique's tags): they stay in its text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return tuple(sorted(i for i, token in added.items() if token.special and token.content in TAGS))
