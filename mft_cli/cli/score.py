"""`mft score`: its help, its options and what it calls."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import composed, read_options
from mft_cli.config.schema.base import STRICT, key
from mft_cli.config.schema.evaluation import BenchmarkConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.errors import UserError


@dataclass(config=STRICT, frozen=True)
class Options:
    """The options of `mft score`."""

    generations: Path = key(..., "The file of completions.")
    out: Path | None = key(None, "Folder of the scores.")
    explain: str | None = key(None, "A problem's id: print the steps to the verdicts on it.")
    samples: Literal["all", "min"] = key("all", "min: of every problem as many samples as the one with the fewest has.")


def main(arguments: list[str]) -> None:
    from mft_cli.config.load import unchecked_eval_config

    options, rest = read_options(Options, "score", as_words(arguments), EvalRunConfig)
    if options.out is None and options.explain is None:
        raise UserError("mft score needs out=, or --explain ID; see mft score --help")
    if not options.generations.is_file():
        raise UserError(f"generations={options.generations}: no such file")

    def task(config: EvalRunConfig) -> None:
        name, benchmark = one_benchmark(config)
        if options.explain is not None:
            from mft_cli.eval.grading.explain import explain_file

            print(explain_file(options.generations, name, benchmark, config.eval, options.explain))
        if options.out is None:
            return
        from mft_cli.eval.score import score_file, summary

        metrics = score_file(
            options.generations, name, benchmark, options.out, eval_config=config.eval,
            common_samples=options.samples == "min",
        )  # fmt: skip
        print(summary(metrics))

    composed("eval", rest, unchecked_eval_config, task)


def one_benchmark(config: EvalRunConfig) -> tuple[str, BenchmarkConfig]:
    """The benchmark that is scored, with its name. Raises UserError where there is none, or several."""
    if len(config.eval.benchmarks) != 1:
        raise UserError(f"a score takes one benchmark, eval=<name>; there are {len(config.eval.benchmarks)}")
    return next(iter(config.eval.benchmarks.items()))


def as_words(arguments: list[str]) -> list[str]:
    """The flag --explain ID (or --explain=ID) as the word explain=ID."""
    words = list(arguments)
    if "--explain" in words[:-1]:
        at = words.index("--explain")
        words[at : at + 2] = [f"explain={words[at + 1]}"]
    return [word.removeprefix("--") if word.startswith("--explain=") else word for word in words]


HELP = """mft score: score a file of completions again, without a model

  mft score generations=outputs/<run>/eval/gsm8k/generations.jsonl eval=gsm8k out=scores
  mft score generations=mine.jsonl eval=gsm_symbolic out=scores
  mft score generations=samples.jsonl eval=humaneval out=scores samples=min      the samples that every problem has
  mft score generations=mine.jsonl eval=gsm8k --explain ID      how the verdict on one problem came about

A line needs an id and "completion"; with "gold" on every line the benchmark's own data is not needed. The id is that of
mft eval, the problem's place in the data from 0, or its published one ("task_id": "HumanEval/0", IFEval's "key" ...).
"sample" counts a problem's samples from 0; where no line has one, they are numbered in order.
Writes generations.jsonl (the completions by mft's ids), scores.jsonl and metrics.json into out, a folder for mft compare.
scores.jsonl says where each answer was read: answer_from and answer_span.
"""
