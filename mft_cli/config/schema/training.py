"""Optimizer, checkpoints and watching."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import STRICT, AtLeastOne, Count, Fraction, NonNegative, Positive, Share, key


@dataclass(config=STRICT)
class TrainingConfig:
    """Optimizer, schedule and steps."""

    global_batch_size: AtLeastOne = key(32, "Examples in an optimizer step, over all ranks.")
    micro_batch_size: AtLeastOne | Literal["auto"] = key(
        "auto", "Rows in one forward pass of one rank; auto: as many as fit a GPU's memory, 1 on processors."
    )
    packing: bool = key(True, "Lay several examples into one row; off: one example a row, padded.")
    row_length: AtLeastOne | None = key(
        None, "Tokens in a packed row; null: 1024, or data.max_length if larger.", needs="packing=true"
    )
    epochs: Annotated[float, Field(gt=0, le=10**6)] = key(3.0, "Passes over the data (a part of a pass counts).")
    max_steps: AtLeastOne | None = key(None, "Stop after this many optimizer steps; overrides epochs.")
    learning_rate: Annotated[float, Field(ge=0, le=1000)] = key(2e-5, "Peak learning rate.")
    schedule: Literal["constant", "linear", "cosine"] = key("cosine", "Shape of the learning rate after the warm-up.")
    warmup_steps: Count | None = key(None, "Warm-up in steps; overrides warmup_fraction.")
    warmup_fraction: Fraction = key(0.03, "Warm-up as a share of all steps.")
    min_ratio: Fraction = key(
        0.0, "Lowest learning rate, as a share of the peak, where the decay ends.", needs="schedule!=constant"
    )
    decay_fraction: Share = key(1.0, "Share of all steps at which the decay ends.", needs="schedule!=constant")
    tail: Literal["constant", "linear"] = key(
        "constant", "After the decay: stay at min_ratio, or go linearly to 0.", needs="schedule!=constant"
    )
    weight_decay: NonNegative = key(0.0, "AdamW weight decay; weight matrices only.")
    optimizer: Literal["adamw", "adamw_8bit", "adamw_8bit_paged"] = key(
        "adamw", "adamw; with its state in 8 bits (bitsandbytes); and that paged out to the CPU when a GPU is full."
    )
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = key([0.9, 0.999], "AdamW betas.")
    eps: Share = key(1e-8, "AdamW epsilon.")
    max_grad_norm: NonNegative = key(1.0, "Clip the gradient's norm to this; 0 does not clip.")
    precision: Literal["auto", "bf16", "fp32", "fp16"] = key(
        "auto",
        "auto: bf16 where the hardware multiplies it, fp16 on older GPUs, else fp32. Master weights are always fp32.",
    )
    gradient_checkpointing: bool = key(False, "Recompute activations in the backward pass: less memory, slower.")
    logits_chunk: AtLeastOne = key(1024, "Positions whose logits are held at once.")
    fast_modules: bool = key(True, "Swap element-wise modules for fused ones that were checked to compute the same.")
    stop_after: Count = key(
        0,
        "Early stopping: end after this many measurements in a row (checkpoint.best_by) without a new best; 0: never.",
    )
    max_bad_steps: AtLeastOne = key(5, "Stop after this many steps in a row without a finite loss and gradient.")

    @property
    def rows_at_once(self) -> int:
        """micro_batch_size; 1 where a GPU is still to choose it."""
        return 1 if self.micro_batch_size == "auto" else self.micro_batch_size


@dataclass(config=STRICT)
class CheckpointConfig:
    """What is saved during training."""

    every_steps: Count = key(0, "Save every this many steps; 0: at the end of every epoch.")
    every_minutes: NonNegative = key(30.0, "Save also when this long has passed since the last one; 0: never.")
    keep_last: AtLeastOne = key(2, "How many of the newest checkpoints stay.")
    keep_best: bool = key(False, "Keep also the best checkpoint by checkpoint.best_by.")
    best_by: str = key(
        "validation_loss",
        "What the best checkpoint and early stopping go by: validation_loss, or a benchmark of eval= (eval.every_steps).",
        needs="keep_best=true or train.stop_after",
    )
    resume: bool = key(
        True, "Go on from the newest verified checkpoint in the run folder; false replaces the folder's run, once."
    )
    retime: bool = key(False, "Allow a resume that changes the total number of steps.")


@dataclass(config=STRICT)
class LogConfig:
    """What is watched during training."""

    every_steps: AtLeastOne = key(1, "Write a row of metrics every this many steps.")
    samples_every_steps: Count = key(0, "Generate a few completions every this many steps; 0: never.")
    samples: AtLeastOne = key(2, "How many completions.", needs="samples_every_steps")
    sample_tokens: AtLeastOne = key(128, "Longest such completion in tokens.", needs="samples_every_steps")
    wandb: Literal["off", "online", "offline"] = key("off", "Weights & Biases.")
    wandb_project: str = key("mft", "Weights & Biases project.", needs="wandb!=off")
    wandb_entity: str | None = key(
        None, "User or team that the project belongs to; null: the account's default.", needs="wandb!=off"
    )
    wandb_group: str | None = key(None, "Runs of one name here are shown together, such as seeds.", needs="wandb!=off")
    wandb_tags: list[str] = key([], "Words to find the run by.", needs="wandb!=off")
    wandb_job_type: str = key("train", "What kind of job the run is, to filter by.", needs="wandb!=off")
    wandb_completions: Count = key(
        100, "First completions of each benchmark that go there as a table; 0: none.", needs="wandb!=off"
    )
    wandb_artifacts: bool = key(
        False,
        "What the export holds besides the model (adapter, masks, head) goes there as an artifact.",
        needs="wandb!=off",
    )
    tensorboard: bool = key(False, "TensorBoard files in the run folder.")
    mlflow: bool = key(False, "MLflow, where MLFLOW_TRACKING_URI says.")
    trackio: bool = key(False, "trackio, in the folder that TRACKIO_DIR says.")
    project: str = key("mft", "MLflow's experiment and trackio's project.", needs="mlflow=true or trackio=true")
    peak_tflops: Positive | None = key(None, "Peak of the device, for model FLOP utilisation; null: known GPUs only.")


@dataclass(config=STRICT)
class SweepConfig:
    """What a sweep looks at."""

    objective: str = key(
        "validation_loss",
        "The number of a run that a sweep chooses by: validation_loss, a benchmark's name, or <benchmark>/gold_logprob.",
    )
