"""A configuration from the words of a command line, from plain values, or from both. Imports no torch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast, overload

from mft_cli.config.compose import compose_values
from mft_cli.config.effects import without_effect
from mft_cli.config.load import eval_config, train_config, unchecked_eval_config
from mft_cli.config.schema.base import Values
from mft_cli.config.schema.runs import EvalRunConfig, TrainConfig
from mft_cli.config.secrets import refuse_arguments
from mft_cli.errors import UserError

Settings = Mapping[str, object]


@overload
def load_config(
    *words: str, verb: Literal["train"] = "train", settings: Settings = ..., config_dirs: Iterable[str | Path] = ()
) -> TrainConfig: ...
@overload
def load_config(
    *words: str, verb: Literal["eval", "score"], settings: Settings = ..., config_dirs: Iterable[str | Path] = ()
) -> EvalRunConfig: ...
def load_config(
    *words: str, verb: str = "train", settings: Settings | None = None, config_dirs: Iterable[str | Path] = ()
) -> TrainConfig | EvalRunConfig:
    """The checked configuration that `mft <verb> words...` would run.

    `words` are the command line's, such as "method=masked_thought". `settings` are keys with dots -> values, such as
    {"train.epochs": 2}; they win over words and need no quoting. `config_dirs` are folders of YAML files of your own.
    verb="score" names a benchmark and no model. Warns of settings without an effect.
    Raises UserError that names each wrong key, its value and the nearest valid one.
    """
    builders = {"train": train_config, "eval": eval_config, "score": unchecked_eval_config}
    if verb not in builders:
        raise UserError(f"load_config(verb={verb!r}): expected one of {', '.join(builders)}")
    refuse_arguments(list(words))
    composed = compose_values("train" if verb == "train" else "eval", words, [Path(folder) for folder in config_dirs])
    for key, value in (settings or {}).items():
        set_at(composed, key, plain(value))
    config = cast("TrainConfig | EvalRunConfig", builders[verb](composed))
    for sentence in without_effect(config):
        warnings.warn(sentence, stacklevel=2)
    return config


def set_at(values: Values, key: str, value: Any) -> None:
    """Sets the entry that `key` names with dots, in nested dicts that are made where they are missing."""
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[last] = value


def plain(value: object) -> Any:
    """A value as YAML would give it: paths are texts, tuples lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
