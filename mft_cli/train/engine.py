"""The engine: what holds the weights, accumulates gradients and steps the optimizer.

`TorchEngine` is plain torch: one process, or several that each hold the whole model (data-parallel). In bf16 and fp16 the
model computes with 16-bit weights while the engine keeps fp32 masters, accumulates gradients in fp32 over all
micro-batches of a step, and copies the stepped masters back: the arithmetic that DeepSpeed uses too. (Autocast would cast
every weight again in every forward pass.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from mft_cli.config.schema.training import TrainingConfig
from mft_cli.distributed.ranks import Ranks
from mft_cli.methods.base import Losses
from mft_cli.models.device import DTYPES
from mft_cli.train.checkpoint import EngineState, Read, Shard
from mft_cli.train.optimizer import Group, make_adamw, restore_state, set_learning_rate, state_tensors

T = TypeVar("T")  # what a loss takes besides the model: a batch


@dataclass
class Outcome:
    """What became of a step's gradient."""

    norm: float  # of the whole gradient, before clipping
    applied: bool  # False: not finite, thrown away
    finding_loss_scale: bool = False  # it was fp16 finding its loss scale, not a fault


class TorchEngine:
    """Plain torch. Every rank holds everything; gradients are summed over the ranks before the step."""

    def __init__(
        self,
        model: nn.Module,
        groups: list[Group],
        config: TrainingConfig,
        precision: str,
        device: torch.device,
        ranks: Ranks | None = None,
    ):
        self.ranks = ranks or Ranks(device=device)
        self.config = config
        self.device = device
        self.dtype = DTYPES[precision]
        self.named: dict[str, nn.Parameter] = {n: p for group in groups for n, p in group["params"]}
        self.masters: dict[str, Tensor] = {}
        self.scaler = LossScale() if precision == "fp16" else None
        if precision != "fp32":
            self.masters = {n: p.detach().to(device, torch.float32, copy=True) for n, p in self.named.items()}
        # tensor by tensor: in fp32 the whole model may not fit the device that it fits in 16 bits. Not buffers: rotary
        # frequencies in 16 bits would turn far positions wrong
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(device, self.dtype)
        self.model = model.to(device)
        self.optimizer = make_adamw([{**g, "params": [self.master(n) for n, _ in g["params"]]} for g in groups], config)
        for name, parameter in self.named.items() if self.masters else ():
            parameter.register_post_accumulate_grad_hook(self._accumulate(name))

    def master(self, name: str) -> Tensor:
        """A trained parameter in fp32: the master, or the parameter itself."""
        return self.masters[name] if self.masters else self.named[name]

    def _accumulate(self, name: str) -> Callable[[Tensor], None]:
        """Moves a 16-bit gradient into the fp32 master's as soon as it is complete, and frees it."""
        master = self.masters[name]

        def hook(parameter: Tensor) -> None:
            if master.grad is None:
                master.grad = parameter.grad.to(torch.float32)  # type: ignore[union-attr]
            else:
                master.grad.add_(parameter.grad)  # type: ignore[arg-type]
            parameter.grad = None

        return hook

    def run(self, loss: Callable[[nn.Module, T], Losses], batch: T) -> Losses:
        """The forward pass of one micro-batch."""
        return loss(self.model, batch)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradient of `loss`, already divided by the counts of the whole step. `last` micro-batch of the step?"""
        if loss.requires_grad:
            (loss * self.scaler.scale if self.scaler else loss).backward()
        if last and self.ranks.world > 1:
            self.sum_gradients()

    def sum_gradients(self) -> None:
        """Sums gradients over the ranks, many at a time. One that no rank has stays absent: AdamW leaves it alone."""
        masters = [self.master(n) for n in self.named]
        present = self.ranks.sum([float(m.grad is not None) for m in masters])
        trained = [m for m, count in zip(masters, present, strict=True) if count]
        for m in trained:
            m.grad = torch.zeros_like(m) if m.grad is None else m.grad
        for part in buckets(trained):
            flat = torch.cat([m.grad.reshape(-1) for m in part])  # type: ignore[union-attr]
            torch.distributed.all_reduce(flat)
            for m, piece in zip(part, flat.split([m.numel() for m in part]), strict=True):
                m.grad.copy_(piece.view_as(m))  # type: ignore[union-attr]

    def gradient_norm(self) -> float:
        """The norm over all trained parameters; unscales first. Not finite if any gradient is not."""
        gradients = [self.master(n).grad for n in self.named]
        present = [g for g in gradients if g is not None]
        if not present:
            return 0.0
        if self.scaler:
            torch._foreach_mul_(present, 1 / self.scaler.scale)
        return norm_of(present)

    def step(self, rate: float, loss: float) -> Outcome:
        """Clip, step, and copy the masters back; or throw the gradient away if it or the loss is not finite."""
        norm = self.gradient_norm()
        if not is_finite(loss, norm):
            self.zero()
            return Outcome(norm, False, self.scaler.bad() if self.scaler else False)
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
        return Outcome(norm, True)

    def zero(self) -> None:
        for name in self.named:
            self.master(name).grad = None
            self.named[name].grad = None

    @torch.no_grad()
    def copy_back(self) -> None:
        if self.masters:
            names = list(self.masters)
            torch._foreach_copy_([self.named[n].detach() for n in names], [self.masters[n] for n in names])

    def close(self) -> None:
        """After the last step. Nothing is held that its end would not free."""

    # ---- state ----

    def shards(self) -> Iterator[Shard]:
        """What this rank has to save, nothing copied. Every rank holds everything: the first one saves it."""
        if self.ranks.rank:
            return
        for name in self.named:
            master = self.master(name)
            moments = state_tensors(self.optimizer, master)
            yield Shard(name, master.detach(), tuple(master.shape), 0, moments)
        kept = set(self.model.state_dict())
        for name, buffer in self.model.named_buffers():
            if name in kept:
                yield Shard(name, buffer, tuple(buffer.shape))

    def state(self) -> EngineState:
        """What is saved besides tensors."""
        return {"loss_scale": {"scale": self.scaler.scale, "run": self.scaler.run} if self.scaler else None}

    @torch.no_grad()
    def load(self, read: Read, moments: Read | None, state: EngineState) -> None:
        """Take over stored weights and optimizer tensors. `moments` None: the optimizer has not stepped yet."""
        buffers = dict(self.model.named_buffers())
        kept = set(self.model.state_dict())
        for name in [*self.named, *(n for n in buffers if n in kept)]:
            target = self.master(name) if name in self.named else buffers[name]
            target.copy_(read(name, 0, target.numel()).view(target.shape))
        self.copy_back()
        for name in self.named:
            if moments is not None:
                restore_state(self.optimizer, self.master(name), stored_state(moments, name))
        if self.scaler and state["loss_scale"]:
            self.scaler.scale, self.scaler.run = state["loss_scale"]["scale"], state["loss_scale"]["run"]

    def full(self, name: str) -> Tensor:
        """A whole parameter or buffer as the model computes with it (fp32 for trained ones). All ranks have to call."""
        if name in self.named:
            return self.master(name).detach()
        return self.model.state_dict()[name].detach()


def stored_state(moments: Read, name: str) -> Callable[[str, int], Tensor]:
    """Reads a parameter's optimizer tensors by kind."""
    return lambda kind, count: moments(f"{name}::{kind}", 0, count)


ROW = 1024


def norm_of(tensors: list[Tensor]) -> float:
    """The Euclidean norm of all elements.

    On processors torch adds up the squares of a whole tensor in fp32, one after the other: off by 1e-5 for a million
    elements and by 1e-3 for thirty million. So row by row there, and the rows in float64.
    """
    if tensors[0].device.type == "cpu":
        norms = torch.cat([part for tensor in tensors for part in row_norms(tensor.reshape(-1))])
    else:
        norms = torch.stack(torch._foreach_norm(tensors))
    return float(torch.linalg.vector_norm(norms.to(torch.float64)))


def row_norms(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Norms of the whole rows of a vector, and of what follows them."""
    whole = flat.numel() // ROW * ROW
    return (
        torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1),
        torch.linalg.vector_norm(flat[whole:]).view(1),
    )


BUCKET_ELEMENTS = 2**24  # gradients that are summed over the ranks in one message: 64 MiB


def buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    part: list[Tensor] = []
    for tensor in tensors:
        part.append(tensor)
        if sum(t.numel() for t in part) >= BUCKET_ELEMENTS:
            yield part
            part = []
    if part:
        yield part


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


def is_finite(*values: float) -> bool:
    return all(math.isfinite(v) for v in values)
