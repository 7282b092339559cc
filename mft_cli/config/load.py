"""The configuration of each verb, composed and validated."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mft_cli.config import schema
from mft_cli.config.checks import check_train
from mft_cli.config.checks_eval import check_benchmarks, check_critique, check_eval
from mft_cli.config.checks_sources import check_paths
from mft_cli.config.compose import compose_values
from mft_cli.config.model_path import with_model_paths
from mft_cli.config.schema.base import Values
from mft_cli.config.secrets import refuse_values
from mft_cli.config.validate import build
from mft_cli.errors import UserError


def compose_eval(names: list[str], extra: Iterable[Path] = ()) -> schema.EvalRunConfig:
    """The configuration of `mft eval eval=[names]`, unchecked, also from the folders `extra`. Raises UserError."""
    config: schema.EvalRunConfig = build(
        schema.EvalRunConfig, with_prompt(compose_values("eval", [f"eval=[{','.join(names)}]"], extra))
    )
    return config


def train_config(values: Values) -> schema.TrainConfig:
    refuse_values(values)
    config: schema.TrainConfig = build(schema.TrainConfig, with_model_paths(values))
    check_train(config)
    return config


def unchecked_eval_config(values: Values) -> schema.EvalRunConfig:
    """Of a command that runs no model."""
    refuse_values(values)
    return build(schema.EvalRunConfig, with_prompt(values))


def eval_config(values: Values) -> schema.EvalRunConfig:
    refuse_values(values)
    config: schema.EvalRunConfig = build(schema.EvalRunConfig, with_model_paths(with_prompt(values)))
    check_eval(config)
    return config


def generate_config(values: Values, decode: str | None) -> schema.EvalRunConfig:
    """Of `mft generate`: mft eval's keys without benchmarks; `decode` is short for eval.decode."""
    if decode is not None:
        values = {**values, "eval": {**values.get("eval", {}), "decode": decode}}
    refuse_values(values)
    config: schema.EvalRunConfig = build(schema.EvalRunConfig, with_model_paths(with_prompt(values)))
    if not config.model.path:
        raise UserError("model.path is empty: name the model, model.path=outputs/<run>/export or a hub id")
    check_benchmarks(config.eval)
    check_paths(config.model, {})
    return config


def critique_config(values: Values) -> schema.CritiqueRunConfig:
    refuse_values(values)
    config: schema.CritiqueRunConfig = build(schema.CritiqueRunConfig, with_model_paths(with_prompt(values)))
    check_critique(config)
    return config


def with_prompt(values: Values) -> Values:
    """`prompt=<name>` composes at the top; an evaluation keeps it under eval.prompt."""
    if "prompt" not in values:
        return values
    rest = {k: v for k, v in values.items() if k != "prompt"}
    return {**rest, "eval": {**rest.get("eval", {}), "prompt": values["prompt"]}}
