"""Plain dictionaries to dataclasses: pydantic, strict, with errors that name the key and the nearest valid one."""

from __future__ import annotations

import difflib
import functools
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields, is_dataclass
from pathlib import Path

import annotated_types
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mft_cli.config import schema
from mft_cli.config.schema.aliases import ALIASES
from mft_cli.config.schema.base import MOST, Values
from mft_cli.errors import UserError
from mft_cli.files import flatten

Config = typing.TypeVar("Config")
Hint = object  # an annotation: a class, or one of typing's forms


def build(cls: type[Config], values: Mapping[str, object], prefix: str = "") -> Config:
    """`values` (nested plain dicts) as an instance of `cls`. Raises UserError that names every bad key."""
    return _checked(cls, lambda: typing.cast(Config, adapter(cls).validate_json(json.dumps(values))), prefix, show)  # type: ignore[arg-type]


def build_from_texts(cls: type[Config], texts: Mapping[str, str]) -> Config:
    """`texts`, each value as it was typed, as an instance of `cls`: a verb's own options. Raises UserError."""
    return _checked(cls, lambda: typing.cast(Config, adapter(cls).validate_strings(dict(texts))), "", str)  # type: ignore[arg-type]


def _checked(cls: type[Config], make: Callable[[], Config], prefix: str, shown: Callable[[object], str]) -> Config:
    try:
        return make()
    except ValidationError as error:
        # pydantic reports every branch of a union; one sentence a key is enough: that which tells most
        sentences: dict[str, str] = {}
        for item in most_telling(cls, error.errors()):
            sentence = describe(cls, item, prefix, shown)
            mistake = sentence.partition(": expected")[0]
            sentences[mistake] = max(sentences.get(mistake, ""), sentence, key=len)
        raise UserError("\n".join(sentences.values())) from None


def most_telling(cls: type, errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Findings without "is not an object": where a number or a map is possible, another finding says what is wrong."""
    others = [real_path(cls, e["loc"])[0] for e in errors if not e["type"].endswith("_type")]
    return [
        e
        for e in errors
        if not e["type"].endswith("_type")
        or not any(o[: len(p)] == p for p in [real_path(cls, e["loc"])[0]] for o in others)
    ]


@functools.cache
def adapter(cls: type[typing.Any]) -> TypeAdapter[typing.Any]:
    return TypeAdapter(cls)


def to_plain(config: object) -> Values:
    """A configuration as nested plain dicts, every key present."""
    return dict(adapter(type(config)).dump_python(config, mode="json"))  # type: ignore[arg-type]


def describe(cls: type, item: ErrorDetails, prefix: str, shown: Callable[[object], str]) -> str:
    """One of pydantic's findings as our sentence: the key, the value, what was expected, the nearest valid one."""
    path, owner, annotation = real_path(cls, item["loc"])
    name, value, kind, context = prefix + ".".join(path), item["input"], item["type"], item.get("ctx", {})
    if kind == "json_invalid" and (bad := not_utf8(json.loads(str(value)))):
        return f"{prefix}{bad}: a text that is no UTF-8: rename the file, or set LANG=C.UTF-8 where the terminal's letters are lost"
    if (
        kind == "unexpected_keyword_argument"
        and owner is schema.EvalConfig
        and path[-1] in names(schema.BenchmarkConfig)
    ):
        return (
            f"unknown key {name}: a benchmark's key is eval.benchmarks.<name>.{path[-1]} (and its YAML file starts with the "
            f"line # @package eval.benchmarks.<name>)"
        )
    if kind == "unexpected_keyword_argument" and path == ["experiment"]:
        return "experiment=<name>: its YAML file has to start with the line # @package _global_"
    if kind == "unexpected_keyword_argument" and "." in path[-1]:
        section, _, key = path[-1].partition(".")
        return f"unknown key {name}: in a YAML file write it as sections, {section}: {{{key}: {shown(value)}}}"
    if kind == "unexpected_keyword_argument":
        return f"unknown key {name} (value {shown(value)}){nearest_key(cls, owner, path)}"
    if kind == "union_tag_invalid":
        tag, options = str(context["tag"]), re.findall(r"'([^']+)'", str(context["expected_tags"]))
        return f"{name}.name={tag}: expected one of {', '.join(options)}{did_you_mean(tag, options)}"
    if kind == "union_tag_not_found":
        return f"{name}: 'name' is missing; choose one with {name}=<option>"
    if item["loc"][-1:] == ("[key]",):
        return f"{prefix}{'.'.join(path[:-1])}: the name {shown(value)}: expected {expected(annotation)}"
    if kind == "missing":
        return f"{name} is missing: expected {expected(annotation)}"
    options = re.findall(r"'([^']+)'", str(context["expected"])) if kind == "literal_error" else []
    hint = did_you_mean(str(value), options)
    return f"{name}={shown(value)}: expected {expected(annotation, all_bounds=kind.startswith('less'))}{hint}"


def not_utf8(values: object) -> str | None:
    """key=value of the first value with bytes of a file name, or of a terminal, that are no UTF-8; JSON cannot hold them."""
    for name, value in flatten(values).items():
        try:
            show(value).encode()
        except UnicodeEncodeError:
            return f"{name}={json.dumps(value)}"
    return None


def show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


# ---- what a key expects, in words -----------------------------------------------------------------------------------

ANY = "any value"
WORDS = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null", Path: "a path",
}  # fmt: skip


