"""Settings that were set and have no effect: the schema's keys say which others they need (`key(..., needs=...)`)."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import TypeVar

from pydantic.fields import FieldInfo

from mft_cli.config.schema.base import NEEDS

Value = TypeVar("Value")


def without_effect(config: object) -> list[str]:
    """A sentence for each key that differs from its default and has no effect in this configuration."""
    return [
        f"{key} has no effect here: it needs {need}"
        for key, need, changed in unmet_needs(config)
        if changed
    ]  # fmt: skip


def unmet_needs(config: object) -> Iterator[tuple[str, str, bool]]:
    """(key, what it needs, whether it differs from its default) of every key whose need is not met."""
    yield from _unmet(config, config, "")


def _unmet(root: object, section: object, prefix: str) -> Iterator[tuple[str, str, bool]]:
    for f in fields(typing.cast(typing.Any, section)):
        value, name = getattr(section, f.name), f"{prefix}{f.name}"
        info = f.default if isinstance(f.default, FieldInfo) else FieldInfo()
        extra = info.json_schema_extra
        needs = str(extra[NEEDS]) if isinstance(extra, dict) and NEEDS in extra else ""
        if needs and not any(is_met(root, section, need) for need in needs.split(" or ")):
            yield name, " or ".join(in_full(need, prefix) for need in needs.split(" or ")), value != default_of(info)
            continue
        inner = value if isinstance(value, dict) else {"": value}
        for key, part in inner.items():
            if is_dataclass(part):
                yield from _unmet(root, part, f"{name}.{key}." if key else f"{name}.")


def default_of(info: FieldInfo) -> object:
    return info.get_default(call_default_factory=True) if info.default is not MISSING else None


def in_full(need: str, prefix: str) -> str:
    """A need as one types it: a name without a dot is a key of the same section."""
    return need if "." in need.split("=")[0] else f"{prefix}{need}"


def is_met(root: object, section: object, need: str) -> bool:
    """`key=a|b`: has one of these values; `key!=a`: another one; `key`: is set, and neither 0, false nor empty."""
    name, unequal, values = need.partition("!=")
    name, equal, values = (name, unequal, values) if unequal else need.partition("=")
    value: object = root if "." in name else section
    for part in name.split("."):
        value = getattr(value, part, None)
    if not equal:
        return bool(value)
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return (shown in values.split("|")) != bool(unequal)
