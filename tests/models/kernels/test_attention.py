"""Packed rows give every document the losses that it has alone, on each backend and architecture."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mft_cli.models.kernels import short_attention
from mft_cli.models.kernels.attention import PackedRows, flex_packed_attention, may_attend, packed_kwargs
from mft_cli.models.kernels.backends import register, resolve

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
GPT2 = {
    "vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"sliding_window": 5, "attn_logit_softcapping": 3.0}),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox": ("gpt_neox", {"num_key_value_heads": None}),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {}),
    "granite": ("granite", {}),
}
WITH_SINKS: dict[str, tuple[str, dict[str, Any]]] = {"gpt_oss": ("gpt_oss", {})}
LENGTHS = [[9, 1, 14, 8], [20, 7, 5]]  # rows of 32; the last of a row may stand for padding
CPU_BACKENDS = ("sdpa", "flex")


def tiny(name: str, implementation: str, **more: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, changes = {**ARCHITECTURES, **WITH_SINKS}[name]
    config = AutoConfig.for_model(kind, **((changes if kind == "gpt2" else SMALL | changes) | more))
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()


def alone(model: Any, ids: Tensor, labels: Tensor, lengths: list[list[int]]) -> Tensor:
    """Losses [R, T] of every document by itself, with transformers' eager attention."""
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    rows = []
    for row, wanted, own in zip(ids, labels, lengths, strict=True):
        for part, want in zip(row.split(own), wanted.split(own), strict=True):
            rows.append(F.cross_entropy(plain(part[None]).logits[0], want, reduction="none"))
    return torch.cat(rows).view(ids.shape)


def packed(model: Any, ids: Tensor, labels: Tensor, lengths: list[list[int]], hidden: Tensor | None = None) -> Tensor:
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    logits = model(input_ids=ids, position_ids=positions, use_cache=False, **packed_kwargs(lengths, hidden)).logits
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(ids.shape)


def sample(seed: int = 0, shape: tuple[int, int] = (2, 32)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 61, shape, generator=generator), torch.randint(0, 61, shape, generator=generator)


@torch.no_grad()  # flex has no backward on a CPU
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_losses_are_those_of_each_document_alone(name: str, backend: str) -> None:
    model = tiny(name, register(backend))
    ids, labels = sample()
    expected = alone(model, ids, labels, LENGTHS)
    torch.testing.assert_close(packed(model, ids, labels, LENGTHS), expected, rtol=0, atol=1e-5)


