"""Settings that are each valid but cannot go together, and files that are named but not there. Imports no torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mft_cli.config import deepspeed as zero_settings
from mft_cli.config import schema
from mft_cli.config.checks_eval import check_benchmarks
from mft_cli.config.checks_sources import check_paths, check_source
from mft_cli.config.model_path import kind_of
from mft_cli.errors import UserError


def check_train(config: schema.TrainConfig) -> None:
    """Settings that are each valid but cannot go together. Raises UserError."""
    t, d = config.train, config.data
    if not config.model.path:
        raise UserError("model.path is empty: choose a preset with model=<name>, or give a folder or hub id")
    if not d.sources:
        raise UserError(
            "data.sources is empty: choose a preset with data=<name>, or data=local data.sources.local.path=FILE"
        )
    if "local" in d.sources and len(d.sources) > 1:
        others = ", ".join(name for name in d.sources if name != "local")
        raise UserError(
            f"data.sources.local together with {others} of data={d.name}: say data=local to train on your file alone; to mix the two, "
            f"give your source a name of its own, data.sources.mine.path={d.sources['local'].path or 'FILE'}"
        )
    for name, source in {**d.sources, **d.sources_validation}.items():
        check_source(f"data.sources.{name}", source)
        if source.response is None:
            raise UserError(f"data.sources.{name}.response=null: training rows need a response; name its field")
    if t.row_length is not None and t.packing and t.row_length < d.max_length:
        raise UserError(
            f"train.row_length={t.row_length}: an example of data.max_length={d.max_length} does not fit in"
        )
    if len(t.betas) != 2:
        raise UserError(f"train.betas={t.betas}: expected two numbers, such as [0.9, 0.95]")
    check_validation(d, config.checkpoint, config.eval.checkpoints, t.stop_after)
    config.method.check(config.model)
    zero_settings.check(config.deepspeed, t, compiled=config.launch.compile)
    check_launch(config.launch)
    check_peft(config.peft, t, config.deepspeed, config.model.path)
    check_measured(config.eval, config.checkpoint)
    if zero_settings.stage(config.deepspeed) == 3 and (config.eval.every_steps or config.log.samples_every_steps):
        name = "eval.every_steps" if config.eval.every_steps else "log.samples_every_steps"
        raise UserError(f"{name} does not go with ZeRO stage 3: set it to 0, or deepspeed=zero2")
    if "{solution}" in config.prompt.template:
        raise UserError(
            f"prompt={config.prompt.name}: its template takes a {{solution}}, which training rows hold in their question "
            f"already: choose prompt=chat or prompt=raw"
        )
    if config.eval.engine == "api" and config.eval.benchmarks:
        raise UserError("eval.engine=api evaluates what an endpoint serves, not this training's export: use mft eval")
    check_benchmarks(config.eval)
    check_paths(config.model, d.sources)


def check_validation(
    data: schema.DataConfig, checkpoint: schema.CheckpointConfig, evaluated: str, stop_after: int
) -> None:
    """The validation split, and what needs one; `evaluated` is eval.checkpoints. Raises UserError."""
    v, best = data.validation, evaluated == "best"
    if v.source is not None and v.source not in data.sources_validation:
        raise UserError(f"data.validation.source={v.source}: no such source under data.sources_validation")
    if v.fraction and v.rows:
        raise UserError(
            f"data.validation.fraction={v.fraction} and data.validation.rows={v.rows} both say how many rows validate: "
            f"set one of them to 0"
        )
    if v.fraction and v.source is not None:
        raise UserError(
            f"data.validation.fraction={v.fraction} takes training rows, data.validation.source={v.source} others: "
            f"set the fraction to 0, or the source to null"
        )
    by_loss = checkpoint.best_by == "validation_loss"
    if not v.wanted and by_loss and (checkpoint.keep_best or best or stop_after):
        raise UserError(
            "checkpoint.keep_best, eval.checkpoints=best and train.stop_after need a validation split: set "
            "data.validation.rows or data.validation.fraction, or checkpoint.best_by to a benchmark"
        )
    if best and not checkpoint.keep_best:
        raise UserError("eval.checkpoints=best needs checkpoint.keep_best=true")


def check_measured(config: schema.EvalConfig, checkpoint: schema.CheckpointConfig) -> None:
    """Benchmarks inside of the training, and what goes by them. Raises UserError."""
    every, best_by, names = config.every_steps, checkpoint.best_by, list(config.benchmarks)
    if best_by not in ("validation_loss", *names):
        raise UserError(f"checkpoint.best_by={best_by}: expected validation_loss or a benchmark of eval= ({names})")
    if best_by in names and not every:
        raise UserError(f"checkpoint.best_by={best_by} needs eval.every_steps: after how many steps is it evaluated?")
    if every and not names:
        raise UserError(f"eval.every_steps={every}: there is no benchmark; choose one with eval=<name>, or set it to 0")


DRY_RUN = (
    "launch.dry_run=true prints what launch=slurm or hydra/launcher=mft_slurm would submit; for a run on this machine look at "
    "its settings with --cfg job, and at its memory and time with mft plan"
)


def check_launch(launch: schema.LaunchConfig) -> None:
    """Settings of the processes that contradict each other. Raises UserError."""
    if launch.gpus and launch.processes:
        raise UserError(
            f"launch.gpus={launch.gpus} and launch.processes={launch.processes}: give one of them, "
            "gpus for one process a GPU, processes on machines without GPUs"
        )
    if launch.dry_run and launch.name != "slurm":
        raise UserError(DRY_RUN)
    if launch.name == "local" and (launch.node_rank or 0) >= (launch.nodes or 1):
        raise UserError(
            f"launch.node_rank={launch.node_rank}: expected a number below launch.nodes={launch.nodes or 1}"
        )


def check_peft(
    config: schema.PeftConfig, train: schema.TrainingConfig, deepspeed: schema.DeepspeedConfig, model_path: str
) -> None:
    """Adapters and 8-bit optimizers with what they cannot go with. Raises UserError."""
    peft, optimizer, zero = config.name, train.optimizer, zero_settings.is_on(deepspeed)
    if peft == "none" and kind_of(Path(model_path).expanduser()) == "adapter":
        raise UserError(
            f"model.path={model_path} is an adapter: set peft=lora to train on from it, or take the merged model "
            f"(an export of mft has it one folder up)"
        )
    if not config.targets:
        raise UserError("peft.targets=[]: expected auto or names of linear layers, such as [q_proj, v_proj]")
    if peft == "qlora":
        if train.precision == "fp32":
            raise UserError("peft=qlora computes in 16 bits: set train.precision=bf16")
        if zero:
            raise UserError("peft=qlora keeps its 4-bit weights whole on every rank: set deepspeed=none")
    if optimizer != "adamw" and zero:
        raise UserError(
            f"train.optimizer={optimizer} rounds its state in blocks, which ZeRO would cut otherwise for every number of "
            f"ranks: set deepspeed=none, or train.optimizer=adamw"
        )
    wants = "peft=qlora" if peft == "qlora" else f"train.optimizer={optimizer}" if optimizer != "adamw" else ""
    if wants and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{wants} needs the package bitsandbytes, which is not installed: pip install bitsandbytes==0.50.2"
        )
