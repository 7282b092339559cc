"""One kernel for all documents: what it is told, and which attention `auto` is. The kernels themselves run on GPUs only."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mft_cli.errors import UserError
from mft_cli.models.kernels import attention, backends, varlen
from mft_cli.models.kernels.backends import BACKENDS, register, resolve
from tests.models.kernels.test_attention import LENGTHS, packed, sample, tiny


def by_document(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor, back: int, scale: float, softcap: float = 0.0
) -> Tensor:  # fmt: skip
    """What such a kernel computes, document by document; `back` positions are seen, all with -1."""
    assert ends.dtype == torch.int32
    outputs = []
    for start, end in zip(ends.tolist(), ends.tolist()[1:], strict=False):
        mask = attention.may_attend(end - start, None if back < 0 else back + 1, None, q.device)
        parts = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        out = F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale, enable_gqa=True)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


def torch_kernel(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, ends_k: Tensor, longest: int, longest_k: int, *,
                 scale: float, window_size: tuple[int, int], enable_gqa: bool) -> Tensor:  # fmt: skip
    assert ends is ends_k
    assert longest == longest_k == 20
    assert window_size[1] == 0  # causal
    assert enable_gqa == (q.shape[1] != k.shape[1])
    return by_document(q, k, v, ends, window_size[0], scale)


def flash_kernel(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, ends_k: Tensor, longest: int, longest_k: int, *,
                 dropout_p: float, softmax_scale: float, causal: bool, window_size: tuple[int, int],
                 softcap: float) -> Tensor:  # fmt: skip
    assert causal
    assert (dropout_p, softcap) == (0.0, 0.0)
    return by_document(q, k, v, ends, window_size[0], softmax_scale)


@torch.no_grad()
@pytest.mark.parametrize("backend", backends.WITHOUT_MASK)
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])  # grouped heads, a window of 7, neither
def test_the_kernels_get_documents_windows_and_scales(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp64: the kernels' stand-ins take it, and nothing is rounded."""
    model = tiny(name, register("sdpa")).double()
    ids, labels = sample()
    expected = packed(model, ids, labels, LENGTHS)
    model.set_attn_implementation(register(backend))
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", torch_kernel)
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=flash_kernel))
    torch.testing.assert_close(packed(model, ids, labels, LENGTHS), expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("name", "more"), [("gemma2", {}), ("gpt_oss", {}), ("llama", {"head_dim": 512})])
def test_what_torchs_kernel_lacks_goes_another_way(name: str, more: dict[str, Any], monkeypatch) -> None:
    """Softcap, sinks, and heads that are too large: the numbers of the other backends, the kernel is not called."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", None)
    model = tiny(name, register("sdpa"), **more)
    ids, labels = sample()
    expected = packed(model, ids, labels, LENGTHS)
    model.set_attn_implementation(register("varlen"))
    torch.testing.assert_close(packed(model, ids, labels, LENGTHS), expected, rtol=0, atol=1e-5)


def test_masks_and_fp32_are_refused() -> None:
    rows, hiding = (attention.packed_kwargs([[32]], hidden) for hidden in (None, torch.zeros(1, 32, dtype=torch.bool)))
    q = torch.randn(1, 4, 32, 8)
    for kernel in (varlen.torch_varlen_attention, varlen.flash_packed_attention):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=None))
            with pytest.raises(ValueError, match="16 bits only"):
                kernel(torch.nn.Module(), q, q, q, None, **rows)
            with pytest.raises(ValueError, match="cannot hide positions"):
                kernel(torch.nn.Module(), q, q, q, None, **hiding)


def gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], torchs: bool = True, package: bool = True
) -> None:
    """A machine with such a GPU, with or without torch's kernel and the flash_attn package."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    if not torchs:
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    find = importlib.util.find_spec
    monkeypatch.setattr(varlen.importlib.util, "find_spec", lambda n: package if n == "flash_attn" else find(n))


A100, V100 = (8, 0), (7, 0)


@pytest.mark.parametrize(
    ("capability", "torchs", "package", "precision", "hides", "expected"),
    [
        (A100, True, True, "bf16", False, "varlen"),
        (A100, True, False, "bf16", False, "varlen"),
        (A100, False, True, "bf16", False, "flash_attention_2"),
        (A100, False, False, "bf16", False, "sdpa"),
        (A100, True, True, "fp32", False, "sdpa"),
        (A100, True, True, "bf16", True, "flex"),
        (A100, True, True, "fp32", True, "sdpa"),
        (V100, True, True, "fp16", False, "sdpa"),
        (V100, True, True, "fp16", True, "sdpa"),
    ],
)
def test_the_order_of_auto(monkeypatch, capability, torchs, package, precision, hides, expected) -> None:
    gpu(monkeypatch, capability, torchs, package)
    assert backends.automatic("cuda", precision, hides) == expected


def test_an_older_torchs_kernel_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.10's takes no window and no grouped heads."""
    gpu(monkeypatch, A100)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda q, k, v, *ends, is_causal=False, scale=None: q)
    assert backends.automatic("cuda", "bf16", False) == "flash_attention_2"
    with pytest.raises(UserError, match=r"model.attention=varlen needs a newer torch: .* no argument enable_gqa"):
        resolve("varlen", "cuda", "bf16")


def test_resolve() -> None:
    assert BACKENDS[0] == "auto"
    assert resolve("auto", "cpu") == resolve("sdpa", "cpu") == "mft_packed"
    assert resolve("auto", "cpu", "bf16", hides=True) == "mft_packed"
    for name in backends.WITHOUT_MASK:
        with pytest.raises(UserError, match=f"model.attention={name} needs a GPU; choose auto or sdpa"):
            resolve(name, "cpu", "bf16")
        with pytest.raises(UserError, match="16 bits only"):
            resolve(name, "cuda")
    with pytest.raises(UserError, match="backward"):
        resolve("flex", "cpu")
    with pytest.raises(UserError, match="choose one of"):
        resolve("eager", "cpu")
