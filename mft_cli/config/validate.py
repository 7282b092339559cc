"""Plain dictionaries to dataclasses: pydantic, strict, with errors that name the key and the nearest valid one."""

from __future__ import annotations

import difflib
import functools
import json
import re
import typing
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mft_cli.config import schema
from mft_cli.errors import UserError


def build(cls: Any, values: dict[str, Any], prefix: str = "") -> Any:
    """`values` (nested plain dicts) as an instance of `cls`. Raises UserError that names every bad key."""
    try:
        return adapter(cls).validate_json(json.dumps(values))
    except ValidationError as error:
        # pydantic reports the keys of both branches of an optional dataclass; one sentence a key is enough
        sentences = dict.fromkeys(describe(cls, item, prefix) for item in most_telling(cls, error.errors()))
        raise UserError("\n".join(sentences)) from None


def most_telling(cls: type[Any], errors: list[Any]) -> list[Any]:
    """Findings without "is no object": where a number or a map is possible, another finding says what is wrong."""
    others = [real_path(cls, e["loc"])[0] for e in errors if not e["type"].endswith("_type")]
    return [
        e
        for e in errors
        if not e["type"].endswith("_type")
        or not any(o[: len(p)] == p for p in [real_path(cls, e["loc"])[0]] for o in others)
    ]


@functools.cache
def adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration as nested plain dicts, every key present."""
    cls: Any = type(config)
    return dict(adapter(cls).dump_python(config, mode="json"))


def describe(cls: type[Any], item: Any, prefix: str) -> str:
    """One of pydantic's findings as our sentence: the key, the value, what was expected, the nearest valid one."""
    path, owner = real_path(cls, item["loc"])
    name, value = prefix + ".".join(path), item["input"]
    if item["type"] == "unexpected_keyword_argument" and owner is schema.EvalConfig and is_benchmark_key(path):
        return (
            f"unknown key {name}: a benchmark's key is eval.benchmarks.<name>.{path[-1]} (and its YAML file starts with the "
            f"line # @package eval.benchmarks.<name>)"
        )
    if item["type"] == "unexpected_keyword_argument":
        return f"unknown key {name} (value {show(value)}){nearest_key(cls, owner, path)}"
    if item["type"] == "union_tag_invalid":
        tag, expected = item["ctx"]["tag"], re.findall(r"'([^']+)'", item["ctx"]["expected_tags"])
        return f"{name}.name={tag}: expected one of {', '.join(expected)}{did_you_mean(tag, expected)}"
    if item["type"] == "union_tag_not_found":
        return f"{name}: 'name' is missing; choose one with {name}=<option>"
    if item["type"] == "literal_error":
        expected = re.findall(r"'([^']+)'", item["ctx"]["expected"])
        return f"{name}={show(value)}: expected one of {', '.join(expected)}{did_you_mean(str(value), expected)}"
    message = item["msg"][0].lower() + item["msg"][1:]
    for found, better in (("input should be", "expected"), ("a valid ", "a "), ("a integer", "an integer")):
        message = message.replace(found, better)
    return f"{name}={show(value)}: {message}"


def is_benchmark_key(path: list[str]) -> bool:
    return path[-1] in names(schema.BenchmarkConfig)


def show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def real_path(cls: type[Any], loc: Iterable[Any]) -> tuple[list[str], type[Any] | None]:
    """The key path of a finding without pydantic's union tags, and the dataclass that owns its last key."""
    path: list[str] = []
    owner: type[Any] | None = None
    node: Any = cls
    for part in loc:
        variants = dataclasses_in(node)
        tagged = [v for v in variants if getattr(v, "name", None) == part or v.__name__ == part]
        if tagged and not any(part in names(v) for v in variants):
            node = tagged[0]
            continue
        if isinstance(part, str) and part.startswith(("dict[", "list[")):  # a branch of a union
            node = next((a for a in typing.get_args(node) if typing.get_origin(a) in (dict, list)), node)
            continue
        if part in ("constrained-int", "constrained-float", "int", "float", "str", "none"):
            continue
        path.append(str(part))
        owner = variants[0] if variants else None
        node = field_type(owner, str(part)) if owner else element_type(node)
    return path, owner


def dataclasses_in(annotation: Any) -> list[type[Any]]:
    if isinstance(annotation, type) and is_dataclass(annotation):
        return [annotation]
    if typing.get_origin(annotation) in (dict, list):
        return []
    return [found for part in typing.get_args(annotation) for found in dataclasses_in(part)]


def element_type(annotation: Any) -> Any:
    """What a dict's or list's values are."""
    arguments = typing.get_args(annotation)
    return arguments[-1] if arguments else Any


@functools.cache
def hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def field_type(cls: Any, name: str) -> Any:
    return hints(cls).get(name, Any)


def names(cls: type[Any]) -> list[str]:
    return [f.name for f in fields(cls)]


def nearest_key(root: type[Any], owner: type[Any] | None, path: list[str]) -> str:
    """The nearest valid key among the siblings, else anywhere: `learning_rate=` lives under train."""
    siblings = names(owner) if owner else []
    near = difflib.get_close_matches(path[-1], siblings, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {'.'.join([*path[:-1], near[0]])}?"
    everywhere = [k for k, *_ in walk(root)]
    if ".".join(path) in everywhere:
        others = [str(v.name) for v in dataclasses_in(field_type(root, path[0])) if path[-1] in names(v)]
        return f"; it is a key of {path[0]}={', '.join(others)}"
    ends = [k for k in everywhere if k.rsplit(".", 1)[-1] == path[-1]]
    near = ends or difflib.get_close_matches(".".join(path), everywhere, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; valid keys here: {', '.join(siblings)}" if siblings else ""


def did_you_mean(value: str, options: Iterable[str]) -> str:
    near = difflib.get_close_matches(value, list(options), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def walk(cls: type[Any], prefix: str = "") -> Iterable[tuple[str, Any, Any]]:
    """(key, annotation, field) of every key below a dataclass; dict values appear as <name>."""
    for f in fields(cls):
        annotation, name = field_type(cls, f.name), f"{prefix}{f.name}"
        yield name, annotation, f
        inner = dataclasses_in(annotation)
        if typing.get_origin(annotation) is dict:
            inner, name = dataclasses_in(element_type(annotation)), f"{name}.<name>"
        for one in inner:
            yield from walk(one, f"{name}.")


def to_yaml(config: Any) -> str:
    import yaml

    return str(yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=120))


def read_yaml(cls: type[Any], path: Path) -> Any:
    import yaml

    return build(cls, yaml.safe_load(path.read_text(encoding="utf-8")))
