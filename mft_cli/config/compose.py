"""Compose `conf/` with Hydra, validate against the schema, give plain dataclasses, or one sentence that names the key.

No DictConfig passes this module. It imports no torch, so that a mistake is reported in well under two seconds.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from omegaconf import DictConfig

from mft_cli.config.schema import ROOTS, AnyMethod
from mft_cli.config.schema.base import Values
from mft_cli.config.sentences import hydra_sentence, yaml_sentence
from mft_cli.config.settings_file import FLAG as SETTINGS_FILE
from mft_cli.config.settings_file import as_words, without_file
from mft_cli.config.typed_words import check_words
from mft_cli.config.validate import build, to_plain
from mft_cli.errors import Stopped, UserError

CONF = next(root / "conf" for root in Path(__file__).parents[1:3] if (root / "conf").is_dir())


def groups(extra: Iterable[Path] = ()) -> dict[str, list[str]]:
    """Config group -> its options, in our `conf/` and the user's own --config-dir."""
    options: dict[str, list[str]] = {}
    for root in (CONF, *extra):
        for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("_")):
            options.setdefault(folder.name, []).extend(sorted(p.stem for p in folder.glob("*.yaml")))
    return options


def own_overrides(arguments: list[str], known: Mapping[str, list[str]] | None = None) -> list[str]:
    """Hydra's arguments with every value override written as ++key=value; `known` are the groups, if not of --config-dir.

    Our YAML files hold only what differs from the schema, so Hydra would refuse to override a key that it does not see.
    With ++ it sets any key, and a misspelt one is refused by the schema, which knows the nearest valid key.
    """
    known = groups(config_dirs(arguments)) if known is None else known
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


def without_option(arguments: list[str], *options: str) -> list[str]:
    """The words without a command-line option and its value."""
    kept = []
    for before, word in itertools.pairwise(["", *arguments]):
        if word not in options and word.split("=", 1)[0] not in options and before not in options:
            kept.append(word)
    return kept


# Hydra's flags and how many words follow them: None for a word that may be left out.
FLAGS: dict[str, int | None] = {
    **dict.fromkeys(("--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"), 0),
    **dict.fromkeys(("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"), 1),
    **dict.fromkeys(("--config-dir", "-cd"), 1), "--info": None, "-i": None,
}  # fmt: skip


def flags_first(arguments: list[str]) -> list[str]:
    """Flags before overrides: between them argparse would not know the rest. Raises UserError for an unknown flag."""
    flags, rest, words = [], [], list(arguments)
    while words:
        word = words.pop(0)
        name, separator, value = word.partition("=")
        if not word.startswith("-"):
            if not separator and not word.startswith("~"):
                hint = f"; a file of settings is named with --config {word}" if word.endswith((".yaml", ".yml")) else ""
                raise UserError(f"{word!r} is not a setting: expected key=value, such as eval=gsm8k or seed=3{hint}")
            rest.append(word)
            continue
        if name == "--experimental-rerun":
            raise UserError(f"{name}: mft keeps no job files of Hydra; start the same command again, or run the run folder's "
                            f"settings: its run.json holds the command")  # fmt: skip
        if separator and FLAGS.get(name) == 0:
            raise UserError(f"{word}: {name} takes no value; write {name}")
        if name not in FLAGS:
            key = name.lstrip("-").replace("-", "_")
            near = f"write {key}={value if separator else '...'} for a key" if key else "leave it out"
            if flags_like := difflib.get_close_matches(name, [*FLAGS, SETTINGS_FILE], n=1, cutoff=0.75):
                near = f"did you mean {flags_like[0]}?"
            raise UserError(f"{word}: no such flag; settings are key=value words: {near}")
        flags.append(word)
        if separator or FLAGS[name] == 0:
            continue
        if FLAGS[name] is None and not (words and re.fullmatch(r"[a-z-]+", words[0])):
            words.insert(0, "all")  # Hydra's default; argparse would take the first override for the value
        if not words:
            raise UserError(f"{word}: expected a value after it, such as {word}=NAME")
        flags.append(words.pop(0))
    if "--resolve" in flags and not any(flag.split("=")[0] in ("--cfg", "-c") for flag in flags):
        raise UserError("--resolve: goes with --cfg job, which prints the configuration; leave it out")
    return flags + rest


