"""What a run has reached, in one number: the validation loss, or a score on a benchmark."""

from __future__ import annotations

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.report.read.runs import Run
from mft_cli.report.wording import is_number

VALIDATION = "validation_loss"


def lower_is_better(metric: str) -> bool:
    return metric == VALIDATION


def evaluated_checkpoint(checkpoints: object) -> str:
    """Label of the checkpoint that counts: the best one where that is what is evaluated, else the last."""
    return "best" if checkpoints == "best" else ""


def reached(run: Run, metric: str) -> float | None:
    """A run's value: validation_loss, a benchmark's name (accuracy), or <benchmark>/gold_logprob. None: not there.

    With eval.checkpoints=best the validation loss is that checkpoint's, the lowest; else the last one.
    """
    checkpoint = evaluated_checkpoint(run.config.get("eval.checkpoints"))
    if metric == VALIDATION:
        losses = [row["loss"] for row in run.validation if is_number(row.get("loss"))]
        return (min(losses) if checkpoint else losses[-1]) if losses else None
    benchmark, _, part = metric.partition("/")
    for evaluation in run.evaluations:
        if evaluation.benchmark == benchmark and evaluation.checkpoint == checkpoint:
            metrics = evaluation.metrics or {}
            value = (metrics.get("gold_logprob") or {}).get("mean") if part else metrics.get("accuracy")
            return float(value) if is_number(value) else None
    return None


def can_be_reached(config: TrainConfig) -> bool:
    """Whether a run of this configuration will have its sweep.objective."""
    if config.sweep.objective == VALIDATION:
        return config.data.validation.wanted
    return config.sweep.objective.partition("/")[0] in config.eval.benchmarks
