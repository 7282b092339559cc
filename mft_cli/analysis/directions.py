"""Directions and points in weight space. A direction is a function of (seed, number, parameter's name): nothing is saved.

Random directions are normalised filter by filter (Li et al. 2018, arXiv 1712.09913, section 4): every filter of the
direction gets the norm of the weights' filter. A filter is what belongs to one index of a parameter's first axis: an
output of a linear layer, a word of an embedding. Parameters of one axis (norms, biases) do not move, as in their code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mft_cli.rng import UNIT, Draw, bits, digest64

BLOCK = 1 << 16  # elements that are drawn at a time: the draws are 64-bit, and their copies should stay in the cache

Point = dict[str, Tensor]  # parameter name -> value or direction, fp32


def weights_of(model: nn.Module) -> Point:
    """A copy of every parameter; tied ones once."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def random_direction(weights: Point, seed: int, number: int, keep_zeros: bool = False) -> Point:
    """Filter-normalised standard normal direction. `keep_zeros`: weights that are 0 (masked) do not move."""
    draw, result = Draw(seed), {}
    for name, weight in weights.items():
        if weight.dim() < 2:
            result[name] = torch.zeros_like(weight)
            continue
        direction = normal(draw, f"landscape.{number}", name, weight)
        if keep_zeros:
            direction *= weight != 0
        result[name] = filter_normalised(direction, weight)
    return result


def normal(draw: Draw, stream: str, name: str, like: Tensor) -> Tensor:
    """Standard normal numbers of the shape of `like`, by inversion of draws on (name, index)."""
    out = torch.empty(like.numel(), dtype=torch.float32, device=like.device)
    base = draw(stream, 0, torch.tensor([digest64(name)], device=like.device))
    for start in range(0, len(out), BLOCK):
        index = torch.arange(start, min(start + BLOCK, len(out)), device=like.device)
        drawn = (bits(base, index) >> 11) & (UNIT - 1)  # 53 bits, as every draw
        unit = (drawn.to(torch.float64) + 0.5) / UNIT  # never 0 or 1, whose quantiles are infinite
        out[start : start + BLOCK] = torch.special.ndtri(unit)
    return out.view(like.shape)


def filter_normalised(direction: Tensor, weight: Tensor) -> Tensor:
    """d_i * |w_i| / |d_i| for every filter i, norms in fp64; 0 where the direction's filter is 0."""
    axes = tuple(range(1, weight.dim()))
    of_weight = weight.double().square().sum(axes, keepdim=True).sqrt()
    of_direction = direction.double().square().sum(axes, keepdim=True).sqrt()
    scale = torch.where(of_direction > 0, of_weight / of_direction, torch.zeros_like(of_weight))
    return (direction * scale).to(torch.float32)


def difference(first: Point, second: Point) -> Point:
    return {name: second[name] - value for name, value in first.items()}


def inner(first: Point, second: Point) -> float:
    """Inner product over all parameters, in fp64."""
    return sum(float(torch.dot(value.flatten().double(), second[n].flatten().double())) for n, value in first.items())


def plane(points: list[Point]) -> tuple[Point, Point, list[tuple[float, float]]]:
    """Orthonormal axes of the plane through three points, and the points' coordinates (Garipov et al. 2018, 1802.10026).

    The origin is the first point, the first axis leads to the second. Raises ValueError where they lie on one line.
    """
    u, v = difference(points[0], points[1]), difference(points[0], points[2])
    along = inner(u, u) ** 0.5
    if along == 0:
        raise ValueError("the first two points are the same")
    u = {n: x / along for n, x in u.items()}
    across = inner(u, v)
    whole = inner(v, v)
    v = {n: x - across * u[n] for n, x in v.items()}
    height = inner(v, v) ** 0.5
    if whole == 0 or height < 1e-4 * whole**0.5:  # what rounding leaves of a parallel one
        raise ValueError("the three points lie on one line")
    v = {n: x / height for n, x in v.items()}
    return u, v, [(0.0, 0.0), (along, 0.0), (across, height)]


@torch.no_grad()
def put_sum(model: nn.Module, origin: Point, steps: list[tuple[float, Point]]) -> None:
    """Give the model the weights origin + sum of factor x direction. With factors of 0 they are the origin's bits."""
    for name, parameter in model.named_parameters():
        value = origin[name]
        for factor, direction in steps:
            value = value + factor * direction[name]
        parameter.copy_(value)


@torch.no_grad()
def put_between(model: nn.Module, first: Point, second: Point, t: float) -> None:
    """The weights first + t (second - first); at t = 0 and t = 1 the bits of the two."""
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.lerp(first[name], second[name], t))
