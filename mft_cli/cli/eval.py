"""`mft eval`: its help, its options and what it calls."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from mft_cli.cli.job import read_frozen, requeueing
from mft_cli.cli.options import composed, is_sweep, read_options, value_of
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

    frozen, out = value_of(arguments, "--frozen"), value_of(arguments, "--out")
    if frozen and out:
        from mft_cli.eval.evaluate import evaluate

        with stoppable():
            evaluate(eval_config(read_frozen(frozen)), Path(out))
    elif frozen:
        evaluate_or_submit(eval_config(read_frozen(frozen)))
    elif is_sweep(arguments):
        from mft_cli.sweep.start import sweep

        sweep("eval", arguments, evaluate_in_sweep)
    else:
        composed("eval", arguments, eval_config, evaluate_or_submit)


def list_verb(arguments: list[str]) -> None:
    from mft_cli.config.compose import config_dirs, without_option
    from mft_cli.eval.listing import print_list

    words = without_option(arguments, "--config-dir", "-cd")
    options, words = read_options(ListOptions, "eval list", words)
    if words:
        raise UserError(f"mft eval list takes json=true and --config-dir FOLDER, not {words[0]}")
    print_list(config_dirs(arguments), options.json)


def evaluate_or_submit(config: EvalRunConfig) -> Path:
    """Evaluate here; launch=slurm outside a job submits one that does. Returns the folder."""
    if config.launch.name != "slurm" or (inside_job() and not config.launch.dry_run):
        return run_evaluation(config)
    from mft_cli.eval.preflight import preflight

    preflight(config)
    from mft_cli.eval.evaluate import eval_folder
    from mft_cli.slurm.submit import submit_evaluation

    folder = eval_folder(config)
    jobs = submit_evaluation(config, folder / "slurm")
    if not config.launch.dry_run:
        print(f"submitted SLURM job {jobs[0]}; results in {folder}, output in {folder}/slurm")
    return folder


def evaluate_in_sweep(config: EvalRunConfig) -> Path:
    """One of several evaluations. Raises UserError where it would submit itself: the sweep's launcher does that."""
    if config.launch.name == "slurm" and not inside_job():
        raise UserError("launch=slurm in a sweep: use hydra/launcher=mft_slurm, which submits the sweep as an array")
    return run_evaluation(config)


def run_evaluation(config: EvalRunConfig) -> Path:
    """One evaluation. Returns its folder. Raises UserError, Stopped."""
    from mft_cli.eval.preflight import preflight

    preflight(config)
    with requeueing(config.launch):
        from mft_cli.eval.evaluate import evaluate_run

        return evaluate_run(config)


HELP = """mft eval: evaluate a model on benchmarks

  mft eval model.path=outputs/<run>/export eval=gsm8k
  mft eval model=smollm2_135m eval=[gsm_symbolic,gsm_symbolic_heldout] eval.engine=hf
  mft eval model.path=<folder> eval=[gsm8k,math500] eval.limit=100 eval.dtype=float32
  mft eval model.path=<folder> eval=gsm8k eval.benchmarks.gsm8k.samples=8 eval.benchmarks.gsm8k.temperature=0.7
  mft eval model.path=<folder> eval=paper_masked_thought       a suite: several benchmarks with a paper's prompt and decoding
  mft eval model.path=<folder> --config-dir mine eval=own      your own benchmark, mine/eval/own.yaml (docs/benchmarks.md)
  mft eval model.path=<folder> eval=gsm8k launch=slurm launch.gpus=1   submits itself (docs/slurm.md)
  mft eval -m model.path=<a>,<b> eval=gsm8k hydra/launcher=mft_local   a sweep; mft_slurm submits an array (docs/sweeps.md)
  mft eval list                                                all benchmarks: problems, source, what is here

Benchmarks and suites: {benchmarks}
A killed evaluation goes on where it was. Results: outputs/eval-.../eval/<benchmark>/metrics.json
"""
