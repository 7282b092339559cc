"""A model is asked what its tokens see before a run trusts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mft_cli.errors import UserError
from mft_cli.models.architectures import unsupported
from mft_cli.models.kernels.backends import register
from mft_cli.models.kernels.cross_entropy import own_logits
from mft_cli.models.kernels.own_attention import has_own_attention
from mft_cli.models.probes import CHANGED, LENGTH, Sight, judge, may_pack, probe, probe_rows, settle
from tests.support.tiny import mft, tiny_overrides

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}


def tiny(kind: str, backend: str = "sdpa", **settings: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=register(backend))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6)  # random weights of the usual size hardly read their context
    return model


def leaking() -> Any:
    return tiny("qwen3_next", **SMALL, **LINEAR, **EXPERTS)


@pytest.mark.parametrize("backend", ["sdpa", "flex"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_keeps_documents_apart(backend: str, dtype: torch.dtype):
    model = tiny("qwen3_moe", backend, **SMALL, **EXPERTS).to(dtype).train()
    assert probe(model, torch.device("cpu")) == Sight(other_documents=False, later_tokens=False)
    assert model.training, "the probe leaves the model as it was"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recurrent_layers_leak(dtype: torch.dtype):
    assert probe(leaking().to(dtype), torch.device("cpu")) == Sight(other_documents=True, later_tokens=False)


def test_a_model_whose_attention_is_not_causal_is_refused():
    model = tiny("llama", **SMALL)

    class Ahead(torch.nn.Module):  # hides in code of its own that it looks ahead
        def forward(self, x):
            return x + x.mean(1, keepdim=True)

    model.model.norm = Ahead()
    with pytest.raises(UserError, match="LlamaForCausalLM cannot be trained here: its tokens see later ones"):
        settle(model, torch.device("cpu"))
    with pytest.raises(UserError, match="RobertaForCausalLM cannot be trained here: its tokens see later ones"):
        settle(tiny("roberta", **SMALL), torch.device("cpu"))


def test_an_architecture_that_does_not_hand_the_documents_down():
    with pytest.raises(UserError, match="StableLmForCausalLM cannot be trained here: ") as refused:
        probe(tiny("stablelm", **SMALL), torch.device("cpu"))
    assert "mft_packed" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_settling_finds_is_asked_of_the_model_later():
    models = {"llama": tiny("llama", **SMALL), "leaking": leaking()}
    notices = {name: settle(model, torch.device("cpu")) for name, model in models.items()}
    assert notices["llama"] is None
    assert "carries something over" in str(notices["leaking"])
    assert {name: may_pack(model) for name, model in models.items()} == {"llama": True, "leaking": False}
    assert not has_own_attention(models["leaking"])


def test_a_head_that_calls_a_part_of_the_body():
    sizes = {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
    }
    model = tiny("opt", vocab_size=61, **sizes)
    assert probe(model, torch.device("cpu")) == Sight(False, False)
    hidden = torch.randn(3, 32)
    torch.testing.assert_close(own_logits(model, hidden), model.lm_head(hidden))


def test_what_counts_as_a_difference():
    rows = probe_rows(5)
    assert rows.shape == (3, 2 * LENGTH)
    assert (rows[0, LENGTH:] == rows[1, LENGTH:]).all()
    assert (rows[0, :LENGTH] != rows[1, :LENGTH]).all()
    assert (rows[0] != rows[2]).nonzero().flatten().tolist() == list(range(2 * LENGTH - CHANGED, 2 * LENGTH))
    states = torch.ones(3, 2 * LENGTH, 4)
    assert judge(states) == Sight(False, False)
    states[1, LENGTH] += 1e-3
    states[2, 0] += 1e-3
    assert judge(states) == Sight(True, True)
    assert judge(torch.full_like(states, torch.nan)) == Sight(True, True), "what is no number proves nothing"
    assert "llama" in unsupported("X", "y")


def test_a_run_of_a_leaking_model_is_unpacked_and_recorded(tmp_path: Path, tiny_model: Path, problem_file: Path):
    model = tiny("qwen3_next", **{**SMALL, "vocab_size": 600, "max_position_embeddings": 512}, **LINEAR, **EXPERTS)
    model.save_pretrained(str(tmp_path / "model"))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tiny_model / name).is_file():
            (tmp_path / "model" / name).write_bytes((tiny_model / name).read_bytes())
    arguments = tiny_overrides(tmp_path / "model", problem_file, **{"train.epochs": 0.3})
    runs = {}
    for name, packing in (("packed", "true"), ("padded", "false")):
        done = mft("train", *arguments, f"train.packing={packing}", f"run_dir={name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        assert ("one example a sequence" in done.stdout) == (name == "packed")
        assert json.loads((tmp_path / name / "run.json").read_text())["packing"] is False
        runs[name] = (tmp_path / name / "export" / "model.safetensors").read_bytes()
    assert runs["packed"] == runs["padded"]
