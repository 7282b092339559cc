"""The verbs as functions. Each does what its command does; heavy packages are imported when one is called."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from mft_cli.config.schema.runs import EvalRunConfig, TrainConfig
from mft_cli.errors import UserError
from mft_cli.eval.metrics_file import Metrics, read_metrics
from mft_cli.report.summary import Summary


def train(config: TrainConfig) -> Path:
    """Fine-tunes, exports and evaluates, as `mft train`; goes on where such a run was stopped. Returns the run's folder.

    Raises UserError for what can be corrected, Stopped after a signal (the state is saved).
    """
    from mft_cli.cli.train import train_or_submit

    return train_or_submit(config)


def evaluate(config: EvalRunConfig) -> Path:
    """Evaluates a model on the configuration's benchmarks, as `mft eval`. Returns the folder; see `scores`.

    Raises UserError, Stopped.
    """
    from mft_cli.cli.eval import evaluate_or_submit

    return evaluate_or_submit(config)


def scores(folder: str | Path, name: str = "eval") -> dict[str, Metrics]:
    """Benchmark -> metrics of a finished evaluation in a folder that `train` or `evaluate` returned.

    `name` is the folder inside: eval, eval-best, eval-step-<number>. Accuracies are shares from 0 to 1, intervals
    [low, high] at 95 %. Raises UserError where there are none, or where a file is damaged.
    """
    result: dict[str, Metrics] = {}
    for file in sorted(Path(folder, name).glob("*/metrics.json")):
        metrics = read_metrics(file.parent)
        if isinstance(metrics, str):
            raise UserError(f"{file.parent / metrics} is damaged or was changed: evaluate again")
        result[file.parent.name] = metrics
    if not result:
        raise UserError(f"{Path(folder, name)}: no evaluation has finished there")
    return result


def score(generations: str | Path, config: EvalRunConfig, out: str | Path, common_samples: bool = False) -> Metrics:
    """Scores a file of completions, as `mft score`, without a model; writes scores.jsonl and metrics.json into `out`.

    `config` names one benchmark: load_config("eval=gsm8k", verb="score"). `common_samples`: of every problem as many
    samples as the one with the fewest has. Raises UserError for a file that is not complete.
    """
    from mft_cli.cli.score import one_benchmark
    from mft_cli.eval.score import score_file

    name, benchmark = one_benchmark(config)
    return score_file(
        Path(generations), name, benchmark, Path(out), eval_config=config.eval, common_samples=common_samples
    )


def compare(*folders: str | Path, out: str | Path = "outputs/compare", baseline: str | None = None) -> Summary:
    """Prints every paired comparison of runs or evaluations, as `mft compare`, and writes the report into `out`.

    The summary's `pairs` hold differences (shares), intervals and p-values. Raises UserError where no benchmark is shared.
    """
    from mft_cli.cli.compare import compare as compare_folders

    return cast(Summary, compare_folders([Path(folder) for folder in folders], Path(out), baseline))