def test_sinks_take_their_share_in_every_document() -> None:
    """gpt-oss: a score of each head that takes part in the softmax and has no value."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6}
    model = tiny("gpt_oss", register("sdpa"), **experts)
    ids, labels = sample()
    sinks = [p for name, p in model.named_parameters() if name.endswith("sinks")]
    torch.nn.init.normal_(sinks[0], std=2.0)
    losses = packed(model, ids, labels, LENGTHS)
    expected = alone_same(model, ids, labels)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)
    of_packed, of_each = (torch.autograd.grad(x.sum(), sinks) for x in (losses, expected))
    torch.testing.assert_close(of_packed, of_each, rtol=1e-4, atol=2e-5)
    assert float(of_each[0].abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_gradients_and_recomputation(name: str) -> None:
    """Weight gradients equal those of documents alone; activation checkpointing sees the same documents again."""
    off = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0} if name == "gpt2" else {}
    model = tiny(name, resolve("sdpa", "cpu"), **off)
    ids, labels = sample()
    expected = torch.autograd.grad(alone_same(model, ids, labels).sum(), trained(model))
    found = torch.autograd.grad(packed(model, ids, labels, LENGTHS).sum(), trained(model))
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = torch.autograd.grad(packed(model, ids, labels, LENGTHS).sum(), trained(model))
    for a, b, c in zip(expected, found, again, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(c, b, rtol=1e-5, atol=1e-6)


def trained(model: Any) -> list[Tensor]:
    return list(model.parameters())


def alone_same(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    """As `alone`, on the very parameters of `model`."""
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    losses = [
        F.cross_entropy(model(part[None]).logits[0], want, reduction="none")
        for row, wanted, lengths in zip(ids, labels, LENGTHS, strict=True)
        for part, want in zip(row.split(lengths), wanted.split(lengths), strict=True)
    ]
    model.set_attn_implementation(own)
    return torch.cat(losses).view(ids.shape)


@torch.no_grad()  # flex has no backward on a CPU
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_neox"])
def test_a_hidden_key_changes_nothing_but_its_own_position(name: str, backend: str) -> None:
    model = tiny(name, register(backend))
    ids, labels = sample()
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[0, 3] = hidden[0, 11] = hidden[1, 0] = hidden[1, 25] = True
    other = torch.where(hidden, (ids + 7) % 60 + 1, ids)
    one, two = (packed(model, x, labels, LENGTHS, hidden) for x in (ids, other))
    torch.testing.assert_close(one[~hidden], two[~hidden], rtol=0, atol=1e-5)
    assert not torch.allclose(one[hidden], two[hidden], atol=1e-3)
    assert not torch.allclose(packed(model, ids, labels, LENGTHS), one, atol=1e-3)


@torch.no_grad()  # flex has no backward on a CPU
def test_backends_agree_on_hidden_keys() -> None:
    model = tiny("mistral", resolve("sdpa", "cpu"))
    ids, labels = sample()
    hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(5)) < 0.4
    one = packed(model, ids, labels, LENGTHS, hidden)
    model.set_attn_implementation(register("flex"))
    torch.testing.assert_close(packed(model, ids, labels, LENGTHS, hidden), one, rtol=0, atol=1e-5)
    assert bool(one.isfinite().all())


def test_hiding_everything_leaves_each_position_to_itself() -> None:
    model = tiny("llama", resolve("sdpa", "cpu"))
    ids, _ = sample()
    ones = [[1] * 32] * 2
    everything = torch.ones_like(ids, dtype=torch.bool)
    positions = torch.zeros_like(ids)
    logits = model(input_ids=ids, position_ids=positions, use_cache=False, **packed_kwargs(ones)).logits
    hidden = model(input_ids=ids, position_ids=positions, use_cache=False, **packed_kwargs(LENGTHS, everything)).logits
    torch.testing.assert_close(hidden, logits, rtol=0, atol=1e-5)


def test_long_documents_and_dropout_take_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama", resolve("sdpa", "cpu"), attention_dropout=0.3)
    ids, labels = sample()
    expected = packed(model, ids, labels, LENGTHS)
    monkeypatch.setattr("mft_cli.models.kernels.attention.LIMIT", 0)
    torch.testing.assert_close(packed(model, ids, labels, LENGTHS), expected, rtol=0, atol=1e-5)
    model.train()
    assert not torch.allclose(packed(model, ids, labels, LENGTHS), expected, atol=1e-3)


# ---- the products of short documents --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    t=st.integers(1, 40), heads=st.sampled_from([1, 2, 3]), groups=st.sampled_from([1, 2, 3]), d=st.integers(1, 9),
    window=st.sampled_from([None, 1, 3, 100]), share=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_short_attention_is_scaled_dot_product_attention(
    t: int, heads: int, groups: int, d: int, window: int | None, share: float, seed: int
) -> None:
    torch.manual_seed(seed)
    q, k, v = torch.randn(t, heads * groups, d), torch.randn(t, heads, d), torch.randn(t, heads, d)
    before = q.clone(), k.clone(), v.clone()
    for x in (q, k, v):
        x.requires_grad_()
    hidden = torch.rand(t) < share
    allowed = may_attend(t, window, hidden, torch.device("cpu"))
    mask = None if window is None and share == 0.0 else allowed
    found = short_attention.short_attention(q, k, v, mask, 0.3)
    turned = (x.transpose(0, 1)[None] for x in (q, k, v))
    expected = F.scaled_dot_product_attention(*turned, attn_mask=allowed, scale=0.3, enable_gqa=True)[0].transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(x, (q, k, v), upstream) for x in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip((q, k, v), before, strict=True))


def test_short_attention_in_bf16_is_as_exact_as_the_fused_kernel() -> None:
    torch.manual_seed(0)
    t = 150
    exact = [torch.randn(t, h, 16) for h in (6, 2, 2)]
    mask = may_attend(t, None, None, torch.device("cpu"))

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.25, enable_gqa=True)[0].transpose(0, 1)

    want = fused(*exact)
    rounded = [x.bfloat16() for x in exact]
    ours = short_attention.short_attention(*rounded, None, 0.25)
    assert ours.dtype == torch.bfloat16
    assert float((ours.float() - want).norm()) < 1.2 * float((fused(*rounded).float() - want).norm())


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_uneven_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same width"):
        packed_kwargs([[3, 4], [8]])
    with pytest.raises(ValueError, match="positive"):
        PackedRows([[3, 0]])


def test_wrong_use_is_refused_not_computed_wrongly() -> None:
    model = tiny("llama", resolve("sdpa", "cpu"))
    ids, _ = sample()
    with pytest.raises(ValueError, match="packed_kwargs"):
        model(ids)
    with pytest.raises(ValueError, match="do not fit"):
        model(ids, **packed_kwargs([[5, 5], [10]]))
    with pytest.raises(ValueError, match="no attention mask"):
        model(ids, attention_mask=torch.ones(2, 1, 32, 32), **packed_kwargs(LENGTHS))
    q = torch.randn(1, 4, 32, 8)
    with pytest.raises(ValueError, match="s_aux"):
        flex_packed_attention(torch.nn.Module(), q, q, q, None, s_aux=torch.zeros(4), **packed_kwargs([[32]]))


def test_flex_refuses_dropout() -> None:
    model = tiny("llama", register("flex"), attention_dropout=0.3).train()
    with pytest.raises(ValueError, match="dropout"):
        model(sample()[0], use_cache=False, **packed_kwargs(LENGTHS))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("backend", "precision"), [("sdpa", "fp32"), ("flex", "fp32"), ("auto", "fp32"), ("auto", "bf16")]
)
def test_on_cuda(backend: str, precision: str) -> None:
    implementation = resolve(backend, "cuda", precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = tiny("llama", implementation, hidden_size=128, head_dim=32).to("cuda", dtype)
    ids, labels = (x.cuda() for x in sample())
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in LENGTHS]).cuda()
    logits = model(input_ids=ids, position_ids=positions, use_cache=False, **packed_kwargs(LENGTHS)).logits
    found = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none").view(ids.shape)
    tolerance = 5e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(found, alone(model.float(), ids, labels, LENGTHS), rtol=0, atol=tolerance)


def test_boundaries_are_one_tensor_for_all_layers() -> None:
    """Copied to the device once: a copy in every layer would be waited for."""
    rows = PackedRows([[3, 2], [4, 1]])
    first = rows.boundaries(torch.device("cpu"))
    assert first.tolist() == [0, 3, 5, 9, 10]
    assert rows.boundaries(torch.device("cpu")) is first
