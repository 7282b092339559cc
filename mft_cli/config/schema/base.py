"""The types that keys are made of, and how a key carries its line of documentation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

Values = dict[str, Any]  # nested plain values: what YAML and JSON files hold
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
MOST = 10**12  # nothing that is counted or measured here is larger; above it stands a slip of the finger

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=MOST)]
NonNegative = Annotated[float, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
AtLeastOne = Annotated[int, Field(ge=1, le=MOST)]
Processes = Annotated[int, Field(ge=1, le=65536)]  # also threads, nodes, and requests at a time
Seconds = Annotated[float, Field(gt=0, le=10**7)]
# names that become names of files and folders: no path, no line break, nothing hidden
FileName = Annotated[str, Field(pattern=r"^\w[\w.+ -]*$", max_length=100)]
FileNameOrEmpty = Annotated[str, Field(pattern=r"^(\w[\w.+ -]*)?$", max_length=100)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


NEEDS = "needs"


def key(default: Any, doc: str, needs: str = "") -> Any:
    """A configuration key with its one line of documentation. A list, dict or dataclass type is made again each time.

    `needs`: without what the key has no effect, `noise=mixup`, `name!=none`, `a or b` (mft_cli/config/effects.py).
    """
    extra: dict[str, Any] | None = {NEEDS: needs} if needs else None
    if isinstance(default, (list, dict)):
        return Field(default_factory=lambda: type(default)(default), description=doc, json_schema_extra=extra)
    if isinstance(default, type):
        return Field(default_factory=default, description=doc, json_schema_extra=extra)
    return Field(default=default, description=doc, json_schema_extra=extra)
