"""Attention of one short document on a CPU by batched matrix products.

torch's fused CPU kernel works in blocks made for long rows; over documents of some hundred tokens it took 1.6 times as
long as plain products, forward and backward together (AVX512-BF16 cores, a row of GSM8K examples).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

LIMIT = 768  # tokens; beyond it the [H, t, t] probabilities that are kept for backward cost more than they save


@lru_cache(maxsize=1)
def causal_bias() -> Tensor:
    """float32 [LIMIT, LIMIT]: -inf above the diagonal. Sliced by every document."""
    return torch.full((LIMIT, LIMIT), -torch.inf).triu(1)


def short_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """q [t, H, D], k and v [t, K, D], mask bool [t, t] or None for causal -> [t, H, D]. t up to LIMIT."""
    t = len(q)
    bias = causal_bias()[:t, :t] if mask is None else torch.zeros(t, t).masked_fill_(~mask, -torch.inf)
    out: Tensor = _ShortAttention.apply(q, k, v, bias, scale)
    return out


def by_key_head(x: Tensor, heads: int) -> Tensor:
    """[t, H, D] -> [K, G * t, D]: the G query heads that share a key head become rows of one product."""
    t, h, d = x.shape
    return x.view(t, heads, h // heads, d).permute(1, 2, 0, 3).reshape(heads, -1, d)


def by_position(x: Tensor, t: int) -> Tensor:
    """The inverse, [K, G * t, D] -> [t, H, D]."""
    heads, rows, d = x.shape
    return x.view(heads, rows // t, t, d).permute(2, 0, 1, 3).reshape(t, -1, d)


class _Context(FunctionCtx):
    scale: float
    saved_tensors: tuple[Tensor, ...]


class _ShortAttention(torch.autograd.Function):
    """Scores and softmax in fp32, the other products in the inputs' dtype; the probabilities are kept."""

    @staticmethod
    def forward(ctx: _Context, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        t, heads = len(q), k.shape[1]
        queries, keys, values = by_key_head(q, heads), k.transpose(0, 1), v.transpose(0, 1)
        scores = torch.bmm(queries.float() * scale, keys.float().transpose(1, 2))
        scores.view(heads, -1, t, t).add_(bias)
        shares = torch.softmax(scores, -1).to(q.dtype)
        ctx.save_for_backward(q, k, v, shares)
        ctx.scale = scale
        return by_position(torch.bmm(shares, values), t)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, shares = ctx.saved_tensors
        t, heads = len(q), k.shape[1]
        out = by_key_head(gradients[0], heads)
        d_values = torch.bmm(shares.transpose(1, 2), out)
        d_shares = torch.bmm(out, v.permute(1, 2, 0)).float()
        d_scores = torch.ops.aten._softmax_backward_data(d_shares, shares.float(), -1, torch.float32)
        d_scores = d_scores.mul_(ctx.scale).to(q.dtype)
        d_queries = torch.bmm(d_scores, k.transpose(0, 1))
        d_keys = torch.bmm(d_scores.transpose(1, 2), by_key_head(q, heads))
        return by_position(d_queries, t), d_keys.transpose(0, 1), d_values.transpose(0, 1), None, None
