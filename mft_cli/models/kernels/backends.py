"""The attention implementations by name (`model.attention`), and which one `auto` is."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mft_cli.errors import UserError
from mft_cli.models.kernels.attention import flex_packed_attention, packed_attention
from mft_cli.models.kernels.varlen import (
    flash_packed_attention,
    lacks_flash_attn,
    lacks_torch_varlen,
    torch_varlen_attention,
)

# model.attention -> its name in transformers, which claims every name that holds "flash" once flash_attn is installed
IMPLEMENTATIONS: dict[str, tuple[str, Callable[..., tuple[Tensor, None]]]] = {
    "sdpa": ("mft_packed", packed_attention),
    "varlen": ("mft_torch_varlen", torch_varlen_attention),
    "flex": ("mft_flex", flex_packed_attention),
    "flash_attention_2": ("mft_varlen", flash_packed_attention),
}
BACKENDS = ("auto", *IMPLEMENTATIONS)
WITHOUT_MASK = ("varlen", "flash_attention_2")  # in the order of auto; 16 bits only


def resolve(name: str, device_type: str, precision: str = "fp32", hides: bool = False) -> str:
    """Registers backend `name` (one of BACKENDS) and returns what from_pretrained takes as attn_implementation.

    `precision` is that of the computation; `hides`: batches have hidden positions. Raises UserError if it cannot run here.
    """
    if name not in BACKENDS:
        raise UserError(f"model.attention={name} is not known; choose one of {', '.join(BACKENDS)}")
    chosen = automatic(device_type, precision, hides) if name == "auto" else name
    if reason := why_not(chosen, device_type, precision, hides):
        raise UserError(f"model.attention={chosen} {reason}; choose auto or sdpa")
    return register(chosen)


def automatic(device_type: str, precision: str, hides: bool) -> str:
    """What `auto` is: on GPUs in 16 bits one kernel for all documents, with hidden positions flex; else sdpa."""
    if device_type != "cuda" or precision == "fp32":
        return "sdpa"
    if hides:  # GPUs without the others' kernels get no compiled one either
        return "sdpa" if why_not("varlen", device_type, precision) and lacks_flash_attn() else "flex"
    return next((n for n in WITHOUT_MASK if why_not(n, device_type, precision) is None), "sdpa")


def why_not(name: str, device_type: str, precision: str, hides: bool = False) -> str | None:
    """Why a backend cannot train here, as the end of a sentence; None if it can."""
    if name == "flex" and device_type == "cpu":
        return "cannot train on a CPU (torch has no backward of it there)"
    if name not in WITHOUT_MASK:
        return None
    if device_type == "cpu":
        return "needs a GPU"
    if precision == "fp32":
        return "computes in 16 bits only, and the precision is fp32"
    if hides:
        return "takes no mask, so it cannot hide positions; flex can"
    return lacks_torch_varlen() if name == "varlen" else lacks_flash_attn()


def register(name: str) -> str:
    """Makes an implementation known to transformers, whether or not it can run here; its name there."""
    from transformers import AttentionInterface

    implementation, function = IMPLEMENTATIONS[name]
    AttentionInterface.register(implementation, function)
    return implementation
