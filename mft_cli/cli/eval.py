"""`mft eval`: its help, its options and what it calls."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from mft_cli.cli.job import read_frozen, requeueing
from mft_cli.cli.options import composed, read_options, value_of
from mft_cli.config.schema.base import STRICT, key
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.errors import UserError
from mft_cli.signals import stoppable
from mft_cli.slurm.requeue import inside_job


@dataclass(config=STRICT, frozen=True)
class ListOptions:
    """The options of `mft eval list`."""

    json: bool = key(False, "Print JSON.")


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["list"]:
        list_verb(arguments[1:])
        return
    from mft_cli.config.load import eval_config

    if (frozen := value_of(arguments, "--frozen")) and (out := value_of(arguments, "--out")):
        from mft_cli.eval.evaluate import evaluate

        with stoppable():
            evaluate(eval_config(read_frozen(frozen)), Path(out))
        return
    composed("eval", arguments, eval_config, run_evaluation)


def list_verb(arguments: list[str]) -> None:
    from mft_cli.config.compose import config_dirs, without_option
    from mft_cli.eval.listing import print_list

    words = without_option(arguments, "--config-dir", "-cd")
    options, words = read_options(ListOptions, "eval list", words)
    if words:
        raise UserError(f"mft eval list takes json=true and --config-dir FOLDER, not {words[0]}")
    print_list(config_dirs(arguments), options.json)


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
