"""Linear layers whose weight is frozen and multiplied by a mask: y = x (W * M)^T + b.

A chosen layer (nn.Linear, or GPT-2's Conv1D, which keeps its weight transposed) stays where it is and keeps its weight; it
gets trained `scores`, a `mask` buffer and another forward pass. So any architecture works, and ZeRO-3 finds weight and
scores in one module.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mft_cli.config.layer_numbers import LayerSetting, layer_numbers
from mft_cli.distributed.zero import gathered, is_partitioned, shape_of
from mft_cli.errors import UserError
from mft_cli.rng import digest64

KINDS = ("attention", "mlp")
SCORES, MASK = "scores", "mask"  # what a masked layer has besides weight and bias


# ---- which layers ---------------------------------------------------------------------------------------------------


def layer_of(name: str) -> int:
    """Number of the transformer layer that a module's name says, -1 outside the layers."""
    match = re.search(r"\.(\d+)\.", name)
    return int(match[1]) if match else -1


def kind_of(name: str) -> str:
    """`attention` or `mlp`."""
    return "attention" if "attn" in name or "attention" in name else "mlp"


def matches(name: str, pattern: str) -> bool:
    """Whether a kind, the end of a module's name after a dot (q_proj, mlp.up_proj), or a pattern with * fits."""
    if pattern in KINDS:
        return kind_of(name) == pattern
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*.{pattern}")


def is_chosen(name: str, numbers: Collection[int], modules: Iterable[str]) -> bool:
    """Whether a linear layer lies in one of the layers `numbers` and fits one of the patterns."""
    return layer_of(name) in numbers and any(matches(name, p) for p in modules)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers inside the transformer's layers, by name: not the embeddings, not the head."""
    return {n: m for n, m in model.named_modules() if layer_of(n) >= 0 and is_linear(m)}


def is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (nn.Linear, Conv1D))


def choose(model: PreTrainedModel, layers: LayerSetting, modules: Sequence[str]) -> dict[str, nn.Module]:
    """The linear layers that `method.layers` and `method.modules` mean. Raises UserError where one means nothing."""
    every = linear_layers(model)
    numbers = layer_numbers(layers, int(model.config.num_hidden_layers))
    check_patterns(modules, every, "method.modules")
    chosen = {n: m for n, m in every.items() if is_chosen(n, numbers, modules)}
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
    fitting = next((p for p in patterns if matches(name, p)), None)
    if fitting is None:
        raise UserError(f"{key} has no value for {name}; add one for {kind_of(name)}, or leave the module out")
    return given[fitting]


# ---- the layer ------------------------------------------------------------------------------------------------------


class MaskedLayer(Protocol):
    """A linear layer with a score and a mask for each weight; all [O, D], a Conv1D's [D, O]."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    scores: nn.Parameter
    mask: Tensor  # bool, True is kept
    mask_changes: Tensor
    product: Tensor | None
    by_sign: bool


def install(module: nn.Module, scores: Tensor, mask: Tensor, sign: bool) -> MaskedLayer:
    """Makes a linear layer a masked one. `scores` and `mask` have the weight's whole shape; `sign`: see MaskedProduct."""
    layer: Any = module
    layer.scores = nn.Parameter(scores)
    layer.register_buffer(MASK, mask)
    layer.register_buffer("mask_changes", torch.zeros((), dtype=torch.int64))  # since the last step; saved for a resume
    layer.by_sign, layer.product = sign, None
    layer.forward = MethodType(forward, module)  # on the instance: deepcopy binds it to the copy
    if is_partitioned(layer.weight):
        layer.weight.convert_to_zero_parameters([layer.scores])
    masked_layer: MaskedLayer = layer
    return masked_layer


def forward(module: MaskedLayer, x: Tensor) -> Tensor:
    """x [..., D] -> [..., O]."""
    transposed = not isinstance(module, nn.Linear)  # Conv1D holds [D, O]
    out: Tensor = MaskedProduct.apply(
        x, module.weight, module.bias, module.scores, module.mask, module.product, module.by_sign, transposed
    )
    return out


def keep_product(module: MaskedLayer, in_memory: bool) -> None:
    """Computes W * M once for all micro-batches until the next selection; or not, where it shall not stay in memory."""
    module.product = (
        masked(module.weight.detach(), module.mask) if in_memory and not is_partitioned(module.weight) else None
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
        needs_x, needs_weight, needs_bias, needs_scores, *_ = ctx.needs_input_grad
        dx = dw = db = ds = None
        if needs_x:
            dx = dy.matmul(product.t() if ctx.transposed else product)
        if needs_bias:
            db = dy.flatten(0, -2).sum(0)
        if needs_weight or needs_scores:
            of_rows, of_columns = (x, dy) if ctx.transposed else (dy, x)
            dp = of_rows.flatten(0, -2).t().mm(of_columns.flatten(0, -2))  # dL/d(W * M)
            dw = masked(dp, mask) if needs_weight else None
            ds = score_gradient(dp, weight, scores if ctx.sign else None) if needs_scores else None
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
