"""Chunked cross entropy against plain F.cross_entropy: values, all gradients, and models whose head is not plain."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mft_cli.models.kernels import cross_entropy
from mft_cli.models.kernels.cross_entropy import (
    head_is_plain,
    head_losses,
    hidden_states,
    own_logits,
    summed_cross_entropy,
)


def case(n: int, d: int, v: int, bias: bool, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Any, ...]:
    torch.manual_seed(seed)
    head = nn.Linear(d, v, bias=bias)
    nn.init.normal_(head.weight, std=0.5)
    hidden = torch.randn(n, d).to(dtype).requires_grad_()
    return hidden, head.to(dtype), torch.randint(0, v - 2, (n,)), torch.rand(n) * 2


def reference(hidden: Tensor, head: nn.Linear, labels: Tensor, weights: Tensor | None, vocab: int | None) -> Any:
    logits = head(hidden)[:, :vocab].float()
    each = F.cross_entropy(logits, labels, reduction="none")
    return (each if weights is None else each * weights).sum(), each, logits.argmax(-1) == labels


def gradients(total: Tensor, hidden: Tensor, head: nn.Linear, upstream: float) -> list[Tensor]:
    wanted = [hidden, *(p for p in head.parameters() if p.requires_grad)]
    return list(torch.autograd.grad(total * upstream, wanted))


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    scale = max(float(b.detach().abs().max()), 1e-12) if b.numel() else 1.0
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert float((a - b).abs().max() if a.numel() else 0.0) <= tolerance * scale


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 23), d=st.integers(1, 9), v=st.integers(3, 40), chunk=st.integers(1, 30), bias=st.booleans(),
    weighted=st.booleans(), cut=st.integers(0, 2), upstream=st.sampled_from([1.0, 0.25, -3.0]), seed=st.integers(0, 99),
    block=st.sampled_from([1, 64, 2**21]),
)  # fmt: skip
def test_values_and_gradients_are_those_of_plain_cross_entropy(
    n: int, d: int, v: int, chunk: int, bias: bool, weighted: bool, cut: int, upstream: float, seed: int, block: int
) -> None:
    hidden, head, labels, weights = case(n, d, v, bias, seed=seed)
    weights = weights if weighted else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cross_entropy.BLOCK_ELEMENTS, "cpu", block)
        total, each, predicted = summed_cross_entropy(
            hidden, head, labels, weights, vocab_size=v - cut, chunk_tokens=chunk
        )
    expected, expected_each, expected_right = reference(hidden, head, labels, weights, v - cut)
    close(total, expected, 1e-6)
    close(each, expected_each, 2e-6)
    assert torch.equal(predicted == labels, expected_right)
    assert not each.requires_grad
    ours, theirs = gradients(total, hidden, head, upstream), gradients(expected, hidden, head, upstream)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).abs().max()) <= 1e-6 * max(1.0, float(b.abs().max()))


def test_bf16_is_as_close_to_fp32_as_plain_bf16_is() -> None:
    hidden, head, labels, weights = case(300, 64, 1000, True, torch.bfloat16)
    exact_head = copy.deepcopy(head).float()
    exact_hidden = hidden.detach().float().requires_grad_()
    exact = reference(exact_hidden, exact_head, labels, weights, None)
    ours = summed_cross_entropy(hidden, head, labels, weights, chunk_tokens=64)
    assert ours[0].dtype == torch.float32
    assert float(ours[0].detach()) == pytest.approx(float(exact[0].detach()), rel=5e-3)
    found, wanted = gradients(ours[0], hidden, head, 1 / 300), gradients(exact[0], exact_hidden, exact_head, 1 / 300)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == torch.bfloat16
        assert float((a.float() - b).norm() / b.norm()) < 0.02


def test_chunks_do_not_change_the_weight_gradient_in_bf16() -> None:
    """Sums over chunks are kept in fp32: 100 chunks round no more than one."""
    hidden, head, labels, _ = case(400, 32, 50, False, torch.bfloat16)
    one = gradients(summed_cross_entropy(hidden, head, labels, chunk_tokens=400)[0], hidden, head, 1.0)[1]
    many = gradients(summed_cross_entropy(hidden, head, labels, chunk_tokens=4)[0], hidden, head, 1.0)[1]
    assert float((one.float() - many.float()).norm() / one.float().norm()) < 0.006


def test_frozen_head_frozen_hidden_and_no_grad() -> None:
    hidden, head, labels, weights = case(7, 5, 11, True)
    expected = reference(hidden, head, labels, weights, None)
    head.requires_grad_(False)
    total = summed_cross_entropy(hidden, head, labels, weights, chunk_tokens=3)[0]
    close(torch.autograd.grad(total, hidden)[0], torch.autograd.grad(expected[0], hidden)[0], 1e-6)
    head.requires_grad_(True)
    total = summed_cross_entropy(hidden.detach(), head, labels, weights, chunk_tokens=3)[0]
    total.backward()
    assert head.weight.grad is not None
    with torch.no_grad():
        total, each, _ = summed_cross_entropy(hidden, head, labels, weights, chunk_tokens=3)
    assert not total.requires_grad
    close(each, expected[1].detach(), 1e-6)


def test_weights_are_constants_and_double_use_of_the_graph_works() -> None:
    hidden, head, labels, weights = case(6, 5, 11, False)
    weights.requires_grad_()
    total = summed_cross_entropy(hidden, head, labels, weights, chunk_tokens=4)[0]
    first = torch.autograd.grad(total * 2, hidden, retain_graph=True)[0]
    second = torch.autograd.grad(total * 2, hidden)[0]
    assert torch.equal(first, second)
    assert weights.grad is None


def test_no_labels_at_all() -> None:
    hidden, head, labels, _ = case(3, 5, 11, True)
    total, each, right = summed_cross_entropy(hidden[:0], head, labels[:0], chunk_tokens=4)
    total.backward()
    assert float(total) == 0.0
    assert len(each) == len(right) == 0
    assert head.weight.grad is None or float(head.weight.grad.abs().sum()) == 0.0


# ---- real architectures ---------------------------------------------------------------------------------------------

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


def tiny(kind: str, **settings: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    small = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4} if kind == "gpt2" else SMALL
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(small | ends | settings))).eval()


PLAIN = [("llama", {}), ("llama", {"tie_word_embeddings": True}), ("qwen2", {}), ("gemma", {}), ("gpt2", {})]
OTHER = [
    ("gemma2", {"final_logit_softcapping": 5.0}),
    ("granite", {"logits_scaling": 8.0}),
    ("cohere", {"logit_scale": 0.1}),
]


@pytest.mark.parametrize(("kind", "settings", "plain"), [(*c, True) for c in PLAIN] + [(*c, False) for c in OTHER])
def test_head_losses_are_those_of_the_models_own_logits(kind: str, settings: dict[str, Any], plain: bool) -> None:
    model = tiny(kind, **settings)
    assert head_is_plain(model) is plain
    ids = torch.randint(1, 60, (2, 9))
    labels = torch.randint(1, 60, (18,))
    weights = torch.rand(18)
    expected = F.cross_entropy(model(ids).logits.flatten(0, 1)[:, :60], labels, reduction="none")
    (expected * weights).sum().backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    hidden = hidden_states(model, input_ids=ids).flatten(0, 1)
    torch.testing.assert_close(own_logits(model, hidden), model(ids).logits.flatten(0, 1))
    total, each, _ = head_losses(model, hidden, labels, weights, vocab_size=60, chunk_tokens=5)
    torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-5)
    total.backward()
    for name, gradient in wanted.items():
        found = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("kind", "plain"), [("llama", True), ("granite", False)])
@pytest.mark.parametrize("vocab_size", [None, 60])
def test_without_labels_the_head_has_a_gradient_of_zeros(kind: str, plain: bool, vocab_size: int | None) -> None:
    """None would be no gradient: DeepSpeed sums a rank's with those of ranks that have labels."""
    model = tiny(kind, tie_word_embeddings=False, **({} if plain else {"logits_scaling": 8.0}))
    assert head_is_plain(model) is plain
    hidden = torch.randn(0, 32, requires_grad=True)
    total, each, right = head_losses(model, hidden, torch.zeros(0, dtype=torch.long), vocab_size=vocab_size)
    total.backward()
    assert float(total.detach()) == 0.0
    assert len(each) == len(right) == 0
    assert torch.equal(model.lm_head.weight.grad, torch.zeros(61, 32))
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, 32)


