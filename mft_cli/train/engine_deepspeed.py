"""DeepSpeed's ZeRO stages with the engine's interface. The only module that makes a DeepSpeed engine.

DeepSpeed averages gradients over the ranks, so the loss is multiplied by their number. The fp32 state lives in its
masters: they are set from the exact weights, not from the 16-bit ones that DeepSpeed makes them of.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mft_cli.config.schema.training import TrainingConfig
from mft_cli.distributed.ranks import Ranks
from mft_cli.distributed.zero import gathered, is_partitioned, is_rounded, round_weights, shape_of, start_communication
from mft_cli.methods.base import Losses, OnHost
from mft_cli.models.device import DTYPES
from mft_cli.models.kernels.cross_entropy import make_head_loss
from mft_cli.train.checkpoint import EngineState, Read, Shard
from mft_cli.train.engine import Outcome, T, is_finite
from mft_cli.train.optimizer import Group, make_adamw, set_learning_rate

Terms = dict[str, Tensor]
LoggedSums = dict[str, tuple[Tensor | float, str]]


class LossModule(nn.Module):
    """What DeepSpeed takes for the model: its forward pass is a method's loss, so that ZeRO-3's hooks see all of it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.head_loss = make_head_loss(model)

    def forward(self, loss: Callable[[nn.Module, T], Losses], batch: T) -> tuple[Terms, LoggedSums, OnHost | None]:
        losses = loss(self.model, batch)
        return losses.sums, losses.metrics, losses.on_host  # plain containers: DeepSpeed hooks the tensors in them


