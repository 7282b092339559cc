"""`mft data`: its help, its options and what it calls."""

from __future__ import annotations

from mft_cli.cli.options import number, own_keys
from mft_cli.errors import UserError


def main(arguments: list[str]) -> None:
    from mft_cli.config.compose import run_with_hydra
    from mft_cli.config.load import train_config

    if arguments[:1] == ["check"]:
        data_check_verb(arguments[1:])
        return
    if arguments[:1] != ["show"]:
        raise UserError("mft data has the commands show and check: mft data show data=gsm8k")
    own, rest = own_keys(arguments[1:], "rows", "progress", "epoch")

    def task(values: dict) -> None:
        config = train_config(values)
        from mft_cli.cli.data_show import show

        show(
            config,
            rows=number(own, "rows", int, 3),
            progress=number(own, "progress", float, 1.0),
            epoch=number(own, "epoch", int, 0),
        )

    run_with_hydra("train", rest, task)


def data_check_verb(arguments: list[str]) -> None:
    from pathlib import Path

    from mft_cli.config.compose import run_with_hydra
    from mft_cli.config.load import train_config

    own, rest = own_keys(arguments, "show", "out")

    def task(values: dict) -> None:
        config = train_config(values)
        if not config.eval.benchmarks:
            raise UserError("mft data check needs benchmarks: eval=gsm8k or eval=[gsm8k,svamp]")
        from mft_cli.cli.data_check import check

        check(config, show=int(number(own, "show", int, 3)), out=Path(own["out"]) if "out" in own else None)

    run_with_hydra("train", rest, task)


HELP = """mft data: look at training data

  mft data show method=masked_thought data=gsm8k               three examples: prompt, response, what would be masked
  mft data show method=masked_thought rows=10 progress=0.5     as halfway through training
  mft data show data=local data.sources.local.path=my.jsonl

rows=N examples, progress=0..1 (default 1: masking at its full ratio), epoch=N.

  mft data check data=gsm8k eval=gsm8k                         which benchmark questions stand in the training rows
  mft data check data=local data.sources.local.path=my.jsonl eval=[gsm8k,svamp] show=10

show=N questions of each kind are printed with their row; out=FILE takes all of it as JSON (docs/contamination.md).
"""
