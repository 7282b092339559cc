"""Linear layers whose weight is frozen and multiplied by a mask: y = x (W * M)^T + b.

A chosen layer (nn.Linear, or GPT-2's Conv1D, which keeps its weight transposed) stays where it is and keeps its weight; it
gets trained `scores`, a `mask` buffer and another forward pass. So any architecture works, and ZeRO-3 finds weight and
scores in one module.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from mft_cli.config.checks import layer_numbers
from mft_cli.distributed.zero import gathered, is_partitioned, shape_of
from mft_cli.errors import UserError
from mft_cli.rng import digest64

KINDS = ("attention", "mlp")
SCORES, MASK = "scores", "mask"  # what a masked layer has beside weight and bias


# ---- which layers ---------------------------------------------------------------------------------------------------


def layer_of(name: str) -> int:
    """Number of the transformer layer that a module's name says, -1 outside the layers."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else -1


def kind_of(name: str) -> str:
    """`attention` or `mlp`."""
    return "attention" if "attn" in name or "attention" in name else "mlp"


def matches(name: str, pattern: str) -> bool:
    """Whether a kind, the end of a module's name behind a dot (q_proj, mlp.up_proj), or a pattern with * fits."""
    if pattern in KINDS:
        return kind_of(name) == pattern
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*.{pattern}")


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers inside the transformer's layers, by name: not the embeddings, not the head."""
    return {n: m for n, m in model.named_modules() if layer_of(n) >= 0 and is_linear(m)}


def is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (nn.Linear, Conv1D))


def choose(model: nn.Module, layers: Any, modules: Sequence[str]) -> dict[str, nn.Module]:
    """The linear layers that `method.layers` and `method.modules` mean. Raises UserError where one means nothing."""
    every = linear_layers(model)
    config: Any = model.config
    numbers = layer_numbers(layers, int(config.num_hidden_layers))
    check_patterns(modules, every, "method.modules")
    chosen = {n: m for n, m in every.items() if layer_of(n) in numbers and any(matches(n, p) for p in modules)}
    if not chosen:
        raise UserError(
            f"method.layers={layers}, method.modules={list(modules)}: no linear layer is meant; choose others"
        )
    return chosen


def check_patterns(patterns: Iterable[str], every: Iterable[str], key: str) -> None:
    """Raises UserError for a pattern that fits none of a model's linear layers: a typo would mean nothing in silence."""
    names = list(every)
    for pattern in patterns:
        if not any(matches(n, pattern) for n in names):
            ends = sorted({n.rsplit(".", 1)[-1] for n in names})
            raise UserError(f"{key}: {pattern} names no linear layer; expected attention, mlp or {', '.join(ends)}")


def value_for(name: str, given: float | Mapping[str, float], key: str) -> float:
    """A number, or a map's value for a module: the first fitting name pattern, else its kind. Raises UserError."""
    if not isinstance(given, Mapping):
        return given
    patterns = [p for p in given if p not in KINDS] + [p for p in given if p in KINDS]
    found = next((p for p in patterns if matches(name, p)), None)
    if found is None:
        raise UserError(f"{key} has no value for {name}; add one for {kind_of(name)}, or leave the module out")
    return given[found]


# ---- the layer ------------------------------------------------------------------------------------------------------


def install(module: nn.Module, scores: Tensor, mask: Tensor, sign: bool) -> None:
    """Makes a linear layer a masked one. `scores` and `mask` have the weight's whole shape; `sign`: see MaskedProduct."""
    own: Any = module
    own.scores = nn.Parameter(scores)
    own.register_buffer(MASK, mask)
    own.register_buffer("mask_changes", torch.zeros((), dtype=torch.int64))  # since the last step; saved for a resume
    own.by_sign, own.product = sign, None
    own.forward = MethodType(forward, module)  # on the instance: deepcopy binds it to the copy
    if is_partitioned(own.weight):
        own.weight.convert_to_zero_parameters([own.scores])


def forward(module: Any, x: Tensor) -> Tensor:
    """x [..., D] -> [..., O]."""
    transposed = not isinstance(module, nn.Linear)  # Conv1D holds [D, O]
    out: Tensor = MaskedProduct.apply(
        x, module.weight, module.bias, module.scores, module.mask, module.product, module.by_sign, transposed
    )
    return out


def keep_product(module: Any, wanted: bool) -> None:
    """Computes W * M once for all micro-batches until the next selection; or not, where it shall not stay in memory."""
    module.product = (
        masked(module.weight.detach(), module.mask) if wanted and not is_partitioned(module.weight) else None
    )


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """W * M. Removed entries are +0."""
    return torch.where(mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))


class MaskedProduct(torch.autograd.Function):
    """y = x (W * M)^T + b, straight through M's selection (arXiv 2503.22764, section 2).

    With dL/dM = dL/d(W * M) * W: dL/ds = sign(s) * dL/dM where the selection reads |s| (`sign`), else dL/dM. `product` is
    W * M if it is known, and is kept for backward, as large as the weight. A W that wants a gradient gets dL/d(W * M) * M.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scores: Tensor, mask: Tensor,
        product: Tensor | None, sign: bool, transposed: bool,
    ) -> Tensor:  # fmt: skip
        product = masked(weight, mask) if product is None else product
        ctx.save_for_backward(x, weight, scores, mask, product)
        ctx.sign, ctx.transposed = sign, transposed
        return nn.functional.linear(x, product.t() if transposed else product, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scores, mask, product = ctx.saved_tensors
        dy = gradients[0]
        wanted = ctx.needs_input_grad
        dx = dw = db = ds = None
        if wanted[0]:
            dx = dy.matmul(product.t() if ctx.transposed else product)
        if wanted[2]:
            db = dy.flatten(0, -2).sum(0)
        if wanted[1] or wanted[3]:
            left, right = (x, dy) if ctx.transposed else (dy, x)
            dp = left.flatten(0, -2).t().mm(right.flatten(0, -2))  # dL/d(W * M)
            dw = masked(dp, mask) if wanted[1] else None
            ds = score_gradient(dp, weight, scores if ctx.sign else None) if wanted[3] else None
        return dx, dw, db, ds, None, None, None, None


def score_gradient(dp: Tensor, weight: Tensor, scores: Tensor | None) -> Tensor:
    """dp * W, times the sign of the scores if they are given. Works in place on `dp`."""
    dp.mul_(weight)
    return dp if scores is None else dp.mul_(scores.sign())


# ---- scores at the start --------------------------------------------------------------------------------------------


def first_scores(kind: str, weight: Tensor, std: float, seed: int) -> Tensor:
    """fp32 scores of the weight's whole shape: normal (learned), uniform in [0, 1) (random), or |W| (magnitude)."""
    if kind == "magnitude":
        with gathered([weight]):
            return weight.detach().to(torch.float32).abs()
    # one seed for both kinds would make a random mask resemble the learned one's start: 29 % shared, not 10
    generator = torch.Generator().manual_seed(digest64(kind, seed) if kind == "random" else seed)
    if kind == "random":
        return torch.rand(shape_of(weight), generator=generator)
    return torch.randn(shape_of(weight), generator=generator).mul_(std)
