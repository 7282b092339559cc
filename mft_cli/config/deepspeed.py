"""The DeepSpeed configuration: the preset's or the user's keys, with what mft decides written in. Imports no torch."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path

from mft_cli.config import schema
from mft_cli.config.schema.base import Values
from mft_cli.config.schema.deepspeed_file import DeepspeedFile
from mft_cli.config.secrets import refuse_values
from mft_cli.config.validate import build
from mft_cli.errors import UserError
from mft_cli.files import read_json

# What mft has its own keys for. A DeepSpeed file may say the same or "auto", nothing else.
MFT_KEYS = {
    "train_batch_size": "train.global_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_clipping": "train.max_grad_norm",
    "optimizer": "train.learning_rate, train.betas, train.eps and train.weight_decay",
    "scheduler": "train.schedule and train.warmup_steps",
    "gradient_accumulation_steps": "train.global_batch_size and train.micro_batch_size",
}
FORCED = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False, "steps_per_print": 2**31}


def is_on(config: schema.DeepspeedConfig) -> bool:
    return config.name != "none" or bool(config.config_file) or bool(config.config)


def given(config: schema.DeepspeedConfig) -> Values:
    """The keys of the user's file, else the preset's. Raises UserError for a file that cannot be read."""
    if not config.config_file:
        return copy.deepcopy(config.config)
    try:
        values = read_json(Path(config.config_file))
    except (OSError, ValueError) as error:
        raise UserError(f"deepspeed.config_file={config.config_file}: not a readable JSON file ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"deepspeed.config_file={config.config_file}: expected a JSON object with DeepSpeed's keys")
    refuse_values(values, f"{config.config_file}: ")  # run.json keeps them
    return values


def stage(config: schema.DeepspeedConfig) -> int:
    """ZeRO stage; 0 without DeepSpeed."""
    return int(zero_section(config).get("stage", 0)) if is_on(config) else 0


def zero_section(config: schema.DeepspeedConfig) -> Values:
    """What stands below zero_optimization; empty also where that is null."""
    return given(config).get("zero_optimization") or {}


def offloads(config: schema.DeepspeedConfig) -> bool:
    zero = zero_section(config)
    return any((zero.get(k) or {}).get("device", "none") != "none" for k in ("offload_optimizer", "offload_param"))


def check(config: schema.DeepspeedConfig, t: schema.TrainingConfig, *, compiled: bool) -> None:
    """Raises UserError for a DeepSpeed configuration that contradicts the run's own keys."""
    if not is_on(config):
        return
    source, values = config.config_file or "deepspeed.config", given(config)
    build(DeepspeedFile, values, f"{source}: " if config.config_file else f"{source}.")
    ours = {
        "train_batch_size": t.global_batch_size,
        "train_micro_batch_size_per_gpu": t.rows_at_once,
        "gradient_clipping": t.max_grad_norm,
    }
    for name, keys in MFT_KEYS.items():
        value = values.get(name, "auto")
        if name == "gradient_accumulation_steps" and value == 1:
            continue
        if value != "auto" and value != ours.get(name):
            raise UserError(f'{source}: {name}={json.dumps(value)} contradicts {keys}; remove it or write "auto"')
    for name in ("bf16", "fp16", "amp", "torch_autocast"):
        section = values.get(name) or {}
        expected = t.precision if t.precision in ("bf16", "fp16") else None
        if section.get("enabled") not in (None, "auto", False) and name != expected:
            raise UserError(f"{source}: {name}.enabled contradicts train.precision={t.precision}; set train.precision")
    for name, value in FORCED.items():
        if name != "steps_per_print" and values.get(name, value) != value:
            raise UserError(f"{source}: {name}={json.dumps(values[name])}: mft steps torch's AdamW and needs {value}")
    if stage(config) not in (1, 2, 3):
        raise UserError(
            f"{source}: zero_optimization.stage is missing: expected 1, 2 or 3 (deepspeed=none is plain torch)"
        )
    check_nvme(source, values.get("zero_optimization") or {})
    if compiled and stage(config) == 3:
        raise UserError(
            "launch.compile=true does not go with ZeRO stage 3: set launch.compile=false, or deepspeed=zero2"
        )


def check_nvme(source: str, zero: Values) -> None:
    """Raises UserError for an offload to files that DeepSpeed or mft cannot do."""
    if (zero.get("offload_param") or {}).get("device") == "nvme":
        raise UserError(
            f"{source}: offload_param.device=nvme is not supported (docs/deepspeed.md says why): set it to cpu; "
            "offload_optimizer.device may be nvme"
        )
    offload = zero.get("offload_optimizer") or {}
    if offload.get("device") != "nvme":
        return
    if int(zero["stage"]) != 3:
        raise UserError(f"{source}: offload_optimizer.device=nvme needs zero_optimization.stage=3, not {zero['stage']}")
    if not offload.get("nvme_path"):
        raise UserError(
            f"{source}: offload_optimizer.nvme_path is missing: name a folder on a local disk, for example "
            "deepspeed.config.zero_optimization.offload_optimizer.nvme_path=/local_nvme"
        )
    if offload.get("pipeline_read") or offload.get("pipeline_write"):
        raise UserError(f"{source}: offload_optimizer.pipeline_read and pipeline_write are not supported: remove them")


def own_folder(run_dir: str | None, nvme_path: str) -> str:
    """A run's own folder below `nvme_path`: DeepSpeed names files by rank and parameter alone, so two runs would mix."""
    run = hashlib.sha256(os.path.abspath(run_dir or "").encode()).hexdigest()[:12]
    return os.path.join(nvme_path, f"mft-{run}")


def ds_config(
    config: schema.DeepspeedConfig, train: schema.TrainingConfig, run_dir: str | None, precision: str, world: int
) -> Values | None:
    """The whole DeepSpeed configuration of a run; None without DeepSpeed."""
    if not is_on(config):
        return None
    values = given(config)
    for name in ("optimizer", "scheduler", "bf16", "fp16", "amp"):
        values.pop(name, None)
    micro = train.rows_at_once
    values |= {
        # One forward pass of one rank. How many make a step differs from step to step: the engine marks the last one.
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": 1,
        "train_batch_size": micro * world,
        "gradient_clipping": train.max_grad_norm,
        **FORCED,
    }
    if precision == "bf16":
        values["bf16"] = {"enabled": True, "check_grad_overflow": True}
        values.setdefault("data_types", {"grad_accum_dtype": "fp32"})
        values.setdefault("communication_data_type", "fp32")  # else every rank's gradient is added up in bf16
    elif precision == "fp16":
        values["fp16"] = {"enabled": True}
    zero = values["zero_optimization"]
    offload = zero.get("offload_optimizer") or {}
    if offload.get("device") == "nvme":
        offload["nvme_path"] = own_folder(run_dir, offload["nvme_path"])
    for name, value in list(zero.items()):  # transformers' way to leave sizes open
        if value == "auto":
            del zero[name]
    return values
