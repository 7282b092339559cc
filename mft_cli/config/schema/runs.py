"""The whole configuration of a command."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import STRICT, Seed, key
from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.config.schema.inputs import DataConfig, ModelConfig, PromptConfig
from mft_cli.config.schema.launching import DeepspeedConfig, LaunchConfig, PeftConfig
from mft_cli.config.schema.methods import AnyMethod, SftConfig
from mft_cli.config.schema.training import CheckpointConfig, LogConfig, SweepConfig, TrainingConfig


@dataclass(config=STRICT)
class RunConfig:
    """What training and evaluation share."""

    run_dir: str | None = key(None, "The run's folder; null: outputs/<method>-<data>-s<seed>-<digest of the settings>.")
    model: ModelConfig = key(ModelConfig, "The model.")
    eval: EvalConfig = key(EvalConfig, "Evaluation.")
    launch: LaunchConfig = key(LaunchConfig, "Launching.")


@dataclass(config=STRICT)
class TrainConfig(RunConfig):
    """`mft train`."""

    seed: Seed = key(1, "Seed of order, masks, dropout and new weights.")
    note: str = key("", "Free text, kept with the run.")
    prompt: PromptConfig = key(PromptConfig, "The prompt.")
    method: AnyMethod = key(SftConfig, "The method.")
    data: DataConfig = key(DataConfig, "The data.")
    train: TrainingConfig = key(TrainingConfig, "Optimizer, schedule and steps.")
    checkpoint: CheckpointConfig = key(CheckpointConfig, "Checkpoints.")
    log: LogConfig = key(LogConfig, "Watching.")
    sweep: SweepConfig = key(SweepConfig, "Sweeps.")
    deepspeed: DeepspeedConfig = key(DeepspeedConfig, "DeepSpeed.")
    peft: PeftConfig = key(PeftConfig, "Parameter-efficient fine-tuning.")


@dataclass(config=STRICT)
class EvalRunConfig(RunConfig):
    """`mft eval`: the model of model.path on the benchmarks of eval=; prompt=<name> sets eval.prompt."""
