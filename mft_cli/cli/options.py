"""What the verbs ask of a command line: their own options (key=value words that are no configuration), and Hydra's flags."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TypeVar

from mft_cli.errors import UserError

Options = TypeVar("Options")
Config = TypeVar("Config")
PRINTED = ("job", "hydra", "all")  # what --cfg takes
WORD = re.compile(r"([A-Za-z_][\w-]*)=(.*)", re.DOTALL)  # a verb's own option has no dot, no @ and no slash
# where there is no configuration, its keys are misspelt options, too
KEY = re.compile(r"([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)


def read_options(
    cls: type[Options], verb: str, arguments: list[str], configuration: type | None = None
) -> tuple[Options, list[str]]:
    """The verb's own options, an instance of the dataclass `cls`, and the words that are none of them.

    With `configuration`, the words that remain go to Hydra, and it is the dataclass that they fill; without one they are
    positional. Raises UserError that names the option, its value and what was expected or the nearest option.
    """
    from mft_cli.config.validate import build_from_texts

    defaults = {f.name: f.default for f in fields(cls)}  # type: ignore[arg-type]
    texts, rest = {}, []
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if equals and name in defaults:
            texts[name] = os.path.expanduser(text)  # a shell leaves out=~/x as it is
        else:
            refuse_misspelt(argument, verb, list(defaults), configuration)
            rest.append(argument)
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name not in texts and is_required(f.default):
            raise UserError(f"mft {verb} needs {f.name}=; see mft {verb.split()[0]} --help")
    return build_from_texts(cls, texts), rest


def is_required(default: object) -> bool:
    """Whether a key has no default: pydantic's `...` inside of a Field, or a dataclass's MISSING."""
    return default is MISSING or (hasattr(default, "is_required") and default.is_required())


def refuse_misspelt(argument: str, verb: str, options: list[str], configuration: type | None) -> None:
    """A word that looks like an option and is none. Raises UserError."""
    word = (WORD if configuration else KEY).fullmatch(argument)
    if configuration is None and argument.startswith("-"):
        raise UserError(f"mft {verb} has no flag {argument}{listed(options)}")
    if not word or Path(argument).exists() or (configuration is not None and is_key(word[1], configuration, options)):
        return
    near = [part for part in word[1].split(".") if part in options][:1]  # model.path=: model=
    near = near or sorted((option for option in options if option.startswith(word[1])), key=len)[:1]
    near = near or difflib.get_close_matches(word[1], options, n=1, cutoff=0.7 if configuration else 0.5)
    if near or configuration is None:  # Hydra and the schema look at the others
        hint = f"; did you mean {near[0]}={word[2]}?" if near else listed(options)
        raise UserError(f"mft {verb} has no option {word[1]} (value {word[2]}){hint}")


def listed(options: list[str]) -> str:
    return f"; its options are {', '.join(f'{name}=' for name in options)}" if options else "; it has no options"


def is_key(name: str, configuration: type, options: list[str]) -> bool:
    """Whether a name without dots is, or probably means, a key or group of the configuration, rather than one of `options`."""
    from mft_cli.config.compose import groups
    from mft_cli.config.validate import aliases, walk

    keys = [key for key, *_ in walk(configuration)]
    if name in groups() or name in keys:
        return True
    if any(option.startswith(f"{name}_") for option in options):
        return False
    return any(name == key.rsplit(".", 1)[-1] for key in keys) or bool(aliases([name], keys))


def value_of(arguments: list[str], flag: str) -> str:
    """What follows `flag=`, or nothing: words that mft itself passes from one of its processes to another."""
    return next((a.split("=", 1)[1] for a in arguments if a.startswith(f"{flag}=")), "")


# ---- Hydra's flags --------------------------------------------------------------------------------------------------


def print_only(arguments: list[str]) -> bool:
    """`--cfg job` alone: we print the whole validated configuration, defaults included. Raises UserError for another word."""
    from mft_cli.config.compose import option_values

    shown = option_values(arguments, "--cfg", "-c")
    if shown and shown[-1] not in PRINTED:
        raise UserError(f"--cfg {shown[-1]}: expected job (the settings), hydra (Hydra's own) or all")
    return shown[-1:] == ["job"] and not option_values(arguments, "--package", "-p")


def is_sweep(arguments: list[str]) -> bool:
    """Whether the command asks for several runs (and not for Hydra to print something)."""
    several = any(a in ("-m", "--multirun") or a.lstrip("+") == "hydra.mode=MULTIRUN" for a in arguments)
    return several and not printing_flags(arguments) and "--hydra-help" not in arguments


def printing_flags(arguments: list[str]) -> list[str]:
    return [a for a in arguments if a.split("=", 1)[0] in ("--cfg", "-c", "--info", "-i")]


def refuse_printed_sweep(arguments: list[str]) -> None:
    """Hydra prints one configuration, never a sweep's. Raises UserError."""
    flags = printing_flags(arguments)
    if flags and is_sweep([a for a in arguments if a not in flags]):
        raise UserError(f"{flags[0]} prints one configuration: leave out -m and give every key one value")


def show_config(config: object) -> None:
    from mft_cli.config.validate import to_yaml

    print(to_yaml(config), end="")


def composed(
    name: str, arguments: list[str], build: Callable[[dict[str, object]], Config], task: Callable[[Config], object]
) -> None:
    """`task` on the configuration that Hydra composes, and `build` checks; or, with --cfg job, the whole of it printed."""
    from mft_cli.config.compose import run_with_hydra, without_option

    refuse_printed_sweep(arguments)
    if print_only(arguments):
        words = without_option([a for a in arguments if a != "--resolve"], "--cfg", "-c")
        run_with_hydra(name, words, lambda values: show_config(told_of(build(values))))
    else:
        run_with_hydra(name, arguments, lambda values: task(told_of(build(values))))


def told_of(config: Config) -> Config:
    """The configuration, after a warning for each setting in it that has no effect."""
    from mft_cli.config.effects import without_effect

    for sentence in without_effect(config):
        print(f"warning: {sentence}", file=sys.stderr, flush=True)
    return config