def expected(annotation: Hint, all_bounds: bool = False) -> str:
    """An annotation in words: a whole number, 1 or more. Of the ends that all keys have, only with `all_bounds`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        if any(getattr(m, "pattern", None) for item in arguments[1:] for m in getattr(item, "metadata", [])):
            return "a name that a file can have: letters, digits and . _ - +, a letter or digit first"
        return expected(arguments[0]) + bounds_in_words(arguments[1:], all_bounds)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (typing.Union, types.UnionType):
        parts = [expected(a, all_bounds) for a in arguments]
        return (", or " if any("," in part for part in parts) else " or ").join(parts)
    if origin is list:
        return f"a list, each {expected(arguments[0], all_bounds)}"
    if origin is dict:
        value = expected(arguments[1], all_bounds)
        return "a map" if value == ANY else f"a map, each value {value}"
    if isinstance(annotation, type) and is_dataclass(annotation):
        return f"a section with the keys {', '.join(names(annotation))}"
    return WORDS.get(annotation, ANY) if isinstance(annotation, type) else ANY


def bounds_in_words(metadata: Iterable[object], all_bounds: bool) -> str:
    bounds = dict(bound for item in metadata for bound in bounds_of(item))
    low, high = bounds.get(">=", bounds.get(">")), bounds.get("<=", bounds.get("<"))
    if high is not None and high >= MOST and not all_bounds:
        high = None
    if low is not None and high is not None and {">=", "<="} <= set(bounds):
        return f" from {low:,} to {high:,}"
    lower = [] if low is None else [f"{low:,} or more" if ">=" in bounds else f"above {low:,}"]
    upper = [] if high is None else [f"at most {high:,}" if "<=" in bounds else f"below {high:,}"]
    return f", {' and '.join(lower + upper)}" if lower or upper else ""


def bounds_of(item: object) -> list[tuple[str, float]]:
    """("<=", 1) and the like that a part of Annotated[...] stands for."""
    if isinstance(item, FieldInfo):
        return [bound for inner in item.metadata for bound in bounds_of(inner)]
    kinds = ((annotated_types.Ge, "ge", ">="), (annotated_types.Gt, "gt", ">"))
    kinds += ((annotated_types.Le, "le", "<="), (annotated_types.Lt, "lt", "<"))  # type: ignore[assignment]
    return [(sign, getattr(item, name)) for cls, name, sign in kinds if isinstance(item, cls)]


# of unions
BRANCHES = (
    "constrained-int",
    "constrained-float",
    "constrained-str",
    "int",
    "float",
    "str",
    "bool",
    "none",
)

# ---- keys and the dataclasses that own them -------------------------------------------------------------------------


def real_path(cls: type, loc: Iterable[int | str]) -> tuple[list[str], type | None, Hint]:
    """A finding's key path without pydantic's union tags, the dataclass that owns its last key, and the key's annotation."""
    path: list[str] = []
    owner: type | None = None
    node: Hint = cls
    parent: Hint = cls
    for part in loc:
        variants = dataclasses_in(node)
        tagged = [v for v in variants if getattr(v, "name", None) == part or v.__name__ == part]
        if tagged and not any(part in names(v) for v in variants):
            node = tagged[0]
            continue
        if isinstance(part, str) and part.startswith(("dict[", "list[")):  # a branch of a union
            node = next((a for a in typing.get_args(node) if typing.get_origin(a) in (dict, list)), node)
            continue
        if part == "[key]":  # pydantic's, after a key of a map that is not allowed
            node = typing.get_args(parent)[0]
            continue
        if part in BRANCHES or str(part).startswith("literal["):
            continue
        path.append(str(part))
        owner, parent = variants[0] if variants else None, node
        node = hints(owner).get(str(part), object) if owner else element_type(node)
    return path, owner, node


