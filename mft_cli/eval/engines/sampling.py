"""What plain decoding draws from: logits to the probabilities of the next token, by the rules and in the order of transformers.

vLLM's rules are the same; only where min_p and top_p are both given does it apply min_p first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mft_cli.eval.engines.base import Sampling


def penalised(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Logits [V] with those of the ids seen so far (prompt and completion) divided by `penalty`, negative ones multiplied.

    Keskar et al. 2019 (1909.05858), section 4.1.
    """
    if penalty == 1:
        return logits
    ids = torch.tensor(sorted(set(seen)), device=logits.device)
    values = logits[ids]
    return logits.index_copy(0, ids, torch.where(values < 0, values * penalty, values / penalty))


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """float64 [V] on the CPU, not summed to 1 where tokens are left out; temperature above 0.

    In this order: temperature, the top_k likeliest, the nucleus of top_p, those of at least min_p of the likeliest one
    (Nguyen et al. 2024, 2407.01082).
    """
    scaled = logits.double().cpu() / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        scaled = scaled.masked_fill(scaled < scaled.topk(sampling.top_k).values[-1], -math.inf)
    probability = nucleus(torch.softmax(scaled, dim=-1), sampling.top_p)
    return probability.masked_fill(probability < sampling.min_p * probability.max(), 0.0)


def nucleus(probability: Tensor, top_p: float) -> Tensor:
    """Zero outside the smallest set of tokens whose probability reaches top_p (Holtzman et al. 2020, 1904.09751)."""
    if top_p >= 1:
        return probability
    ranked, order = probability.sort(descending=True)
    outside = ranked.cumsum(-1) - ranked >= top_p
    return probability.index_fill(-1, order[outside], 0.0)
