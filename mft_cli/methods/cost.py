"""What `mft plan` asks of a method: what trains of a model of given sizes, and passes besides the training's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class LinearSizes(Protocol):
    """A linear layer of the model's body."""

    @property
    def name(self) -> str: ...
    @property
    def weights(self) -> int: ...


class ModelSizes(Protocol):
    """What a method may need to know of a model that is not loaded."""

    @property
    def parameters(self) -> int: ...
    @property
    def width(self) -> int: ...  # of the hidden states
    @property
    def layers(self) -> int: ...
    @property
    def linears(self) -> Sequence[LinearSizes]: ...


@dataclass(frozen=True)
class TrainedParameters:
    """Numbers of parameters without peft, and a line that says so."""

    trained: int
    frozen: int
    note: str
    scores: int = 0  # weights that have a score and a mask each
    trains_head: bool = True  # whether the output layer gets a gradient


@dataclass(frozen=True)
class ExtraPass:
    """A forward pass without gradient before the training's own, over the same rows."""

    name: str
    products: int = 0  # of the output layer's size, for a token whose logits are made
    share: float = 0.0  # of all tokens whose logits are made, mean over the run