def dataclasses_in(annotation: Hint) -> list[type]:
    if isinstance(annotation, type) and is_dataclass(annotation):
        return [annotation]
    if typing.get_origin(annotation) in (dict, list):
        return []
    return [cls for part in typing.get_args(annotation) for cls in dataclasses_in(part)]


def element_type(annotation: Hint) -> Hint:
    """What a dict's or list's values are."""
    arguments = typing.get_args(annotation)
    return arguments[-1] if arguments else object


@functools.cache
def hints(cls: type) -> dict[str, Hint]:
    return typing.get_type_hints(cls, include_extras=True)


def field_type(cls: type, name: str) -> Hint:
    return hints(cls).get(name, object)


def names(cls: type) -> list[str]:
    return [f.name for f in fields(cls)]


def nearest_key(root: type, owner: type | None, path: list[str]) -> str:
    """What was meant: the same name elsewhere, a name of another tool, else the nearest spelling, siblings first."""
    everywhere = [k for k, *_ in walk(root)]
    if ".".join(path) in everywhere:
        others = [
            str(getattr(v, "name", "")) for v in dataclasses_in(field_type(root, path[0])) if path[-1] in names(v)
        ]
        return f"; it is a key of {path[0]}={', '.join(others)}"
    if meant := aliases(path, everywhere):
        return f"; did you mean {' or '.join(meant)}?"
    if ends := [k for k in everywhere if k.rsplit(".", 1)[-1] == path[-1]]:
        return f"; did you mean {min(ends, key=lambda k: k.count('.'))}?"
    siblings = names(owner) if owner else []
    if near := difflib.get_close_matches(path[-1], siblings, n=1, cutoff=0.6):
        return f"; did you mean {'.'.join([*path[:-1], near[0]])}?"
    if near := difflib.get_close_matches(".".join(path), everywhere, n=1, cutoff=0.6):
        return f"; did you mean {near[0]}?"
    return f"; valid keys here: {', '.join(siblings)}" if siblings else ""


def aliases(path: list[str], valid: Iterable[str]) -> list[str]:
    """Which of the `valid` keys a name of another tool, or an earlier name, means."""
    candidates = ALIASES.get(".".join(path)) or ALIASES.get(path[-1], ())
    known = {*valid}
    meant = [word for word in candidates if word.partition("=")[0] in known]
    return [word for word in meant if word.startswith(f"{path[0]}.")] or meant


def did_you_mean(value: str, options: Iterable[str]) -> str:
    near = difflib.get_close_matches(value, list(options), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def walk(cls: type, prefix: str = "") -> Iterable[tuple[str, Hint, Field[FieldInfo]]]:
    """(key, annotation, field) of every key below a dataclass; dict values appear as <name>."""
    for f in fields(cls):
        annotation, name = field_type(cls, f.name), f"{prefix}{f.name}"
        yield name, annotation, f
        inner = dataclasses_in(annotation)
        if typing.get_origin(annotation) is dict:
            inner, name = dataclasses_in(element_type(annotation)), f"{name}.<name>"
        for section in inner:
            yield from walk(section, f"{name}.")


def to_yaml(config: object) -> str:
    import yaml

    return str(yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=120))


def read_yaml(cls: type[Config], path: Path) -> Config:
    import yaml

    return build(cls, yaml.safe_load(path.read_text(encoding="utf-8")))
