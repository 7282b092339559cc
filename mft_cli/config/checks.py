"""Settings that are each valid but cannot go together, and files that are named but not there. Imports no torch."""

from __future__ import annotations

import importlib.util
import json
import re
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
    check_validation(config)
    check_method(config.method, config.model)
    zero_settings.check(config)
    check_launch(config.launch)
    check_peft(config)
    if zero_settings.stage(config.deepspeed) == 3 and config.log.samples_every_steps:
        raise UserError("log.samples_every_steps does not go with ZeRO stage 3: set it to 0, or deepspeed=zero2")
    if "{solution}" in config.prompt.template:
        raise UserError(
            f"prompt={config.prompt.name}: its template takes a {{solution}}, which training rows hold in their question "
            f"already: choose prompt=chat or prompt=raw"
        )
    if config.eval.engine == "api" and config.eval.benchmarks:
        raise UserError("eval.engine=api evaluates what an endpoint serves, not this training's export: use mft eval")
    check_benchmarks(config.eval)
    check_paths(config)


def check_validation(config: schema.TrainConfig) -> None:
    """The validation split, and what needs one. Raises UserError."""
    v, best = config.data.validation, config.eval.checkpoints == "best"
    if v.source is not None and v.source not in config.data.sources_validation:
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
    if not v.wanted and (config.checkpoint.keep_best or best):
        raise UserError(
            "checkpoint.keep_best and eval.checkpoints=best need a validation split: set data.validation.rows or "
            "data.validation.fraction"
        )
    if best and not config.checkpoint.keep_best:
        raise UserError("eval.checkpoints=best needs checkpoint.keep_best=true")


def check_method(m: schema.MethodConfig, model: schema.ModelConfig) -> None:
    """A method's settings that contradict each other or the model. Raises UserError."""
    if isinstance(m, schema.MaskedThoughtConfig):
        if m.drop_attention and model.attention == "flash_attention_2":
            raise UserError(
                "method.drop_attention=true needs model.attention=sdpa or flex: flash-attention takes no mask"
            )
        if m.granularity == "step" and m.target != "response":
            raise UserError(f"method.granularity=step masks reasoning lines; method.target={m.target} has none")
        if m.noise != "token":
            check_noise(m)
    if isinstance(m, schema.MaskFinetuneConfig):
        check_mask_finetune(m, model.path)
    if isinstance(m, schema.ChunkRefineConfig):
        check_chunk_refine(m)


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


def check_peft(config: schema.TrainConfig) -> None:
    """Adapters and 8-bit optimizers with what they cannot go with. Raises UserError."""
    peft, optimizer = config.peft.name, config.train.optimizer
    folder = Path(config.model.path).expanduser()
    if peft == "none" and kind_of(folder) == "adapter":
        raise UserError(
            f"model.path={config.model.path} is an adapter: set peft=lora to train on from it, or take the merged model "
            f"(an export of mft has it one folder up)"
        )
    if not config.peft.targets:
        raise UserError("peft.targets=[]: expected auto or names of linear layers, such as [q_proj, v_proj]")
    if peft == "qlora":
        if config.train.precision == "fp32":
            raise UserError("peft=qlora computes in 16 bits: set train.precision=bf16")
        if zero_settings.is_on(config.deepspeed):
            raise UserError("peft=qlora keeps its 4-bit weights whole on every rank: set deepspeed=none")
    if optimizer != "adamw" and zero_settings.is_on(config.deepspeed):
        raise UserError(
            f"train.optimizer={optimizer} rounds its state in blocks, which ZeRO would cut otherwise for every number of "
            f"ranks: set deepspeed=none, or train.optimizer=adamw"
        )
    wants = "peft=qlora" if peft == "qlora" else f"train.optimizer={optimizer}" if optimizer != "adamw" else ""
    if wants and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{wants} needs the package bitsandbytes, which is not installed: pip install bitsandbytes==0.50.2"
        )


def check_noise(m: schema.MaskedThoughtConfig) -> None:
    """Keys that say how a token is masked, where none is. Raises UserError."""
    mask = {"random_fraction": 0.0, "drop_attention": False, "mask_token": "auto", "keep_mask_token": False}
    for name, without in mask.items():
        if (value := getattr(m, name)) != without:
            said = str(value).lower() if isinstance(value, bool) else value
            raise UserError(
                f"method.{name}={said} is about the mask token, which method.noise={m.noise} does not use: "
                f"leave it at {str(without).lower()}, or set method.noise=token"
            )


def check_mask_finetune(m: schema.MaskFinetuneConfig, folder: str) -> None:
    if m.selection == "local" and m.layers is None:
        raise UserError(
            "method.layers is missing: name the layers to mask, such as 4-7, or all (method.selection=local)"
        )
    if m.selection == "global" and m.scores != "learned":
        raise UserError(
            f"method.scores={m.scores} is no learned score that a threshold could cut: set method.selection=local"
        )
    if not m.modules:
        raise UserError("method.modules is empty: expected attention, mlp or name patterns")
    layer_numbers(m.layers, layers_of(folder))


def layer_numbers(layers: object, count: int | None) -> set[int]:
    """Numbers meant by "4-7", "0-3,20-23", 4, [4, 5] or "all"; null is all. Raises UserError for what is no such text.

    `count` is how many layers the model has. null: not known yet, so that only the text is checked, and "all" is none.
    """
    if layers is None or layers == "all":
        return set(range(count or 0))
    numbers: set[int] = set()
    for part in str(layers).strip("[]").replace("'", "").split(","):
        ends = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
            raise UserError(f"method.layers={layers}: expected layer numbers such as 4-7, [4,5], 0-3,20-23, or all")
        numbers |= set(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    if count is not None and max(numbers) >= count:
        raise UserError(f"method.layers={layers}: the model has the layers 0 to {count - 1}; choose among them")
    return numbers


def layers_of(path: str) -> int | None:
    """How many layers a model folder's config.json says it has, if it is a folder and does."""
    try:
        config = json.loads((Path(path).expanduser() / "config.json").read_text(encoding="utf-8"))
        inner = config.get("text_config") or config
        return next(int(inner[k]) for k in ("num_hidden_layers", "n_layer") if k in inner)
    except (OSError, ValueError, TypeError, AttributeError, StopIteration):
        return None  # what is wrong with the folder is told where it is loaded


def check_chunk_refine(m: schema.ChunkRefineConfig) -> None:
    if m.min_steps > m.max_steps:
        raise UserError(f"method.min_steps={m.min_steps} is above method.max_steps={m.max_steps}; set it lower")
    if m.width % m.heads:
        raise UserError(f"method.heads={m.heads} does not divide method.width={m.width}; set method.heads to a divisor")
    if m.hidden == "embedding" and m.backbone == "trained":
        raise UserError(
            "method.hidden=embedding never runs the backbone, so method.backbone=trained would train nothing of it: "
            "set method.backbone=frozen, or method.hidden=backbone"
        )
