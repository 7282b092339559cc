"""Attention of packed rows by one kernel for all documents: torch's own, or the flash_attn package's. CUDA, 16 bits.

Rows are laid end to end; the kernels are told where documents start, by one tensor that all layers share.
"""

from __future__ import annotations

import importlib.util
import inspect

import torch
from torch import Tensor, nn

from mft_cli.models.kernels.attention import PackedRows, checked, flex_packed_attention, packed_attention

CAPABILITY = (8, 0)  # of the GPU: Ampere; older ones have no such kernel
LARGEST_HEAD = 256


def torch_varlen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None, softcap: float | None = None,
    s_aux: Tensor | None = None, **kwargs: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """torch.nn.attention.varlen. What it cannot compute goes another way: softcap to flex, dropout, sinks and larger heads
    document by document."""
    if dropout or s_aux is not None or query.shape[-1] > LARGEST_HEAD:
        return packed_attention(
            module, query, key, value, attention_mask, scaling, dropout, sliding_window, softcap, s_aux, **kwargs
        )
    if softcap is not None:
        return flex_packed_attention(
            module, query, key, value, attention_mask, scaling, dropout, sliding_window, softcap, **kwargs
        )
    from torch.nn.attention.varlen import varlen_attn

    rows = without_mask(checked(module, query, attention_mask, kwargs), query)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    ends, longest = rows.boundaries(query.device), max(rows.flat)
    out = varlen_attn(
        q, k, v, ends, ends, longest, longest, scale=scaling, enable_gqa=q.shape[1] != k.shape[1],
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
    )  # fmt: skip
    assert isinstance(out, Tensor)  # without return_aux
    return out.view(query.shape[0], query.shape[2], query.shape[1], -1), None


def flash_packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None, softcap: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """The flash_attn package's kernel."""
    from flash_attn import flash_attn_varlen_func

    rows = without_mask(checked(module, query, attention_mask, kwargs), query)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    ends, longest = rows.boundaries(query.device), max(rows.flat)
    out = flash_attn_varlen_func(
        q, k, v, ends, ends, longest, longest, dropout_p=dropout, softmax_scale=scaling, causal=True,
        window_size=(-1, -1) if sliding_window is None else (sliding_window - 1, 0), softcap=softcap or 0.0,
    )  # fmt: skip
    return out.view(query.shape[0], query.shape[2], query.shape[1], -1), None


def without_mask(rows: PackedRows, query: Tensor) -> PackedRows:
    """The rows, if such a kernel computes them. Raises ValueError for hidden positions and fp32."""
    if rows.hidden_keys is not None:
        raise ValueError("flash-attention takes no mask, so it cannot hide positions: set model.attention=sdpa or flex")
    if query.dtype == torch.float32:
        raise ValueError("flash-attention computes in 16 bits only: set train.precision=bf16 or model.attention=sdpa")
    return rows


def lacks_torch_varlen() -> str | None:
    """Why torch.nn.attention.varlen cannot be used here; None if it can."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < CAPABILITY:
        return f"needs a GPU of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or newer"
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return "needs torch.nn.attention.varlen, which this torch does not have"
    arguments = inspect.signature(varlen_attn).parameters
    if lacking := {"scale", "window_size", "enable_gqa"} - arguments.keys():
        return f"needs a newer torch: its varlen_attn has no argument {min(lacking)}"
    return None


def lacks_flash_attn() -> str | None:
    """Why the flash_attn package cannot be used here; None if it can."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < CAPABILITY:
        return f"needs a GPU of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or newer"
    return None if importlib.util.find_spec("flash_attn") else "needs the flash_attn package"
