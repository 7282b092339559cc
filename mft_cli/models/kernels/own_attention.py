"""A model's own attention, for architectures that take no other: one example a sequence, padded behind its end.

Methods and exports call every model with the arguments of packed sequences (`packed_kwargs`); hooks take out what such a
model does not know. Causal attention sees nothing of the padding, so it gets no mask: that it is causal, the probe tells.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import nn

from mft_cli.errors import UserError
from mft_cli.models.kernels.attention import ARGUMENT
from mft_cli.models.kernels.backends import IMPLEMENTATIONS
from mft_cli.models.kernels.cross_entropy import causal_lm
from mft_cli.models.pretrained import plain_attention


def has_own_attention(model: nn.Module) -> bool:
    """Whether the model computes attention with transformers' code, not with an implementation for packed sequences."""
    return causal_lm(model).config._attn_implementation not in {name for name, _ in IMPLEMENTATIONS.values()}


def use_own_attention(model: nn.Module) -> None:
    """From now on; it cannot be taken back. Not for batches of several examples a sequence, which it does not keep apart."""
    inner = causal_lm(model)
    inner.config._attn_implementation = plain_attention(inner)
    for module in (inner, inner._modules[inner.base_model_prefix]):
        named = "position_ids" in inspect.signature(module.forward).parameters
        module.register_forward_pre_hook(partial(as_it_takes, takes_positions=named), with_kwargs=True)


def as_it_takes(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], takes_positions: bool
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Arguments of a forward pass without those of packed sequences. Raises UserError for hidden positions."""
    if ARGUMENT not in kwargs:  # generation
        return None
    if kwargs[ARGUMENT].hidden_keys is not None:
        raise UserError(cannot_hide(module))
    dropped = {ARGUMENT} if takes_positions else {ARGUMENT, "position_ids"}  # it counts from 0 itself
    return args, {name: value for name, value in kwargs.items() if name not in dropped}


def cannot_hide(model: nn.Module) -> str:
    """Why what hides positions is refused."""
    return (
        f"{type(causal_lm(model)).__name__} is run with its own attention, which cannot hide single positions "
        "(method.drop_attention=true and mft analyze dependency do): take a model whose examples are packed "
        "(docs/architectures.md)"
    )
