"""`mft score`: its help, its options and what it calls."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import composed, read_options
from mft_cli.config.schema.base import STRICT, key
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.errors import UserError


@dataclass(config=STRICT, frozen=True)
class Options:
    """The options of `mft score`."""

    generations: Path = key(..., "The file of completions.")
    out: Path = key(..., "Folder of the scores.")
    samples: Literal["all", "min"] = key("all", "min: of every problem as many samples as the one with the fewest has.")


def main(arguments: list[str]) -> None:
    from mft_cli.config.load import unchecked_eval_config

    options, rest = read_options(Options, "score", arguments, EvalRunConfig)
    if not options.generations.is_file():
        raise UserError(f"generations={options.generations}: no such file")

    def task(config: EvalRunConfig) -> None:
        if len(config.eval.benchmarks) != 1:
            raise UserError("mft score takes one benchmark: eval=<name>")
        name, benchmark = next(iter(config.eval.benchmarks.items()))
        from mft_cli.eval.score import score_file, summary

        metrics = score_file(
            options.generations, name, benchmark, options.out, eval_config=config.eval,
            common_samples=options.samples == "min",
        )  # fmt: skip
        print(summary(metrics))

    composed("eval", rest, unchecked_eval_config, task)


HELP = """mft score: score a file of completions again, without a model

  mft score generations=outputs/<run>/eval/gsm8k/generations.jsonl eval=gsm8k out=scores
  mft score generations=mine.jsonl eval=gsm_symbolic out=scores
  mft score generations=samples.jsonl eval=humaneval out=scores samples=min      the samples that every problem has

A line needs an id and "completion"; with "gold" on every line the benchmark's own data is not needed. The id is that of
mft eval, the problem's place in the data from 0, or its published one ("task_id": "HumanEval/0", IFEval's "key" ...).
"sample" counts a problem's samples from 0; where no line has one, they are numbered in order.
Writes scores.jsonl and metrics.json into out.
"""
