"""The command line of `mft analyze`: own keys, folders, and Hydra's keys apart."""

from __future__ import annotations

import re
from typing import Any

from mft_cli.analysis.settings import DependencySettings, LandscapeSettings, names, read
from mft_cli.config.compose import run_with_hydra
from mft_cli.config.load import train_config
from mft_cli.errors import UserError

KINDS: dict[str, Any] = {"dependency": DependencySettings, "landscape": LandscapeSettings}
KEY = re.compile(r"^[+~]*[\w.@/\[\]-]+=")


def command(arguments: list[str]) -> None:
    """Run one analysis. Raises UserError, most of them before torch is imported."""
    if not arguments or arguments[0] not in KINDS:
        raise UserError(
            f"mft analyze has the commands {' and '.join(KINDS)}: mft analyze dependency data=gsm8k outputs/<run>"
        )
    words = arguments[1:]
    own = dict(
        word.split("=", 1) for word in words if word.split("=", 1)[0] in names(KINDS[arguments[0]]) and "=" in word
    )
    asked = read(KINDS[arguments[0]], own)
    keys = [w for w in words if w.startswith("-") or (KEY.match(w) and w.split("=", 1)[0] not in own)]
    folders = [w for w in words if not w.startswith("-") and not KEY.match(w)]
    # with folders alone, the default model is not meant
    own_model = not folders or any(re.match(r"^[+]*model(\.path)?=", key) for key in keys)

    def task(values: dict[str, Any]) -> None:
        config = train_config(values)
        if isinstance(asked, DependencySettings):
            from mft_cli.analysis.dependency import dependency

            dependency(config, folders, own_model, asked)
        else:
            from mft_cli.analysis.landscape import landscape

            landscape(config, folders, own_model, asked)

    run_with_hydra("train", keys, task)
