"""`mft eval`: its help, its options and what it calls."""

from __future__ import annotations

from mft_cli.cli.job import requeueing
from mft_cli.cli.options import (
    composed,
)
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.errors import UserError
from mft_cli.slurm.requeue import inside_job


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["list"]:
        from mft_cli.eval.listing import print_list

        print_list(arguments[1:])
        return
    from mft_cli.config.load import eval_config

    if arguments and arguments[0].startswith("--frozen="):
        from pathlib import Path

        from mft_cli.cli.job import read_frozen
        from mft_cli.eval.evaluate import evaluate

        frozen, out = (argument.split("=", 1)[1] for argument in arguments[:2])
        evaluate(eval_config(read_frozen(frozen)), Path(out))
        return
    pass

    composed("eval", arguments, eval_config, run_evaluation)


def run_evaluation(config: EvalRunConfig) -> None:
    """One evaluation. Raises UserError, Stopped."""
    if config.launch.name == "slurm" and not inside_job():
        raise UserError("mft eval launch=slurm runs inside a job; submit one with sbatch slurm/eval.sbatch ...")
    from mft_cli.eval.preflight import preflight

    preflight(config)
    with requeueing(config.launch):
        from mft_cli.eval.evaluate import evaluate_run

        evaluate_run(config)


HELP = """mft eval: evaluate a model on benchmarks

  mft eval model.path=outputs/<run>/export eval=gsm8k
  mft eval model=smollm2_135m eval=[gsm_symbolic,gsm_symbolic_heldout] eval.engine=hf
  mft eval model.path=<folder> eval=[gsm8k,math500] eval.limit=100 eval.dtype=float32
  mft eval model.path=<folder> eval=gsm8k eval.benchmarks.gsm8k.samples=8 eval.benchmarks.gsm8k.temperature=0.7
  mft eval model.path=<folder> eval=paper_masked_thought       a suite: several benchmarks with a paper's prompt and decoding
  mft eval model.path=<folder> --config-dir mine eval=own      your own benchmark, mine/eval/own.yaml (docs/benchmarks.md)
  mft eval list                                                all benchmarks: problems, source, what is here

Benchmarks and suites: {benchmarks}
A killed evaluation goes on where it was. Results: outputs/eval-.../eval/<benchmark>/metrics.json
"""
