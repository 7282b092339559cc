"""What the verbs ask of a command line: their own key=value words apart from Hydra's, and its flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mft_cli.errors import UserError


def own_keys(arguments: list[str], *names: str) -> tuple[dict[str, str], list[str]]:
    """Our own key=value arguments, apart from Hydra's."""
    own, rest = {}, []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if separator and name in names:
            own[name] = value
        else:
            rest.append(argument)
    return own, rest


def number(own: dict[str, str], name: str, kind: type, default: float) -> float:
    try:
        value = kind(own.get(name, default))
    except ValueError:
        raise UserError(f"{name}={own[name]}: expected a number") from None
    if value < 0 or (name == "progress" and value > 1):
        raise UserError(f"{name}={own[name]}: expected {'a number from 0 to 1' if name == 'progress' else '0 or more'}")
    return value


def print_only(arguments: list[str]) -> bool:
    """`--cfg job` alone: we print the whole validated configuration, defaults included."""
    joined = " ".join(arguments)
    return ("--cfg job" in joined or "-c job" in joined or "--cfg=job" in joined) and "--package" not in joined


def is_sweep(arguments: list[str]) -> bool:
    """Whether the command asks for several runs (and not for Hydra to print something)."""
    wanted = any(a in ("-m", "--multirun") or a.lstrip("+") == "hydra.mode=MULTIRUN" for a in arguments)
    return wanted and not printing_flags(arguments) and "--hydra-help" not in arguments


def printing_flags(arguments: list[str]) -> list[str]:
    return [a for a in arguments if a.split("=", 1)[0] in ("--cfg", "-c", "--info", "-i")]


def refuse_printed_sweep(arguments: list[str]) -> None:
    """Hydra prints one configuration, never a sweep's. Raises UserError."""
    flags = printing_flags(arguments)
    if flags and is_sweep([a for a in arguments if a not in flags]):
        raise UserError(f"{flags[0]} prints one configuration: leave out -m and give every key one value")


def without_cfg(arguments: list[str]) -> list[str]:
    joined = [a for a in arguments if a not in ("--cfg=job", "--resolve")]
    for flag in ("--cfg", "-c"):
        if flag in joined:
            at = joined.index(flag)
            del joined[at : at + 2]
    return joined


def show_config(config: object) -> None:
    from mft_cli.config.validate import to_yaml

    print(to_yaml(config), end="")


def composed(name: str, arguments: list[str], build: Callable[[dict], Any], task: Callable[[Any], object]) -> None:
    """`task` on the configuration that Hydra composes, and `build` checks; or, with --cfg job, the whole of it printed."""
    from mft_cli.config.compose import run_with_hydra

    refuse_printed_sweep(arguments)
    if print_only(arguments):
        run_with_hydra(name, without_cfg(arguments), lambda values: show_config(build(values)))
    else:
        run_with_hydra(name, arguments, lambda values: task(build(values)))
