"""The own keys of `mft analyze`, read from the command line. Imports no torch, so that a mistake is told at once."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from mft_cli.errors import UserError

Settings = TypeVar("Settings")


def at_least(default: int, low: int) -> Any:
    return field(default=default, metadata={"kind": int, "low": low})


def between(default: float, low: float, high: float) -> Any:
    """A number above `low` and up to `high`."""
    return field(default=default, metadata={"kind": float, "above": low, "high": high})


def one_of(*options: str) -> Any:
    return field(default=options[0], metadata={"kind": str, "options": options})


@dataclass(frozen=True)
class DependencySettings:
    """`mft analyze dependency`."""

    near: int = at_least(16, 1)
    share: float = between(0.5, 0, 1)
    corruption: str = one_of("random", "mask", "hide")
    positions: int = at_least(8, 1)
    draws: int = at_least(1, 1)
    examples: int = at_least(32, 1)
    split: str = one_of("auto", "train", "validation")
    batch_tokens: int = at_least(2048, 1)
    out: str | None = field(default=None, metadata={"kind": str})


@dataclass(frozen=True)
class LandscapeSettings:
    """`mft analyze landscape`."""

    kind: str = one_of("random", "line", "plane")
    dimensions: int = at_least(1, 1)
    points: int = at_least(11, 2)
    reach: float = between(0.2, 0, math.inf)
    margin: float = between(0.25, 0, math.inf)
    keep_zeros: str = one_of("false", "true")
    examples: int = at_least(16, 1)
    split: str = one_of("auto", "train", "validation")
    batch_tokens: int = at_least(2048, 1)
    out: str | None = field(default=None, metadata={"kind": str})


KINDS = {"reach": ("random",), "dimensions": ("random",), "keep_zeros": ("random",), "margin": ("plane",)}


def check_landscape(asked: LandscapeSettings) -> None:
    """Raises UserError for a key that another kind of landscape has, and for more than two dimensions."""
    if asked.dimensions > 2:
        raise UserError(f"dimensions={asked.dimensions}: expected 1 or 2")
    for name, kinds in KINDS.items():
        if asked.kind not in kinds and getattr(asked, name) != getattr(LandscapeSettings(), name):
            raise UserError(
                f"{name}={getattr(asked, name)} is a key of kind={kinds[0]}, not of kind={asked.kind}; leave it out"
            )


def names(cls: Any) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


def read(cls: type[Settings], own: dict[str, str]) -> Settings:
    """The settings that these texts say. Raises UserError that names key, value and what was expected."""
    rules = {f.name: f.metadata for f in fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value(name, text, rules[name]) for name, text in own.items()})


def value(name: str, text: str, rule: Any) -> Any:
    if rule["kind"] is str:
        if "options" in rule and text not in rule["options"]:
            near = difflib.get_close_matches(text, rule["options"], n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{name}={text}: expected one of {', '.join(rule['options'])}{hint}")
        return text
    try:
        number = rule["kind"](text)
    except ValueError:
        raise UserError(f"{name}={text}: expected a {'whole ' if rule['kind'] is int else ''}number") from None
    if rule["kind"] is int and number < rule["low"]:
        raise UserError(f"{name}={text}: expected {rule['low']} or more")
    if rule["kind"] is float and not (rule["above"] < number <= rule["high"] and math.isfinite(number)):
        most = f" and at most {rule['high']:g}" if math.isfinite(rule["high"]) else ""
        raise UserError(f"{name}={text}: expected a number above {rule['above']:g}{most}")
    return number
