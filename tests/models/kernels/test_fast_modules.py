"""Swapped modules compute what the originals do, keep less for backward, and are left alone when they would not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mft_cli.models.kernels.fast_modules import install

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
EXPECTED = {"llama": 7, "qwen2": 7, "qwen3": 11, "mistral": 7, "gemma": 7, "gemma2": 11, "olmo2": 11, "gpt_neox": 0}


def tiny(kind: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def uninstall(model: nn.Module) -> int:
    """Gives swapped modules their own forward back. Returns how many."""
    fast = [m for m in model.modules() if "forward" in vars(m)]
    for module in fast:
        del module.forward
    return len(fast)


def run(model: Any, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits = model(ids).logits
    logits.float().square().mean().backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", EXPECTED)
def test_outputs_and_gradients_stay(kind: str, dtype: torch.dtype) -> None:
    model = tiny(kind).to(dtype)
    ids = torch.randint(1, 60, (2, 9))
    logits, gradients = run(model, ids)
    assert install(model) == EXPECTED[kind]
    assert install(model) == 0
    found, own = run(model, ids)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert float((found - logits).float().norm()) <= tolerance * float(logits.float().norm())
    for name, gradient in gradients.items():
        assert own[name].dtype == dtype
        size = max(float(gradient.float().norm()), 1e-4)
        assert float((own[name] - gradient).float().norm()) <= tolerance * size, name
    assert uninstall(model) == EXPECTED[kind]
    assert torch.equal(run(model, ids)[0], logits)


def test_less_is_kept_for_backward() -> None:
    kept = []
    for fast in (False, True):
        model = tiny("llama").to(torch.bfloat16)
        if fast:
            install(model)
        seen: dict[int, int] = {}
        own = {p.data_ptr() for p in model.parameters()}

        def note(x: Tensor, seen: dict[int, int] = seen, own: set[int] = own) -> Tensor:
            if x.data_ptr() not in own:
                seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            output = model.model.layers[0](
                torch.randn(1, 9, 32, dtype=torch.bfloat16, requires_grad=True),
                position_embeddings=(torch.ones(1, 9, 8, dtype=torch.bfloat16),) * 2,
            )
        kept.append(sum(seen.values()))
        del output
    assert kept[1] < 0.8 * kept[0]


def test_state_and_copies() -> None:
    model = tiny("llama")
    names = list(model.state_dict())
    install(model)
    assert list(model.state_dict()) == names
    twin = copy.deepcopy(model)
    twin.model.norm.weight.data.zero_()
    x = torch.randn(1, 3, 32)
    assert float(twin.model.norm(x).abs().sum()) == 0.0
    assert float(model.model.norm(x).abs().sum()) > 0.0


class OddRMSNorm(nn.Module):
    """Looks like a norm, computes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / x.abs().mean(-1, keepdim=True)


def test_a_module_that_computes_something_else_is_left_alone() -> None:
    assert install(nn.Sequential(OddRMSNorm())) == 0


def test_activation_checkpointing_and_frozen_weights() -> None:
    model = tiny("llama")
    ids = torch.randint(1, 60, (1, 6))
    _, gradients = run(model, ids)
    install(model)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    _, again = run(model, ids)
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)
    model.model.norm.weight.requires_grad_(False)
    run(model, ids)
