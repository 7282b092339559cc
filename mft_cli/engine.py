"""The engine: what holds the weights, accumulates gradients and steps the optimizer.

`TorchEngine` is one process of plain torch. In bf16 and fp16 the model computes with 16-bit weights while the engine
keeps fp32 masters, accumulates gradients in fp32 over all micro-batches of a step, and copies the stepped masters back:
the arithmetic that DeepSpeed uses too. (Autocast would cast every weight again in every forward pass.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mft_cli.errors import UserError
from mft_cli.optim import make_adamw, set_learning_rate
from mft_cli.schema import TrainingConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """One process, one device. `rank` and `world` are what the loop asks for."""

    rank, world = 0, 1

    def __init__(
        self,
        model: nn.Module,
        groups: list[dict[str, Any]],
        config: TrainingConfig,
        precision: str,
        device: torch.device,
    ):
        self.config = config
        self.device = device
        self.dtype = DTYPES[precision]
        self.named: dict[str, nn.Parameter] = {n: p for group in groups for n, p in group["params"]}
        self.masters: dict[str, Tensor] = {}
        self.scaler = LossScale() if precision == "fp16" else None
        if precision != "fp32":
            self.masters = {n: p.detach().to(device, torch.float32).clone() for n, p in self.named.items()}
        self.model = model.to(device)
        for (
            parameter
        ) in model.parameters():  # not buffers: rotary frequencies in 16 bits would turn far positions wrong
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(self.dtype)
        self.optimizer = make_adamw([{**g, "params": [self.master(n) for n, _ in g["params"]]} for g in groups], config)
        for name, parameter in self.named.items() if self.masters else ():
            parameter.register_post_accumulate_grad_hook(self._accumulate(name))

    def master(self, name: str) -> Tensor:
        """A trained parameter in fp32: the master, or the parameter itself."""
        return self.masters[name] if self.masters else self.named[name]

    def _accumulate(self, name: str) -> Any:
        """Moves a 16-bit gradient into the fp32 master's as soon as it is complete, and frees it."""
        master = self.masters[name]

        def hook(parameter: Tensor) -> None:
            if master.grad is None:
                master.grad = parameter.grad.to(torch.float32)  # type: ignore[union-attr]
            else:
                master.grad.add_(parameter.grad)  # type: ignore[arg-type]
            parameter.grad = None

        return hook

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss`, already divided by the counts of the whole step."""
        if loss.requires_grad:
            (loss * self.scaler.scale if self.scaler else loss).backward()

    def gradient_norm(self) -> float:
        """The norm over all trained parameters; unscales first. Not finite if any gradient is not."""
        gradients = [self.master(n).grad for n in self.named]
        present = [g for g in gradients if g is not None]
        if not present:
            return 0.0
        if self.scaler:
            torch._foreach_mul_(present, 1 / self.scaler.scale)
        norms = torch.stack(torch._foreach_norm(present)).to(torch.float64)
        return float(torch.linalg.vector_norm(norms))

    def step(self, rate: float, norm: float) -> None:
        """Clip by `norm`, step, and copy the masters back."""
        limit = self.config.max_grad_norm
        if limit and norm > limit:
            gradients = [g for n in self.named if (g := self.master(n).grad) is not None]
            torch._foreach_mul_(gradients, limit / (norm + 1e-6))
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.copy_back()
        if self.scaler:
            self.scaler.good()
        self.zero()

    def skip(self) -> bool:
        """Throw the gradient away. True if that was fp16 finding its loss scale, not a fault."""
        self.zero()
        return self.scaler.bad() if self.scaler else False

    def zero(self) -> None:
        for name in self.named:
            self.master(name).grad = None
            self.named[name].grad = None

    @torch.no_grad()
    def copy_back(self) -> None:
        if self.masters:
            names = list(self.masters)
            torch._foreach_copy_([self.named[n].detach() for n in names], [self.masters[n] for n in names])

    # ---- ranks ----

    def sum_over_ranks(self, values: list[float]) -> list[float]:
        return values

    def any_rank(self, flag: bool) -> bool:
        return flag

    # ---- state ----

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """(weights in fp32, optimizer tensors, small numbers). Tensors are not copied."""
        weights = {n: self.master(n).detach() for n in self.named}
        kept = set(self.model.state_dict())
        buffers = {n: b for n, b in self.model.named_buffers() if n in kept}
        moments = {}
        for name in self.named:
            for kind, value in self.optimizer.state.get(self.master(name), {}).items():
                moments[f"{name}::{kind}"] = value
        return {**weights, **buffers}, moments, {"loss_scale": vars(self.scaler) if self.scaler else None}

    def load(self, weights: dict[str, Tensor], moments: dict[str, Tensor], small: dict[str, Any]) -> None:
        with torch.no_grad():
            buffers = dict(self.model.named_buffers())
            for name, value in weights.items():
                (self.master(name) if name in self.named else buffers[name]).copy_(value)
        self.copy_back()
        for key, value in moments.items():
            name, kind = key.rsplit("::", 1)
            master = self.master(name)
            # AdamW keeps its step count on the CPU unless it is fused on a GPU
            device = value.device if kind == "step" and master.device.type == "cpu" else master.device
            self.optimizer.state[master][kind] = value.to(device).clone()
        if self.scaler and small.get("loss_scale"):
            vars(self.scaler).update(small["loss_scale"])


class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018): halve on overflow, double after 2,000 good steps."""

    def __init__(self) -> None:
        self.scale = 2.0**16
        self.run = 0

    def good(self) -> None:
        self.run += 1
        if self.run % 2000 == 0:
            self.scale = min(self.scale * 2, 2.0**24)

    def bad(self) -> bool:
        """Halve; True while there is room: overflow is how the scale is found."""
        self.run = 0
        self.scale /= 2
        return self.scale >= 1.0


def pick_precision(wanted: str, device: torch.device) -> str:
    """`auto`: bf16 where the hardware multiplies it natively, else fp32."""
    if wanted == "fp16" and device.type != "cuda":
        raise UserError("train.precision=fp16 needs a GPU; on a CPU use bf16 or fp32")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether the processor has bf16 dot products or tiles (AVX512-BF16, AMX)."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def is_finite(*values: float) -> bool:
    return all(math.isfinite(v) for v in values)
