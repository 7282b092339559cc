"""Compose `conf/` with Hydra, validate against the schema, give plain dataclasses, or one sentence that names the key.

No DictConfig passes this module. It imports no torch, so that a mistake is told in well under two seconds.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mft_cli import schema
from mft_cli.checks import check_benchmarks, check_critique, check_eval, check_paths, check_train
from mft_cli.confidential import refuse_values
from mft_cli.errors import Stopped, UserError

CONF = next(p for p in (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf") if p.is_dir())


# ---- validation -----------------------------------------------------------------------------------------------------


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


# ---- Hydra ----------------------------------------------------------------------------------------------------------


def groups(extra: Iterable[Path] = ()) -> dict[str, list[str]]:
    """Config group -> its options, in our `conf/` and the user's own --config-dir."""
    found: dict[str, list[str]] = {}
    for root in (CONF, *extra):
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("_")):
            found.setdefault(folder.name, []).extend(sorted(p.stem for p in folder.glob("*.yaml")))
    return found


def own_overrides(arguments: list[str]) -> list[str]:
    """Hydra's arguments with every value override written as ++key=value.

    Our YAML files hold only what differs from the schema, so Hydra would refuse to override a key that it does not see.
    With ++ it sets any key, and a misspelt one is refused by the schema, which knows the nearest valid key.
    """
    known = groups(config_dirs(arguments))
    result = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        bare = name.lstrip("+~")
        is_group = bare.split("@")[0] in known or bare.split(".")[0].split("/")[0] == "hydra"
        if not separator or argument.startswith(("-", "~")) or is_group or not re.match(r"^[\w.\[\]-]+$", bare):
            result.append(argument)
        else:
            result.append(f"++{bare}={value}")
    return result


def config_dirs(arguments: list[str]) -> list[Path]:
    """The user's own folders of YAML files: --config-dir."""
    return [path for value in option_values(arguments, "--config-dir", "-cd") if (path := Path(value)).is_dir()]


def option_values(arguments: list[str], *options: str) -> list[str]:
    """Values of a command-line option, given as `--option value` or `--option=value`."""
    values = [a.split("=", 1)[1] for a in arguments if a.split("=", 1)[0] in options and "=" in a]
    return values + [b for a, b in itertools.pairwise(arguments) if a in options]


# Hydra's flags and how many words follow them: None for a word that may be left out.
FLAGS: dict[str, int | None] = {
    **dict.fromkeys(("--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"), 0),
    **dict.fromkeys(("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"), 1),
    **dict.fromkeys(("--config-dir", "-cd", "--experimental-rerun"), 1), "--info": None, "-i": None,
}  # fmt: skip


def flags_first(arguments: list[str]) -> list[str]:
    """Flags in front of overrides: between them argparse would not know the rest. Raises UserError for an unknown flag."""
    flags, rest, words = [], [], list(arguments)
    while words:
        word = words.pop(0)
        name, separator, value = word.partition("=")
        if not word.startswith("-"):
            if not separator and not word.startswith("~"):
                raise UserError(f"{word!r} is no setting: expected key=value, such as eval=gsm8k or seed=3")
            rest.append(word)
            continue
        if name not in FLAGS:
            key = name.lstrip("-").replace("-", "_")
            near = f"write {key}={value if separator else '...'} for a key" if key else "leave it out"
            raise UserError(f"{word}: no such flag; settings are key=value words: {near}")
        flags.append(word)
        if separator or FLAGS[name] == 0:
            continue
        if FLAGS[name] is None and not (words and re.fullmatch(r"[a-z-]+", words[0])):
            words.insert(0, "all")  # Hydra's default; argparse would take the first override for the value
        if not words:
            raise UserError(f"{word}: expected a value after it, such as {word}=NAME")
        flags.append(words.pop(0))
    return flags + rest


