"""The laboratory's models, `lab:<name>`: where one lies in the cache once `mft lab pretrain <name>` has made it."""

from __future__ import annotations

from pathlib import Path

from mft_cli.config.compose import CONF, groups
from mft_cli.errors import UserError
from mft_cli.files import cache_folder, digest_of

PREFIX, RECIPE = "lab:", "pretrain_"
VERSION = 1  # part of the cache's key: goes up whenever the same recipe would make another model


def lab_models() -> list[str]:
    """Names of the models that conf/experiment/pretrain_<name>.yaml describes."""
    return [name.removeprefix(RECIPE) for name in groups()["experiment"] if name.startswith(RECIPE)]


def lab_run(name: str) -> Path:
    """The folder of the run that makes a model; the model is its export. Raises UserError for an unknown name."""
    if name not in lab_models():
        raise UserError(f"model.path={PREFIX}{name}: no such model of the laboratory; valid: {', '.join(lab_models())}")
    recipe = (CONF / "experiment" / f"{RECIPE}{name}.yaml").read_text()
    return cache_folder() / "laboratory" / f"{name}-{digest_of([recipe, VERSION])[:12]}"


def lab_export(name: str) -> Path:
    """The model's folder. Raises UserError where it was not made yet."""
    export = lab_run(name) / "export"
    if not (export / "config.json").is_file():
        raise UserError(f"model.path={PREFIX}{name}: not made on this machine yet; run mft lab pretrain {name} once")
    return export
