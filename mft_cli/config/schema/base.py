"""The types that keys are made of, and how a key carries its line of documentation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=True)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


def key(default: Any, doc: str) -> Any:
    """A configuration key with its one line of documentation. A list, dict or dataclass type is made anew each time."""
    if isinstance(default, (list, dict)):
        return Field(default_factory=lambda: type(default)(default), description=doc)
    if isinstance(default, type):
        return Field(default_factory=default, description=doc)
    return Field(default=default, description=doc)
