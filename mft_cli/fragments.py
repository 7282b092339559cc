"""Parts of parameters: what an engine holds on one rank, as a checkpoint stores and reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

Read = Callable[[str, int, int], Tensor]  # (name, start, count) -> elements of a flattened stored tensor


@dataclass
class Fragment:
    """This rank's part of a trained parameter: whole, or the elements [n] from `start` on of the flattened whole."""

    name: str
    weight: Tensor
    shape: tuple[int, ...]  # of the whole parameter
    start: int = 0
    moments: dict[str, Tensor] = field(default_factory=dict)  # optimizer tensors of the same elements; scalars whole

    @property
    def whole(self) -> bool:
        return tuple(self.weight.shape) == self.shape
