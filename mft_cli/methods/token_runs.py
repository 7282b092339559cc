"""Runs of consecutive tokens (method.granularity=span): a position starts a run with probability q, of geometric length.

Starts are drawn at every position of the example, those before the candidates too, so that the first response token is
covered as often as any other (where a prompt stands before it). Lengths do not depend on p: masked sets only grow with p.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mft_cli.data.pack import Batch
from mft_cli.rng import Draw, bernoulli


def covered(batch: Batch, p: Tensor, mean: float, draw: Draw) -> Tensor:
    """Positions that a run covers, bool [R, T], each with its probability `p`, float64 [R, T]; `mean`: a run's, in tokens."""
    start = bernoulli(
        draw("masked_thought.span", batch.epoch, batch.example, batch.positions), start_probability(p, mean)
    )
    length = geometric(draw.unit("masked_thought.length", batch.epoch, batch.example, batch.positions), mean)
    column = torch.arange(batch.input_ids.shape[1], device=p.device).expand_as(batch.positions)
    first = column - batch.positions
    span_end = torch.where(start & batch.real, column + length, torch.zeros_like(column))
    span_end = torch.minimum(span_end, example_end(first, batch))
    return torch.cummax(span_end, dim=1).values > column


def example_end(first: Tensor, batch: Batch) -> Tensor:
    """Column after the last one of the example at each position [R, T]: a run never goes on into the next example."""
    ends = torch.zeros_like(first)
    for r, row in enumerate(batch.lengths):
        lengths = torch.tensor(row, device=first.device)
        ends[r] = torch.repeat_interleave(torch.cumsum(lengths, 0), lengths)
    return ends


def geometric(unit: Tensor, mean: float) -> Tensor:
    """Lengths 1, 2, ... with P(length > k) = (1 - 1/mean)^k, by inversion of `unit` in [0, 1)."""
    if mean == 1:
        return torch.ones_like(unit, dtype=torch.int64)
    return 1 + torch.floor(torch.log1p(-unit) / math.log(1 - 1 / mean)).to(torch.int64)


def start_probability(p: Tensor, mean: float) -> Tensor:
    """q with 1 - prod over k >= 0 of (1 - q (1 - 1/mean)^k) = p, by bisection; of p's shape.

    A position is not covered if, for every k, no run of more than k tokens started k positions before it.
    """
    values, back = torch.unique(p, return_inverse=True)
    # as many terms as are above 1e-15; 2000 bounds the work for very long spans
    terms = 1 if mean == 1 else min(2000, math.ceil(math.log(1e-15) / math.log(1 - 1 / mean)))
    survival = (1 - 1 / mean) ** torch.arange(terms, dtype=torch.float64, device=p.device)
    low, high = torch.zeros_like(values), values.clone()  # k = 0 alone gives coverage q, so q <= p
    for _ in range(60):  # 2^-60 is below the spacing of float64
        middle = (low + high) / 2
        covered = 1 - torch.prod(1 - middle[:, None] * survival, dim=1)
        low, high = torch.where(covered < values, middle, low), torch.where(covered < values, high, middle)
    return high[back]
