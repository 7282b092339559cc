"""The options of `mft analyze`. Imports no torch, so that a mistake is reported at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import MOST, STRICT, AtLeastOne, Positive, Share, key
from mft_cli.errors import UserError

Split = Literal["auto", "train", "validation"]
SPLIT = "auto: the validation rows if the data has some, else the training rows."


@dataclass(config=STRICT, frozen=True)
class DependencySettings:
    """`mft analyze dependency`."""

    near: AtLeastOne = key(16, "Response tokens that are near; earlier ones are far.")
    share: Share = key(0.5, "Share of a region's tokens that is corrupted.")
    corruption: Literal["random", "mask", "hide"] = key("random", "What becomes of a corrupted token.")
    positions: AtLeastOne = key(8, "Response tokens of an example whose prediction is measured.")
    draws: AtLeastOne = key(1, "Corruptions of each region.")
    examples: AtLeastOne = key(32, "Examples, a seeded draw.")
    split: Split = key("auto", SPLIT)
    batch_tokens: AtLeastOne = key(2048, "Tokens in one forward pass.")
    out: str | None = key(None, "Folder; null: outputs/dependency-<data>-<digest>.")


@dataclass(config=STRICT, frozen=True)
class LandscapeSettings:
    """`mft analyze landscape`."""

    kind: Literal["random", "line", "plane"] = key("random", "Around each model, from one to the next, through three.")
    dimensions: Annotated[int, Field(ge=1, le=2)] = key(1, "Of kind=random.")
    points: Annotated[int, Field(ge=2, le=MOST)] = key(11, "Points on an axis.")
    reach: Positive = key(0.2, "Of kind=random: times a filter's norm.")
    margin: Positive = key(0.25, "Of kind=plane: shown around the three models, as a share of their extent.")
    keep_zeros: bool = key(False, "Of kind=random: weights that are 0 stay 0.")
    examples: AtLeastOne = key(16, "Examples, a seeded draw.")
    split: Split = key("auto", SPLIT)
    batch_tokens: AtLeastOne = key(2048, "Tokens in one forward pass.")
    out: str | None = key(None, "Folder; null: outputs/landscape-<data>-<digest>.")


@dataclass(config=STRICT, frozen=True)
class GraphSettings:
    """`mft analyze graph`."""

    examples: AtLeastOne = key(32, "Examples, a seeded draw.")
    out: str | None = key(None, "Folder; null: outputs/graph-<data>-<digest>.")


@dataclass(config=STRICT, frozen=True)
class ResilienceSettings:
    """`mft analyze resilience`."""

    examples: AtLeastOne = key(200, "Examples, a seeded draw.")
    batch_size: AtLeastOne = key(64, "Completions at a time.")
    max_new_tokens: AtLeastOne = key(256, "Longest completion in tokens.")
    out: str | None = key(None, "Folder; null: outputs/resilience-<data>-<digest>.")


KINDS = {"reach": ("random",), "dimensions": ("random",), "keep_zeros": ("random",), "margin": ("plane",)}


def check_landscape(asked: LandscapeSettings) -> None:
    """Raises UserError for a key that another kind of landscape has."""
    for name, kinds in KINDS.items():
        if asked.kind not in kinds and getattr(asked, name) != getattr(LandscapeSettings(), name):
            raise UserError(
                f"{name}={getattr(asked, name)} is a key of kind={kinds[0]}, not of kind={asked.kind}; leave it out"
            )
