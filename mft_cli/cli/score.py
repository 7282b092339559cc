"""`mft score`: its help, its options and what it calls."""

from __future__ import annotations

from mft_cli.cli.options import own_keys
from mft_cli.errors import UserError


def main(arguments: list[str]) -> None:
    from pathlib import Path

    from mft_cli.config.compose import run_with_hydra

    own, rest = own_keys(arguments, "generations", "out")
    for name in ("generations", "out"):
        if name not in own:
            raise UserError(f"mft score needs {name}=; see mft score --help")
    generations = Path(own["generations"])
    if not generations.is_file():
        raise UserError(f"generations={generations}: no such file")

    def task(values: dict) -> None:
        from mft_cli.config import schema
        from mft_cli.config.load import with_prompt
        from mft_cli.config.validate import build

        config = build(schema.EvalRunConfig, with_prompt(values))
        if len(config.eval.benchmarks) != 1:
            raise UserError("mft score takes one benchmark: eval=<name>")
        name, benchmark = next(iter(config.eval.benchmarks.items()))
        from mft_cli.eval.score import score_file, summary

        print(summary(score_file(generations, name, benchmark, Path(own["out"]), eval_config=config.eval)))

    run_with_hydra("eval", rest, task)


HELP = """mft score: score a file of completions again, without a model

  mft score generations=outputs/<run>/eval/gsm8k/generations.jsonl eval=gsm8k out=scores
  mft score generations=mine.jsonl eval=gsm_symbolic out=scores

A line needs "id", "sample" and "completion"; with "gold" on every line the benchmark's own data is not needed.
Writes scores.jsonl and metrics.json into out.
"""