def run_with_hydra(name: str, arguments: list[str], task: Callable[[Values], object]) -> None:
    """Compose `conf/<name>.yaml` with Hydra's command line, and call `task` with plain dicts, once or once a sweep job.

    `--config FILE` is read; Hydra's own flags work: --multirun, --cfg, --info, --config-dir, --package, tab completion.
    Raises UserError for whatever Hydra or OmegaConf has to say about the configuration.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us, instead of being printed with exit code 1
    import hydra
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    folders = config_dirs(arguments)
    known = groups(folders)
    failures: list[Exception] = []  # kept from Hydra, which would print them its own way and end a sweep at the first
    arguments, file = without_file(arguments)
    typed, words = sys.argv, own_overrides(flags_first(arguments))
    check_words(arguments, known)

    def plain(config: DictConfig) -> None:
        if any(isinstance(f, Stopped) for f in failures):
            return
        sys.argv = typed  # what a run records is what was typed
        try:
            task(resolved(config, name, words))
        except OmegaConfBaseException as error:
            failures.append(UserError(hydra_sentence(error, known)))
        except Exception as error:  # a defect, too: Hydra would put a line with all overrides before it
            failures.append(error)

    try:
        with as_words(file, arguments, known) as settings:
            words += settings
            sys.argv = [f"mft {name}", *words]
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(plain)()
    except (HydraException, OmegaConfBaseException) as error:
        overrides = [w for w in words if not w.startswith("-") and "=" in w]
        raise UserError(hydra_sentence(error, known, overrides)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(yaml_sentence(error, folders)) from None
    finally:
        sys.argv = typed
    if stopped := [f for f in failures if isinstance(f, Stopped)]:
        raise stopped[0]
    if len(failures) > 1:
        raise UserError(f"{len(failures)} jobs failed:\n" + "\n".join(str(f) for f in failures))
    if failures:
        raise failures[0]


def without_leftovers(values: Values, overrides: Iterable[str]) -> Values:
    """Without what an experiment says of the sources of its own data, where the overrides choose another data=."""
    words = [word.lstrip("+") for word in overrides]
    if not (any(w.startswith("data=") for w in words) and any(w.startswith("experiment=") for w in words)):
        return values
    data = values.get("data") or {}
    sources = {
        name: source
        for name, source in (data.get("sources") or {}).items()
        if "path" in source or any(w.startswith(f"data.sources.{name}.") for w in words)
    }
    return {**values, "data": {**data, "sources": sources}}


def resolved(config: DictConfig, name: str, overrides: Iterable[str]) -> Values:
    """A composed configuration as nested plain dicts. Interpolations see the schema's defaults, too: ${seed},
    ${train.learning_rate}; the result holds no more keys than `config`. Raises OmegaConf's errors."""
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationKeyError

    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except InterpolationKeyError:
        filled = OmegaConf.merge(defaults(name, OmegaConf.select(config, "method.name")), config)
        everything = OmegaConf.to_container(filled, resolve=True, throw_on_missing=True)
        values = picked(OmegaConf.to_container(config, resolve=False), everything)
    return without_leftovers(typing.cast(Values, values), overrides)


def defaults(name: str, method: str | None) -> Values:
    """What conf/<name>.yaml's configuration holds where nothing is set."""
    values = to_plain(ROOTS[name]())
    with contextlib.suppress(UserError):  # an unknown method is reported when the configuration is built
        if "method" in values and method:
            values["method"] = to_plain(build(typing.cast(type, AnyMethod), {"name": method}))
    return values


def picked(shape: object, values: object) -> object:
    """Of `values` the keys that `shape` has."""
    if isinstance(shape, dict) and isinstance(values, dict):
        return {key: picked(inner, values[key]) for key, inner in shape.items()}
    return values


def compose_values(name: str, words: Iterable[str], extra: Iterable[Path] = ()) -> Values:
    """What `mft <name> words...` composes, as plain dicts, also from the folders `extra`. Raises UserError."""
    import yaml
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    words, extra = list(words), list(extra)
    known = groups(extra)
    check_words(words, known)
    path = [f"hydra.searchpath=[{','.join(f'file://{p.resolve()}' for p in extra)}]"] if extra else []
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = own_overrides(words, known)
            return resolved(compose(name, [*composed, *path]), name, composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(hydra_sentence(error, known, words)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(yaml_sentence(error, extra)) from None


def hydra_completion(arguments: list[str], name: str) -> None:
    """Hydra's own completion for conf/<name>.yaml; it knows the keys that a YAML file has, not the schema's."""
    import hydra

    sys.argv = ["mft", *arguments]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(lambda config: None)()