def test_peft_wrapped_model() -> None:
    peft = pytest.importorskip("peft")
    plain = tiny("llama")
    ids = torch.randint(1, 60, (1, 7))
    model = peft.get_peft_model(copy.deepcopy(plain), peft.LoraConfig(target_modules=["q_proj"]))
    assert torch.allclose(hidden_states(model, input_ids=ids), hidden_states(plain, input_ids=ids), atol=1e-6)
    assert head_is_plain(model)
    hidden = hidden_states(model, input_ids=ids)[0]
    head_losses(model, hidden, ids[0])[0].backward()
    assert any(p.grad is not None for p in model.parameters())
    on_head = peft.get_peft_model(plain, peft.LoraConfig(target_modules=["lm_head"]))
    assert not head_is_plain(on_head)


class Counted(TorchDispatchMode):
    """Operations, each of them a kernel on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        self.count += "view" not in str(operation) and "slice" not in str(operation)
        return operation(*arguments, **(keywords or {}))


def test_a_gpu_works_on_large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations of 1,024 labels at 128k words, without storage (meta): 4 blocks instead of 64."""
    counts = {}
    for device in ("cpu", "cuda"):
        monkeypatch.setitem(cross_entropy.BLOCK_ELEMENTS, "meta", cross_entropy.BLOCK_ELEMENTS[device])
        hidden = torch.empty(1024, 16, device="meta", dtype=torch.bfloat16, requires_grad=True)
        head = nn.Linear(16, 128_000, bias=False, device="meta", dtype=torch.bfloat16)
        labels = torch.empty(1024, dtype=torch.long, device="meta")
        with Counted() as counted:
            summed_cross_entropy(hidden, head, labels)[0].backward()
        counts[device] = counted.count
    assert counts["cuda"] < 200
    assert counts["cpu"] > 900
