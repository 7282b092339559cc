"""Learning-rate schedules as a function of the step, and AdamW over fp32 master weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mft_cli.config.schema.training import TrainingConfig

Group = dict[str, Any]  # a group of parameters, see Method.param_groups


def warmup_steps(config: TrainingConfig, total: int) -> int:
    if config.warmup_steps is not None:
        return config.warmup_steps
    return math.ceil(config.warmup_fraction * total)


def learning_rate_factor(step: int, total: int, config: TrainingConfig) -> float:
    """Share of the peak learning rate in optimizer step `step` (counted from 0) of `total`.

    Warm-up rises linearly from 0 in step 0, as transformers' schedulers do. Then the schedule falls from 1 to
    min_ratio at decay_fraction x total steps; after that `tail`: stay there, or go linearly to 0 at the end.
    """
    warm = warmup_steps(config, total)
    if step < warm:
        return step / max(1, warm)
    if config.schedule == "constant":
        return 1.0
    end = max(warm + 1, round(config.decay_fraction * total))
    if step <= end:
        done = (step - warm) / (end - warm)
        shape = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return config.min_ratio + (1 - config.min_ratio) * shape
    if config.tail == "constant" or total <= end:
        return config.min_ratio
    return config.min_ratio * max(0.0, (total - step) / (total - end))


def make_adamw(groups: list[Group], config: TrainingConfig) -> torch.optim.Optimizer:
    """`groups` as methods give them, with tensors instead of (name, tensor) pairs. Decay on weight matrices only.

    8 bits: blocks of 256 elements share a scale (Dettmers et al. 2022); tensors below 4,096 elements stay in fp32.
    """
    settings = [
        {
            "params": group["params"],
            "weight_decay": config.weight_decay if group["decay"] else 0.0,
            "scale": group["scale"],
        }
        for group in groups
        if group["params"]
    ]
    beta1, beta2 = config.betas
    if config.optimizer != "adamw":
        import bitsandbytes as bnb

        kind = bnb.optim.AdamW8bit if config.optimizer == "adamw_8bit" else bnb.optim.PagedAdamW8bit
        made: torch.optim.Optimizer = kind(settings, lr=config.learning_rate, betas=(beta1, beta2), eps=config.eps)
        return made
    return torch.optim.AdamW(settings, lr=config.learning_rate, betas=(beta1, beta2), eps=config.eps, fused=True)


def state_tensors(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """A parameter's state as tensors to save; {} before its first step."""
    state = optimizer.state.get(parameter, {})
    kept = {k: v for k, v in state.items() if not k.startswith("qmap")}  # constants of bitsandbytes
    return {k: v if isinstance(v, Tensor) else torch.tensor(float(v)) for k, v in kept.items()}


def restore_state(optimizer: torch.optim.Optimizer, parameter: Tensor, read: Callable[[str, int], Tensor]) -> None:
    """Takes a parameter's state back. `read(kind, elements)` gives a flattened stored tensor."""
    if isinstance(optimizer, torch.optim.AdamW):
        # its step count stays on the CPU unless it is fused on a GPU
        state = {k: read(k, parameter.numel()).view(parameter.shape) for k in ("exp_avg", "exp_avg_sq")}
        state = {"step": read("step", 1).view(()), **state}
        optimizer.state[parameter] = {k: v.to(parameter.device).clone() for k, v in state.items()}
        return
    eight_bit: Any = optimizer  # bitsandbytes' own interface
    places = [(g, p) for g, group in enumerate(optimizer.param_groups) for p in range(len(group["params"]))]
    g, p = next((g, p) for g, p in places if optimizer.param_groups[g]["params"][p] is parameter)
    eight_bit.init_state(optimizer.param_groups[g], parameter, g, p)
    for kind, value in optimizer.state[parameter].items():
        if kind.startswith("qmap"):
            continue
        if isinstance(value, Tensor):
            value.copy_(read(kind, value.numel()).view(value.shape))
        else:
            optimizer.state[parameter][kind] = int(read(kind, 1))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def total_steps(config: TrainingConfig, examples: int) -> int:
    """max_steps, else epochs times the steps of an epoch, whose last partial one counts."""
    per_epoch = math.ceil(examples / config.global_batch_size)
    return config.max_steps or max(1, math.ceil(config.epochs * per_epoch))
