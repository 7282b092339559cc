"""Learning-rate schedules as a function of the step, and AdamW over fp32 master weights."""

from __future__ import annotations

import math
from typing import Any

import torch

from mft_cli.schema import TrainingConfig


def warmup_steps(config: TrainingConfig, total: int) -> int:
    if config.warmup_steps is not None:
        return config.warmup_steps
    return math.ceil(config.warmup_fraction * total)


def learning_rate_factor(step: int, total: int, config: TrainingConfig) -> float:
    """Share of the peak learning rate in optimizer step `step` (counted from 0) of `total`.

    Warm-up rises linearly from 0 in step 0, as transformers' schedulers do. Then the schedule falls from 1 to
    min_ratio at decay_fraction x total steps; behind that `tail`: stay there, or go linearly to 0 at the end.
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


def make_adamw(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.AdamW:
    """`groups` as methods give them, with tensors instead of (name, tensor) pairs. Decay on weight matrices only."""
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
    return torch.optim.AdamW(settings, lr=config.learning_rate, betas=(beta1, beta2), eps=config.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