def run_with_hydra(name: str, arguments: list[str], task: Callable[[dict[str, Any]], Any]) -> None:
    """Compose `conf/<name>.yaml` with Hydra's command line, and call `task` with plain dicts, once or once a sweep job.

    Hydra's own flags work: --multirun, --cfg, --info, --config-dir, --package, tab completion. Raises UserError for
    whatever Hydra or OmegaConf has to say about the configuration.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us, instead of being printed with exit code 1
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = groups(config_dirs(arguments))
    failures: list[Exception] = []  # kept from Hydra, which would print them its own way and end a sweep at the first

    def plain(config: DictConfig) -> None:
        if any(isinstance(f, Stopped) for f in failures):
            return
        try:
            values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            task(typing.cast("dict[str, Any]", values))
        except OmegaConfBaseException as error:
            failures.append(UserError(hydra_sentence(error, known)))
        except Exception as error:  # a defect, too: Hydra would put a line with all overrides before it
            failures.append(error)

    before = sys.argv
    sys.argv = [f"mft {name}", *own_overrides(flags_first(arguments))]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(plain)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(hydra_sentence(error, known)) from None
    finally:
        sys.argv = before
    if stopped := [f for f in failures if isinstance(f, Stopped)]:
        raise stopped[0]
    if len(failures) > 1:
        raise UserError(f"{len(failures)} jobs failed:\n" + "\n".join(str(f) for f in failures))
    if failures:
        raise failures[0]


def compose_eval(names: list[str], extra: Iterable[Path] = ()) -> schema.EvalRunConfig:
    """The configuration of `mft eval eval=[names]`, unchecked, also from the folders `extra`. Raises UserError."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    extra = list(extra)
    overrides = [f"eval=[{','.join(names)}]"]
    if extra:
        overrides.append(f"hydra.searchpath=[{','.join(f'file://{p.resolve()}' for p in extra)}]")
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            values = OmegaConf.to_container(compose("eval", overrides), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(hydra_sentence(error, groups(extra))) from None
    config: schema.EvalRunConfig = build(schema.EvalRunConfig, with_prompt(typing.cast("dict[str, Any]", values)))
    return config


def hydra_sentence(error: Exception, known: dict[str, list[str]]) -> str:
    """Hydra's message in one sentence; for an unknown option the options and the nearest of them."""
    text = str(error)
    found = re.search(r"Could not (?:find|load) '([\w/.-]+)/([^']+)'", text) or re.search(
        r"In '[^']*': Could not find '([^']+)/([^']+)'", text
    )
    if found and found[1] == "eval":
        near = difflib.get_close_matches(found[2], known["eval"], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        return f"eval={found[2]}: no such benchmark or suite; {hint}mft eval list shows all"
    if found and found[1] in known:
        options = known[found[1]]
        return f"{found[1]}={found[2]}: no such option; valid: {', '.join(options)}{did_you_mean(found[2], options)}"
    if "override_grammar" in text:
        said = text.splitlines()[0].split("++")[-1].removesuffix("'")
        quoted = said.replace("=", '="', 1) + '"' if re.match(r"[\w.@/-]+=", said) else 'key="value"'
        return f"{said}: Hydra reads < > | {{ ( = : , and ' as grammar; give such a text in quotes: '{quoted}'"
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and "full_key" not in line and "object_type" not in line
    ]
    return " ".join(lines)


# ---- entry points ---------------------------------------------------------------------------------------------------


def train_config(values: dict[str, Any]) -> schema.TrainConfig:
    refuse_values(values)
    config: schema.TrainConfig = build(schema.TrainConfig, values)
    check_train(config)
    return config


def eval_config(values: dict[str, Any]) -> schema.EvalRunConfig:
    refuse_values(values)
    config: schema.EvalRunConfig = build(schema.EvalRunConfig, with_prompt(values))
    check_eval(config)
    return config


def generate_config(values: dict[str, Any], decode: str | None) -> schema.EvalRunConfig:
    """Of `mft generate`: mft eval's keys without benchmarks; `decode` is short for eval.decode."""
    if decode is not None:
        values = {**values, "eval": {**values.get("eval", {}), "decode": decode}}
    refuse_values(values)
    config: schema.EvalRunConfig = build(schema.EvalRunConfig, with_prompt(values))
    if not config.model.path:
        raise UserError("model.path is empty: name the model, model.path=outputs/<run>/export or a hub id")
    check_benchmarks(config.eval)
    check_paths(config)
    return config


def critique_config(values: dict[str, Any]) -> schema.CritiqueRunConfig:
    refuse_values(values)
    config: schema.CritiqueRunConfig = build(schema.CritiqueRunConfig, with_prompt(values))
    check_critique(config)
    return config


def with_prompt(values: dict[str, Any]) -> dict[str, Any]:
    """`prompt=<name>` composes at the top; an evaluation keeps it under eval.prompt."""
    if "prompt" not in values:
        return values
    rest = {k: v for k, v in values.items() if k != "prompt"}
    return {**rest, "eval": {**rest.get("eval", {}), "prompt": values["prompt"]}}


def to_yaml(config: Any) -> str:
    import yaml

    return str(yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=120))


def read_yaml(cls: type[Any], path: Path) -> Any:
    import yaml

    return build(cls, yaml.safe_load(path.read_text(encoding="utf-8")))
