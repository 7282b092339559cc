"""`mft analyze`: its help, its options and what it calls."""

from __future__ import annotations

import importlib
import re

from mft_cli.cli.options import composed, read_options
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.errors import UserError

KEY = re.compile(r"^[+~]*[\w.@/\[\]-]+=")


def main(arguments: list[str]) -> None:
    """Run one analysis. Raises UserError, most of them before torch is imported."""
    from mft_cli.analysis import settings
    from mft_cli.config.load import train_config

    kinds: dict[str, type] = {
        "dependency": settings.DependencySettings, "graph": settings.GraphSettings,
        "resilience": settings.ResilienceSettings, "landscape": settings.LandscapeSettings,
    }  # fmt: skip
    if not arguments or arguments[0] not in kinds:
        raise UserError(
            f"mft analyze has the commands {', '.join(kinds)}: mft analyze dependency data=gsm8k outputs/<run>"
        )
    kind = arguments[0]
    asked: object
    asked, words = read_options(kinds[kind], f"analyze {kind}", arguments[1:], TrainConfig)
    keys = [w for w in words if w.startswith("-") or KEY.match(w)]
    folders = [w for w in words if w not in keys]
    # with folders alone, the default model is not meant
    names_a_model = not folders or any(re.match(r"^[+]*model(\.path)?=", key) for key in keys)

    def task(config: TrainConfig) -> None:
        # a module a kind, and in it a function
        analysis = getattr(importlib.import_module(f"mft_cli.analysis.{kind}"), kind)
        analysis(config, folders, names_a_model, asked)

    composed("train", keys, train_config, task)


HELP = """mft analyze: what a model's predictions depend on, and the loss around its weights

  mft analyze dependency data=gsm8k outputs/<sft> outputs/<masked>    which context predictions hang on, and the difference
  mft analyze dependency model=smollm2_135m data=gsm_symbolic outputs/<run> examples=64 near=16 corruption=hide
  mft analyze graph experiment=laboratory outputs/<a> outputs/<b>     whether a step's prediction depends on what the step needs
  mft analyze resilience experiment=laboratory outputs/<a> outputs/<b>   a number of the solution is changed: is it recovered?
  mft analyze resilience data=gsm8k outputs/<a>                       also where no graph is known
  mft analyze landscape data=gsm8k outputs/<sft> outputs/<masked>     loss along a random filter-normalised direction
  mft analyze landscape dimensions=2 points=15 reach=0.5 outputs/<run>
  mft analyze landscape kind=line model=smollm2_135m outputs/<sft> outputs/<masked>      from one model to the next
  mft analyze landscape kind=plane points=9 outputs/<sft> outputs/<continued> outputs/<masked>   the plane through three

FOLDER: a run folder (its export) or a model folder. model= or model.path= names the first model; without a FOLDER it is
the only one. Takes data=, prompt=, seed= and the other keys of mft data show, and:
  examples=N     examples, a seeded draw, the same for every model (dependency, graph 32, resilience 200, landscape 16)
  split=auto     the validation rows if the data has some, else the training rows; train; validation
  batch_tokens=2048   tokens in one forward pass; out=FOLDER (default: outputs/<analysis>-<data>-<digest>)
dependency:
  near=16        response tokens that are near; earlier ones are far
  share=0.5      share of a region's tokens that is corrupted; draws=1 corruptions of each region
  corruption=random   another word; mask: the mask token of method=masked_thought; hide: from attention
  positions=8    response tokens of an example whose prediction is measured
resilience:
  batch_size=64 max_new_tokens=256
landscape:
  kind=random    around each model; line: through the models in turn; plane: through three models
  dimensions=1   of kind=random, 1 or 2; points=11 on an axis; reach=0.2 times a filter's norm
  margin=0.25    of kind=plane: what is shown around the three models, as a share of their extent
  keep_zeros=true     weights that are 0, such as masked ones, stay 0
The same command again goes on where it was stopped. Definitions and formulas: docs/analysis.md
"""
