"""`mft lab`: the laboratory's models, made once and kept in the cache."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import read_options
from mft_cli.config.laboratory import PREFIX, RECIPE, lab_models, lab_run
from mft_cli.config.schema.base import STRICT
from mft_cli.errors import UserError


@dataclass(config=STRICT, frozen=True)
class Options:
    """`mft lab` has no options."""


def main(arguments: list[str]) -> None:
    """Raises UserError for words that it does not know, and what a training raises."""
    _, words = read_options(Options, "lab", arguments)
    if words == ["list"]:
        for name in lab_models():
            made = (lab_run(name) / "export" / "config.json").is_file()
            print(f"{name}: {lab_run(name) / 'export' if made else f'not made yet; mft lab pretrain {name}'}")
    elif len(words) == 2 and words[0] == "pretrain":
        pretrain(words[1])
    else:
        raise UserError(f"mft lab has the commands list and pretrain NAME (one of {', '.join(lab_models())})")


def pretrain(name: str) -> None:
    """Make a model of the laboratory, or go on with it; nothing where it is made already. Raises UserError, Stopped."""
    folder = lab_run(name)
    if not (folder / "export" / "config.json").is_file():
        from mft_cli.cli.train import run_training
        from mft_cli.config.compose import compose_values
        from mft_cli.config.load import train_config

        run_training(train_config(compose_values("train", [f"experiment={RECIPE}{name}", f"run_dir={folder}"])))
    print(f"model={name} (model.path={PREFIX}{name}) is {folder / 'export'}")


HELP = """mft lab: small models whose world is known, made here and kept in the cache

  mft lab list                     the models, and where they are
  mft lab pretrain lab_small       make one: a run of conf/experiment/pretrain_lab_small.yaml; stopped, it goes on

Then: mft train experiment=laboratory method=masked_thought eval=chains_ordered. docs/laboratory.md
"""
