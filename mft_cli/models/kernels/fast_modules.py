"""Element-wise modules that keep less for backward: RMS norms and the gated product of SwiGLU and GeGLU layers.

transformers writes both as chains of tensor operations, and autograd keeps every link: per norm two fp32 copies of its
input. Here each is one autograd.Function that keeps its inputs as they came. `install` finds candidates by their looks
and swaps one only if the replacement's outputs and gradients match on random input: no architecture has to be known.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from mft_cli.distributed.zero import gathered, shape_of

Forward = Callable[[nn.Module, Tensor], Tensor]


def install(model: nn.Module) -> int:
    """Swaps what can be swapped, in place; parameters and their names stay. Returns how many modules were swapped."""
    verdicts: dict[tuple[object, ...], Forward | None] = {}
    swapped = 0
    for module in model.modules():
        key = (type(module), signature(module))
        if key not in verdicts:
            with gathered(module.parameters() if candidates(module) else []):
                verdicts[key] = next((f for f in candidates(module) if same(module, f)), None)
        forward = verdicts[key]
        if forward is not None and "forward" not in vars(module):
            module.forward = MethodType(forward, module)  # on the instance: deepcopy binds it to the copy
            swapped += 1
    return swapped


def signature(module: nn.Module) -> tuple[object, ...]:
    """What a verdict on one module may be carried over by to another of its class."""
    parameters = tuple((n, shape_of(p), p.dtype) for n, p in module.named_parameters())
    return parameters, epsilon(module), type(getattr(module, "act_fn", None))


def epsilon(module: nn.Module) -> float | None:
    return next((float(vars(module)[n]) for n in ("variance_epsilon", "eps") if n in vars(module)), None)


def candidates(module: nn.Module) -> list[Forward]:
    if "RMSNorm" in type(module).__name__ and epsilon(module) is not None:
        return [norm_forward, late_norm_forward, shifted_norm_forward]
    linear = [type(getattr(module, n, None)) is nn.Linear for n in ("gate_proj", "up_proj", "down_proj")]
    if all(linear) and len(list(module.parameters())) <= 6 and isinstance(getattr(module, "act_fn", None), nn.Module):
        return [gated_forward]
    return []


@torch.enable_grad()
def same(module: nn.Module, forward: Forward) -> bool:
    """Whether `forward` gives the module's outputs and gradients on random input, in fp32 and in bf16."""
    swapped: Any = module
    width = swapped.gate_proj.in_features if hasattr(module, "gate_proj") else len(swapped.weight)
    generator = torch.Generator().manual_seed(0)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        probe = copy.deepcopy(module).to("cpu", dtype)
        for parameter in probe.parameters():  # fresh norm weights are all 1 or 0 and would hide what is done with them
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(dtype)
            parameter.requires_grad_()
        x, upstream = (torch.randn(3, 5, width, generator=generator).to(dtype) for _ in range(2))
        x.requires_grad_()
        sources = [x, *probe.parameters()]
        try:
            expected, actual = probe(x), forward(probe, x)
            pairs = zip(
                (expected, *torch.autograd.grad(expected, sources, upstream)),
                (actual, *torch.autograd.grad(actual, sources, upstream)),
                strict=True,
            )
        except (RuntimeError, TypeError, AttributeError):
            return False
        for a, b in ((a.detach(), b.detach()) for a, b in pairs):
            if a.dtype != b.dtype or float((a - b).float().norm()) > tolerance * float(a.float().norm()):
                return False
    return True


# ---- RMS norms ------------------------------------------------------------------------------------------------------


def norm_forward(module: nn.Module, hidden_states: Tensor) -> Tensor:
    """weight * round(x / rms(x)), as Llama."""
    return normalized(hidden_states, module, 0.0, True)


def late_norm_forward(module: nn.Module, hidden_states: Tensor) -> Tensor:
    """round(weight * x / rms(x)), as OLMo 2."""
    return normalized(hidden_states, module, 0.0, False)


def shifted_norm_forward(module: nn.Module, hidden_states: Tensor) -> Tensor:
    """round((1 + weight) * x / rms(x)), as Gemma."""
    return normalized(hidden_states, module, 1.0, False)


def normalized(x: Tensor, module: nn.Module, shift: float, early: bool) -> Tensor:
    out: Tensor = _Norm.apply(x, module.weight, epsilon(module), shift, early)
    return out


class _NormContext(FunctionCtx):
    shift: float
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]


class _Norm(torch.autograd.Function):
    """x [..., D] -> [..., D]; statistics and gradients in fp32. Keeps x as it came and one number per position."""

    @staticmethod
    def forward(ctx: _NormContext, x: Tensor, weight: Tensor, eps: float, shift: float, early: bool) -> Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, inverse)
        ctx.shift = shift
        normal = wide * inverse
        if early:
            return weight * normal.to(x.dtype)
        return normal.mul_(weight.float() + shift).to(x.dtype)

    @staticmethod
    def backward(ctx: _NormContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        upstream = gradients[0].float()
        normal = x.float().mul_(inverse) if x.dtype != torch.float32 else x * inverse
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = (upstream * normal).flatten(0, -2).sum(0).to(weight.dtype)
        scaled = upstream * (weight.float() + ctx.shift)
        along = (scaled * normal).mean(-1, keepdim=True)
        d_x = scaled.sub_(normal.mul_(along)).mul_(inverse).to(x.dtype)
        return d_x, d_weight, None, None, None


# ---- gated feed-forward ---------------------------------------------------------------------------------------------


def gated_forward(module: Any, x: Tensor) -> Tensor:
    """down(act(gate(x)) * up(x)) without keeping act(gate(x))."""
    product = _GatedProduct.apply(module.gate_proj(x), module.up_proj(x), module.act_fn)
    out: Tensor = module.down_proj(product)
    return out


class _GateContext(FunctionCtx):
    act: nn.Module
    saved_tensors: tuple[Tensor, ...]


class _GatedProduct(torch.autograd.Function):
    """act(gate) * up. Backward computes the activation again, which is cheaper than to fetch it from memory."""

    @staticmethod
    def forward(ctx: _GateContext, gate: Tensor, up: Tensor, act: nn.Module) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        active: Tensor = act(gate)
        return active * up

    @staticmethod
    def backward(ctx: _GateContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            detached = gate.detach().requires_grad_()
            active = ctx.act(detached)
        (d_gate,) = torch.autograd.grad(active, detached, gradients[0] * up)
        return d_gate, gradients[0] * active.detach(), None
