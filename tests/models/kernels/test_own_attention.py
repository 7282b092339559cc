"""Architectures that take no attention but their own: plain transformers' numbers, one example a sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.errors import UserError
from mft_cli.models.kernels.attention import packed_kwargs
from mft_cli.models.kernels.backends import register
from mft_cli.models.kernels.cross_entropy import hidden_states, own_logits
from mft_cli.models.kernels.own_attention import has_own_attention
from mft_cli.models.loading import load_model
from mft_cli.models.pretrained import read_model
from mft_cli.models.probes import may_pack, settle

CPU = torch.device("cpu")
B = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}  # fmt: skip
FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "stablelm": ("stablelm", B),  # drops the arguments on the way to its attention
    "nemotron": ("nemotron", B),
    "falcon": ("falcon", FALCON | {"alibi": False}),  # chooses among transformers' own by name
    "falcon with alibi": ("falcon", FALCON | {"alibi": True}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),  # no mask is made for attention that it does not know
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512}),
    "gptj": ("gptj", OLD | {"rotary_dim": 4}),
}  # fmt: skip
LENGTHS = [9, 14, 1]


def saved(name: str, folder: Path, vocabulary: int = 61) -> Path:
    """A random model whose weights are large enough to read their context."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = KINDS[name]
    ends = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings, **ends))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
    model.save_pretrained(str(folder))
    return folder


def loaded(folder: Path) -> Any:
    config = ModelConfig(path=str(folder))
    return load_model(str(folder), config, dtype=torch.float32, attention=register("sdpa")).eval()


@pytest.mark.parametrize("name", KINDS)
def test_padded_sequences_have_plain_transformers_losses_and_gradients(tmp_path: Path, name: str):
    model, plain = loaded(saved(name, tmp_path)), read_model(tmp_path, dtype=torch.float32).eval()
    notice = settle(model, CPU)
    assert "trained with its own and one example a sequence" in str(notice)
    assert has_own_attention(model)
    assert not may_pack(model)
    documents = [torch.randint(0, 61, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
    width = max(LENGTHS)
    ids = torch.stack([F.pad(d, (0, width - len(d))) for d in documents])
    rows = [[n, width - n] if n < width else [n] for n in LENGTHS]
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in rows])
    states = hidden_states(model, input_ids=ids, position_ids=positions, use_cache=False, **packed_kwargs(rows))
    ours = sum(loss(own_logits(model, s[: len(d)]), d) for s, d in zip(states, documents, strict=True))
    theirs = sum(loss(plain(input_ids=d[None], use_cache=False).logits[0], d) for d in documents)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.backward()
    theirs.backward()
    expected = dict(plain.named_parameters())
    for parameter, value in model.named_parameters():
        torch.testing.assert_close(value.grad, expected[parameter].grad, rtol=1e-4, atol=1e-4)


def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:-1], ids[1:], reduction="sum")


def test_hidden_positions_are_refused(tmp_path: Path):
    model = loaded(saved("stablelm", tmp_path))
    settle(model, CPU)
    hidden = torch.zeros(1, 8, dtype=torch.bool)
    with pytest.raises(UserError, match=r"is run with its own attention, which cannot hide single positions"):
        hidden_states(model, input_ids=torch.zeros(1, 8, dtype=torch.long), **packed_kwargs([[8]], hidden))
