"""Models with random weights for a generated world: texts survive its tokenizer, the same key is the same model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from mft_cli.config.schema.inputs import ModelConfig, NewModelConfig
from mft_cli.data.generated import generate
from mft_cli.errors import UserError
from mft_cli.models.loading import load_tokenizer, locate

TINY = NewModelConfig(layers=1, width=16, heads=2, feed_forward=16, context=64)


@pytest.fixture
def folder(monkeypatch, tmp_path) -> str:
    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path))
    return locate(ModelConfig(path="new:chains", new=TINY), lambda line: None)


@pytest.mark.parametrize("options", [{}, {"modulus": None, "wording": "sentences"}], ids=str)
def test_the_tokenizer_knows_the_world(folder: str, options: dict):
    tokenizer = load_tokenizer(folder, ModelConfig(path=folder))
    for row in generate("generated:chains", "train", 200, options):
        text = f"{row['question']}\n{row['response']}"
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_the_same_key_is_the_same_model(folder: str, tmp_path, monkeypatch):
    before = torch.random.get_rng_state()
    other = locate(ModelConfig(path="new:chains", new=NewModelConfig(**{**vars(TINY), "seed": 1})), lambda line: None)
    assert torch.equal(before, torch.random.get_rng_state())
    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path / "again"))
    again = locate(ModelConfig(path="new:chains", new=TINY), lambda line: None)
    first, second, third = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (folder, again, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], third["model.embed_tokens.weight"])


def test_heads_that_do_not_divide_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MFT_CACHE_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"model.new.width=16: expected a multiple"):
        locate(ModelConfig(path="new:chains", new=NewModelConfig(width=16, heads=3)), lambda line: None)
