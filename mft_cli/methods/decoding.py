"""Decoding with what a method exports next to the weights. `eval.decode` names a decoder, the method's keys its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from mft_cli.config.schema.methods import method_classes


class Completion(Protocol):
    """A completion in the making: it chooses its tokens, from its own random numbers where they are sampled."""

    def take(self, logits: Tensor) -> tuple[int, bool]:
        """Appends the next token, chosen from logits [V]: (its id, whether the completion is finished)."""

    def propose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """A token for each of n slots, logits [n, V], and its probability, both [n]. Appends nothing."""

    def take_all(self, ids: Sequence[int]) -> None:
        """Appends tokens."""


@dataclass(frozen=True)
class DecoderSettings:
    """Of `eval.refine_*`."""

    accept: int = 4  # tokens of a chunk accepted in a round
    order: str = "left"  # which: left, or confidence
    steps: int | None = None  # refinement steps at most; None: the export's


class Decoder(Protocol):
    """Prompts in, tokens out; raises UserError where the export lacks what it needs."""

    granularity: int  # the context is filled in multiples of so many tokens

    def __init__(self, model: PreTrainedModel, folder: Path, settings: DecoderSettings): ...

    @staticmethod
    def facts(folder: Path, settings: DecoderSettings) -> dict[str, object]:
        """What decides a completion besides the model, for digests. Raises UserError."""

    def start(self, prompts: Sequence[tuple[int, ...]], ends: Sequence[int]) -> None:
        """Reads the prompts; `ends` are the ids of end tokens."""

    def extend(self, completions: Sequence[Completion]) -> None:
        """At least one more token for each completion."""

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with these completions only."""

    def describe(self) -> str:
        """What decoding did, a line."""


def decoder_class(name: str) -> type[Decoder]:
    """The decoder that eval.decode=`name` means."""
    path = next(cls.decoders[name] for cls in method_classes() if name in cls.decoders)
    module, class_name = path.split(":")
    decoder: type[Decoder] = getattr(import_module(module), class_name)
    return decoder
