"""Tokens and the rows of embeddings that they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mft_cli.errors import UserError
from mft_cli.models.vocabulary import check_has_row, check_tokens_have_rows, embedding_rows, extend_model, padding_id


def model_with(rows: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=rows, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )


def test_a_token_without_a_row_is_told_where_the_data_holds_it(tokenizer: Any):
    rows = len(tokenizer) - 2
    check_tokens_have_rows(tokenizer, np.array([0, rows - 1]), rows, [], "folder")
    check_tokens_have_rows(tokenizer, np.array([0, rows + 1]), rows, [rows + 1], "folder")  # a new token gets its row
    with pytest.raises(UserError, match=rf"^model\.path=folder: .* rows for {rows}; .* \(id {rows}\)"):
        check_tokens_have_rows(tokenizer, np.array([0, rows + 1, rows]), rows, [], "folder")


def test_new_rows_are_the_mean_of_the_rows_that_there_were(tokenizer: Any):
    rows = len(tokenizer) - 3  # three tokens without a row
    model = model_with(rows)
    mean = model.get_input_embeddings().weight.detach().mean(0)
    assert extend_model(model, tokenizer, ["<new>"]) == 4
    assert embedding_rows(model) == len(tokenizer) == rows + 4
    torch.testing.assert_close(model.get_input_embeddings().weight[-1], mean)


def test_padding_without_a_row(tokenizer: Any):
    assert padding_id(tokenizer, model_with(len(tokenizer))) == tokenizer.pad_token_id
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert padding_id(tokenizer, model_with(len(tokenizer) - 1)) == 0
    assert padding_id(tokenizer, model_with(len(tokenizer))) == len(tokenizer) - 1


def test_a_mask_token_without_a_row_is_refused():
    check_has_row(model_with(8), "method.mask_token", "[PAD]", 7)
    with pytest.raises(
        UserError, match=r"^method\.mask_token='\[PAD\]' is the tokenizer's id 8, but the model has rows for 8"
    ):
        check_has_row(model_with(8), "method.mask_token", "[PAD]", 8)


def test_random_replacements_have_rows(tokenizer: Any):
    """A tokenizer with more tokens than the model has rows, and a mask token of its own."""
    from mft_cli.config.schema.methods import MaskedThoughtConfig
    from mft_cli.methods.masked_thought import MaskedThought

    rows = len(tokenizer) - 3
    method = MaskedThought(MaskedThoughtConfig(mask_token=tokenizer.convert_ids_to_tokens(5), random_fraction=1.0))
    assert method.prepare(tokenizer) == []
    method.adapt(model_with(rows), tokenizer)
    assert method.tokenizer_size == rows
