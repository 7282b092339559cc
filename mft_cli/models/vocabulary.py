"""New tokens and the rows of embeddings that they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mft_cli.answers.critique_format import TAGS
from mft_cli.console import quiet_transformers
from mft_cli.distributed.zero import gathered, is_partitioned, shape_of
from mft_cli.errors import UserError


def extend_tokenizer(tokenizer: PreTrainedTokenizerFast, tokens: list[str]) -> None:
    """Add special tokens to a tokenizer; those that it has stay as they are."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens], special_tokens=True)


def extend_model(model: nn.Module, tokenizer: PreTrainedTokenizerFast, tokens: list[str]) -> int:
    """Rows of the embeddings for new tokens, each the mean of the old rows. Returns the rows added.

    `tokens` are new: the tokenizer lacks them, or they are the last that were added to it.
    Many models have more embedding rows than tokens; such a spare row is used and overwritten, not appended.
    """
    if not tokens:
        return 0
    extend_tokenizer(tokenizer, tokens)
    modules: set[nn.Module] = {model.get_input_embeddings(), model.get_output_embeddings()}  # type: ignore[operator]
    for parameter in (p for m in modules for p in m.parameters(recurse=False) if not is_partitioned(p)):
        parameter.data = parameter.data.float()  # 16 bits would round the mean
    first, before = len(tokenizer) - len(tokens), embedding_rows(model)
    if len(tokenizer) > before:
        with quiet_transformers():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # type: ignore[operator]
    modules = {model.get_input_embeddings(), model.get_output_embeddings()}  # type: ignore[operator]
    with torch.no_grad(), gathered([p for m in modules for p in m.parameters()], modify=True):
        for module in modules:
            for table_rows in module.parameters(recurse=False):  # the weight, and a head's bias
                old = table_rows[: min(first, before)].float()  # a tokenizer may have tokens without a row
                table_rows[first : len(tokenizer)] = old.mean(0).to(table_rows.dtype)
    return embedding_rows(model) - before


def check_tokens_have_rows(
    tokenizer: PreTrainedTokenizerFast, ids: np.ndarray, rows: int, new_ids: list[int], path: str
) -> None:
    """Raises UserError if one of the data's token `ids` lies beyond the model's embedding; `new_ids` get their rows."""
    without = set(np.unique(ids[ids >= rows]).tolist()) - set(new_ids)
    if without:
        first = min(without)
        raise UserError(
            f"model.path={path}: its tokenizer has {len(tokenizer)} tokens, but the model has rows for {rows}; the data "
            f"holds {tokenizer.convert_ids_to_tokens(first)!r} (id {first}), which the model has no row for: take the "
            f"tokenizer that belongs to the model, or a model whose embeddings were resized for it"
        )


def check_has_row(model: nn.Module, key: str, token: str, token_number: int) -> None:
    """Raises UserError if the model has no embedding row for the token that `key` names."""
    rows = embedding_rows(model)
    if token_number >= rows:
        raise UserError(
            f"{key}={token!r} is the tokenizer's id {token_number}, but the model has rows for {rows} tokens: name a token "
            f"below that, or a new one such as '<mask>', which gets a row"
        )


def padding_id(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel) -> int:
    """The padding token, or 0 where the model has no row for it. Padding is a document of its own: no number depends on it."""
    pad = tokenizer.pad_token_id
    return pad if isinstance(pad, int) and pad < embedding_rows(model) else 0


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of a token that the tokenizer has."""
    token_number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_number, int), token  # a list is for lists
    return token_number


def embedding_rows(model: nn.Module) -> int:
    return int(shape_of(table(model.get_input_embeddings()))[0])  # type: ignore[operator]


def table(embedding: Any) -> Tensor:
    """An embedding's or head's weight, also inside the wrapper that peft puts around one whose new rows train."""
    weight: Tensor = getattr(embedding, "original_module", embedding).weight
    return weight


def structure_tokens(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """Ids of the special tokens that give a completion its structure (a critique's tags): they stay in its text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return tuple(sorted(i for i, token in added.items() if token.special and token.content in TAGS))
