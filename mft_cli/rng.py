"""Randomness as a function: the same (seed, stream, epoch, example, position) gives the same number on any device.

No generator state exists, so nothing has to be saved, and a split over ranks, rows or micro-batches changes nothing.
The mixing is splitmix64's finalizer (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators") on
int64 tensors, whose products wrap modulo 2^64 alike on CPU and GPU.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

UNIT = 1 << 53  # draws are integers in [0, UNIT): exactly the doubles of [0, 1) times UNIT
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_M1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_M2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's >> on int64 copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _M1
    x = (x ^ _shift(x, 27)) * _M2
    return x ^ _shift(x, 31)


def digest64(*parts: object) -> int:
    """A signed 64-bit digest of the parts' text: ids of examples, names of streams."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def sampling_seed(*parts: object) -> int:
    """A seed for one completion, 31 bits: what every engine and endpoint takes."""
    return digest64(*parts) & 0x7FFFFFFF


class Draw:
    """`draw(stream, epoch, id, position)` for one seed: int64 in [0, 2^53), of the shape of id and position."""

    def __init__(self, seed: int):
        self.seed = seed

    def __call__(self, stream: str, epoch: int, id: Tensor, position: Tensor | int = 0) -> Tensor:
        base = digest64("mft", self.seed, stream, epoch)
        position = torch.as_tensor(position, dtype=torch.int64, device=id.device)
        return _shift(_mix(_mix(_mix(id + base) ^ position) + base), 11)

    def unit(self, stream: str, epoch: int, id: Tensor, position: Tensor | int = 0) -> Tensor:
        """The draw as float64 in [0, 1)."""
        return self(stream, epoch, id, position).to(torch.float64) / UNIT


def bits(draws: Tensor, index: Tensor) -> Tensor:
    """64 bits for every pair of a draw and an index (the two broadcast), int64: cheap numbers by the million."""
    return _mix(draws ^ _mix(index))


def spread(draws: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """`count` integers over the whole range of `dtype` (int16 or int32) for every draw: [..., count].

    A draw for each of an embedding's dimensions, or of a vocabulary's words, without a stream for each.
    """
    each = 8 // dtype.itemsize
    index = torch.arange(-(-count // each), device=draws.device)
    return bits(draws[..., None], index).view(dtype)[..., :count]


def bernoulli(draws: Tensor, probability: float | Tensor) -> Tensor:
    """draw < p * 2^53. The masked sets nest while p grows: what is masked at a smaller p stays masked at a larger."""
    if isinstance(probability, Tensor):
        return draws < (probability.to(torch.float64) * UNIT).to(torch.int64)
    return draws < int(probability * UNIT)


def permutation(draw: Draw, stream: str, epoch: int, ids: Tensor) -> Tensor:
    """Order of the rows `ids` [N]: an argsort of their draws (stable, so equal ids keep their order)."""
    return torch.argsort(draw(stream, epoch, ids), stable=True)