class DeepSpeedEngine:
    """ZeRO stage 1, 2 or 3 over all ranks. `ds_config` is DeepSpeed's configuration."""

    def __init__(
        self,
        model: nn.Module,
        groups: list[Group],
        config: TrainingConfig,
        precision: str,
        ds_config: dict[str, Any],
        device: torch.device,
        ranks: Ranks,
    ):
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel("WARNING" if ranks.rank == 0 else "ERROR")
        start_communication()
        self.model, self.config, self.ranks = model, config, ranks
        self.device, self.dtype = device, DTYPES[precision]
        self.stage = int(ds_config["zero_optimization"]["stage"])
        self.named: dict[str, nn.Parameter] = {n: p for group in groups for n, p in group["params"]}
        exact = self.exact_weights() if precision != "fp32" else {}
        optimizer = make_adamw([{**g, "params": [p for _, p in g["params"]]} for g in groups], config)
        # no model_parameters: the optimizer names what trains
        self.deepspeed, *_ = deepspeed.initialize(model=LossModule(model), optimizer=optimizer, config=ds_config)
        self.zero: Any = self.deepspeed.optimizer
        if precision == "fp16":  # at the lowest loss scale a bad step is skipped and counted, as in every precision
            self.zero.loss_scaler.raise_error_at_min_scale = False
        with torch.no_grad():
            for name in self.at_hand(write=True) if exact else ():
                weight, whole = exact.get(name, (torch.empty(0), True))
                here = self.master_part(name)
                if here is not None and len(weight):
                    start, master, _ = here
                    first = start if whole else 0
                    master.copy_(weight[first : first + master.numel()])

    def exact_weights(self) -> dict[str, tuple[Tensor, bool]]:
        """Trained weights that DeepSpeed would round, in fp32: name -> (flat tensor, whole or this rank's part)."""
        if self.stage == 3:
            return round_weights(self.model, self.dtype)
        return {n: (p.detach().clone().reshape(-1), True) for n, p in self.named.items() if is_rounded(p, self.dtype)}

    # ---- a step ----

    def run(self, loss: Callable[[nn.Module, T], Losses], batch: T) -> Losses:
        return Losses(*self.deepspeed(loss, batch))

    def backward(self, loss: Tensor, last: bool) -> None:
        self.deepspeed.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(loss * self.ranks.world, scale_wrt_gas=False)

    def step(self, rate: float, loss: float) -> Outcome:
        """DeepSpeed clips and steps; it throws away a gradient that is not finite. So is it made by a loss that is not."""
        set_learning_rate(self.zero, rate)
        if not is_finite(loss):
            from deepspeed.utils import safe_get_full_grad, safe_set_full_grad

            first = next(iter(self.named.values()))
            safe_set_full_grad(first, torch.full_like(safe_get_full_grad(first), math.nan))
            # with offload DeepSpeed has taken norms before, and looks at these
            norms = getattr(self.zero, "norm_for_param_grads", {})
            norms.update({k: torch.full_like(v, math.nan) for k, v in norms.items()})
        # before the step; 1 is the lowest scale
        may_lower_scale = self.dtype == torch.float16 and self.zero.loss_scale > 1.0
        self.deepspeed.step()
        norm = float(self.deepspeed.get_global_grad_norm() or 0.0)
        applied = bool(self.deepspeed.was_step_applied()) and not self.zero.overflow
        return Outcome(norm, applied, finding_loss_scale=may_lower_scale and not applied)

    def close(self) -> None:
        """Frees weights, masters, moments and buffers: hooks inside autograd hold them, where no collector looks."""
        self.deepspeed.destroy()
        for parameter in self.model.parameters():
            for weight in (parameter, getattr(parameter, "ds_tensor", parameter)):
                weight.data = weight.data.new_empty(0)
        for holder in (self.zero, self.deepspeed):
            vars(holder).clear()
        del self.deepspeed, self.zero

    # ---- state ----

    def swapped(self, group: int) -> bool:
        """Stage 3: whether DeepSpeed keeps this sub-group's fp32 state in files, but for the time of its step."""
        return bool(self.stage == 3 and self.zero._swappable_optimizer_subgroup(group))

    @contextlib.contextmanager
    def in_memory(self, group: int, write: bool = False) -> Iterator[None]:
        """Inside, a sub-group's fp32 state is in memory. `write`: what is changed there reaches the files."""
        if not self.swapped(group):
            yield
            return
        self.zero._optimizer_states_and_gradient_swap_in(group)
        try:
            yield
        finally:
            if write:
                self.zero._optimizer_states_and_gradient_swap_out(group)
            else:
                self.zero._release_swap_buffers(group)

    def at_hand(self, write: bool = False) -> Iterator[str]:
        """The trained parameters' names, one sub-group after the other; until the next name its state is in memory."""
        for group, names in itertools.groupby(self.named, self.group_of):
            with self.in_memory(group, write):
                yield from names

    def group_of(self, name: str) -> int:
        """Stage 3: the sub-group that a parameter is stepped with."""
        return int(self.zero.grad_position[self.zero.get_param_id(self.named[name])][0]) if self.stage == 3 else 0

    def master_part(self, name: str) -> tuple[int, Tensor, Tensor] | None:
        """(first element, this rank's part of the fp32 master, the flat tensor that the optimizer steps), or None."""
        parameter: Any = self.named[name]
        if self.stage == 3:
            group, offset, size = self.zero.grad_position[self.zero.get_param_id(parameter)]
            flat = self.zero.fp32_partitioned_groups_flat[group]
            start = size * self.zero._get_param_partition_rank(parameter)
            count = max(0, min(size, parameter.ds_numel - start))  # the last partition is padded
            return (start, flat.narrow(0, offset, count), flat) if count else None
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        flats = getattr(self.zero, "single_partition_of_fp32_groups", None)
        flats = self.zero.fp32_groups_flat_partition if flats is None else flats  # stage 1 in bf16
        flat = flats[mapping.param_group_index]
        return mapping.lp_fragment_address.start, mapping.hp_fragment, flat

    def moment(self, name: str, kind: str) -> Tensor:
        """This rank's part of an optimizer tensor, a view."""
        parameter: Any = self.named[name]
        here = self.master_part(name)
        assert here is not None
        if self.stage == 3:
            offset = self.zero.grad_position[self.zero.get_param_id(parameter)][1]
        else:
            offset = parameter._hp_mapping.hp_fragment_address.start
        return self.zero.optimizer.state[here[2]][kind].narrow(0, offset, here[1].numel())

    def shards(self) -> Iterator[Shard]:
        """What this rank holds of every trained parameter and of the optimizer's state; rank 0 adds the buffers."""
        for name in self.at_hand():
            here = self.master_part(name)
            if here is None:
                continue
            start, master, flat = here
            copy = Tensor.clone if self.swapped(self.group_of(name)) else Tensor.detach  # swapped: a buffer used again
            state = self.zero.optimizer.state.get(flat, {})
            moments = {
                k: v if v.ndim == 0 or v.numel() == 1 else copy(self.moment(name, k))
                for k, v in state.items()
                if isinstance(v, Tensor)
            }
            yield Shard(name, copy(master.detach()), shape_of(self.named[name]), start, moments)
        if self.ranks.rank == 0:
            kept = set(self.model.state_dict())
            for name, buffer in self.model.named_buffers():
                if name in kept:
                    yield Shard(name, buffer, tuple(buffer.shape))

    def state(self) -> EngineState:
        return {"loss_scale": {"scale": float(self.zero.loss_scale), "run": 0} if self.dtype == torch.float16 else None}

    @torch.no_grad()
    def load(self, read: Read, moments: Read | None, state: EngineState) -> None:
        """Every rank reads its own parts. `moments` None: the optimizer has not stepped yet."""
        kept = set(self.model.state_dict())
        for name, buffer in self.model.named_buffers():
            if name in kept:
                buffer.copy_(read(name, 0, buffer.numel()).view(buffer.shape))
        for name in self.at_hand(write=True):
            here = self.master_part(name)
            if here is None:
                continue
            start, master, flat = here
            master.copy_(read(name, start, master.numel()))
            if moments is not None:
                adam = self.zero.optimizer.state[flat]
                adam.setdefault("step", torch.zeros((), dtype=torch.float32, device=flat.device))
                adam["step"].copy_(moments(f"{name}::step", 0, 1).view(()))
                for kind in ("exp_avg", "exp_avg_sq"):
                    adam.setdefault(kind, torch.zeros_like(flat))
                    self.moment(name, kind).copy_(moments(f"{name}::{kind}", start, master.numel()))
        if state["loss_scale"] and self.dtype == torch.float16:
            self.zero.loss_scaler.cur_scale = state["loss_scale"]["scale"]
        self.copy_back()

    @torch.no_grad()
    def copy_back(self) -> None:
        """The masters into the weights that the model computes with."""
        if self.stage != 3:
            self.zero.update_lp_params()
            return
        for group in range(len(self.zero.fp16_groups)):
            with self.in_memory(group):
                self.zero._reassign_or_swap_out_partitioned_parameters(group)
        if self.zero.persistent_parameters:
            self.zero.persistent_parameters[0].all_gather(self.zero.persistent_parameters)

    def master(self, name: str) -> Tensor:
        """A trained parameter in fp32, whole. All ranks have to call."""
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(self.named[name])

    @torch.no_grad()
    def full(self, name: str) -> Tensor:
        """A whole parameter or buffer. All ranks have to call."""
        if name in self.named:
            return self.master(name)
        tensor = self.model.state_dict(keep_vars=True)[name]
        with gathered([tensor] if is_partitioned(tensor) else []):
            return tensor.detach().clone()
