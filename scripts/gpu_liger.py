"""Liger's fused linear cross entropy beside mft's, for scripts/gpu_check.py: what decides whether a key for it is worth having.

Read for liger-kernel 0.8.5: `LigerFusedLinearCrossEntropyLoss(...)(head weight [V, D], hidden [N, D], labels [N])`.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable

import torch
from gpu_setup import SHAPES, Check, Row, apart, wait
from torch import Tensor, nn

from mft_cli.models.kernels.cross_entropy import summed_cross_entropy

LOSS_LIMIT, GRADIENT_LIMIT = 1e-3, 2e-2  # bf16 logits, summed in other orders
Loss = Callable[[Tensor, nn.Linear, Tensor], Tensor]


def liger(check: Check) -> None:
    """Loss and gradients of one head, forward and backward: apart, milliseconds, peak memory."""
    tokens, (width, words) = (64, (32, 320)) if check.tiny else (8192, (SHAPES["1B"][0], SHAPES["1B"][5]))
    measured = measure(check, "mft", mft_loss, tokens, width, words)
    if reason := why_not(check):
        check.add(Row("liger", "fused linear cross entropy", f"left out: {reason}"))
        return
    other = measure(check, "liger", liger_loss(), tokens, width, words)
    check.limited("liger", "loss against mft's", apart(other[:1], measured[:1]), LOSS_LIMIT)
    check.limited("liger", "gradient norms against mft's", apart(other[1:], measured[1:]), GRADIENT_LIMIT)


def why_not(check: Check) -> str | None:
    if importlib.util.find_spec("liger_kernel") is None:
        return "no liger_kernel"
    return None if check.device.type == "cuda" else "its kernels need a GPU"


def mft_loss(hidden: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    return summed_cross_entropy(hidden, head, labels)[0]


def liger_loss() -> Loss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)
    return lambda hidden, head, labels: loss(head.weight, hidden, labels)


def measure(check: Check, name: str, loss: Loss, tokens: int, width: int, words: int) -> list[float]:
    """[loss, gradient norm of the hidden states, gradient norm of the head] of one seeded case in bf16; the first pass is not timed."""
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(width, words, bias=False)
    head.weight = nn.Parameter(
        (torch.randn(words, width, generator=generator) / width**0.5).to(check.device, torch.bfloat16)
    )
    hidden = torch.randn(tokens, width, generator=generator).to(check.device, torch.bfloat16).requires_grad_()
    labels = torch.randint(words, (tokens,), generator=generator).to(check.device)
    if check.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    passes, begun, value = 1 if check.tiny else 10, 0.0, torch.zeros(())
    for k in range(passes + 1):
        if k == 1:
            wait(check.device)
            begun = time.perf_counter()
        hidden.grad = head.weight.grad = None
        value = loss(hidden, head, labels)
        value.backward()
    wait(check.device)
    took = f"{1e3 * (time.perf_counter() - begun) / passes:.2f} ms"
    peak = f", {torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if check.device.type == "cuda" else ""
    check.add(Row("liger", f"{name}: {tokens} x {words} words, there and back", took + peak))
    assert hidden.grad is not None
    assert head.weight.grad is not None
    return [value.item(), hidden.grad.float().norm().item(), head.weight.grad.float().norm().item()]
