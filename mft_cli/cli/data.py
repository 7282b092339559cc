"""`mft data`: its help, its options and what it calls."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import composed, read_options
from mft_cli.config.schema.base import STRICT, Count, Fraction, key
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.errors import UserError


@dataclass(config=STRICT, frozen=True)
class ShowOptions:
    """The options of `mft data show`."""

    rows: Count = key(3, "Examples.")
    progress: Fraction = key(1.0, "Masking as at this share of the training; 1: at its full ratio.")
    epoch: Count = key(0, "Epoch whose masks are shown.")


@dataclass(config=STRICT, frozen=True)
class CheckOptions:
    """The options of `mft data check`."""

    show: Count = key(3, "Questions of each kind that are printed with their row.")
    out: Path | None = key(None, "JSON file; null: outputs/data-check-<data>.json.")


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["check"]:
        check_verb(arguments[1:])
    elif arguments[:1] == ["show"]:
        show_verb(arguments[1:])
    else:
        raise UserError("mft data has the commands show and check: mft data show data=gsm8k")


def show_verb(arguments: list[str]) -> None:
    from mft_cli.config.load import train_config

    options, rest = read_options(ShowOptions, "data show", arguments, TrainConfig)

    def task(config: TrainConfig) -> None:
        from mft_cli.cli.data_show import show

        show(config, rows=options.rows, progress=options.progress, epoch=options.epoch)

    composed("train", rest, train_config, task)


def check_verb(arguments: list[str]) -> None:
    from mft_cli.config.load import train_config

    options, rest = read_options(CheckOptions, "data check", arguments, TrainConfig)

    def task(config: TrainConfig) -> None:
        if not config.eval.benchmarks:
            raise UserError("mft data check needs benchmarks: eval=gsm8k or eval=[gsm8k,svamp]")
        from mft_cli.cli.data_check import check

        check(config.data, config.eval, config.seed, show=options.show, out=options.out)

    composed("train", rest, train_config, task)


HELP = """mft data: look at training data

  mft data show method=masked_thought data=gsm8k               three examples: prompt, response, what would be masked
  mft data show method=masked_thought rows=10 progress=0.5     as halfway through training
  mft data show data=local data.sources.local.path=my.jsonl

rows=N examples, progress=0..1 (default 1: masking at its full ratio), epoch=N.

  mft data check data=gsm8k eval=gsm8k                         which benchmark questions stand in the training rows
  mft data check data=local data.sources.local.path=my.jsonl eval=[gsm8k,svamp] show=10

show=N questions of each kind are printed with their row; out=FILE takes all of it as JSON (docs/contamination.md).
"""
