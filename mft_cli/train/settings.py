"""What decides the trained weights: the settings, and the contents of the files that they name."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import yaml

from mft_cli.config.schema.base import Values
from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.config.validate import read_yaml, to_plain
from mft_cli.errors import UserError, first_line
from mft_cli.files import digest_of, file_digest, flatten
from mft_cli.models.folder import TOKENIZER_FILES
from mft_cli.run_dir import RunDir

# Sections that change no number of the training: not part of the settings' digest, and free to change in a resume.
FREE = ("run_dir", "note", "log", "checkpoint", "launch", "deepspeed", "eval", "sweep")
TIMING_KEYS = {"train.epochs", "train.max_steps"}  # may change with checkpoint.retime=true


def decisive(config: TrainConfig) -> Values:
    """The settings that decide the trained weights. What a GPU chooses is written as a processor's: it rounds otherwise, no more."""
    values = {k: v for k, v in to_plain(config).items() if k not in FREE}
    return {**values, "train": {**values["train"], "micro_batch_size": config.train.rows_at_once}}


def settings_digest(config: TrainConfig) -> str:
    """Digest of the settings that decide the trained weights."""
    return digest_of(decisive(config))


def run_folder(config: TrainConfig) -> Path:
    """run_dir, else a name that the settings decide: the same command finds its own run again and goes on."""
    if config.run_dir:
        return Path(os.path.expanduser(config.run_dir))
    name = f"{config.method.name}-{config.data.name or 'data'}-s{config.seed}-{settings_digest(config)[:8]}"
    return Path("outputs") / name


def changed_keys(run: RunDir, config: TrainConfig) -> dict[str, tuple[object, object]]:
    """Key -> (value in the folder, value now), of the settings that decide the trained weights."""
    old, new = flatten(decisive(stored_config(run))), flatten(decisive(config))
    return {k: (old.get(k), new.get(k)) for k in sorted(old | new) if old.get(k) != new.get(k)}


def stored_config(run: RunDir) -> TrainConfig:
    """The folder's config.yaml. Raises UserError for a damaged one."""
    try:
        config: TrainConfig = read_yaml(TrainConfig, run.config)
    except (UserError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{run.config} cannot be read ({first_line(error)}): it tells which settings the run was started with; put back a "
            f"copy, or delete it to go on without that comparison"
        ) from None
    return config


def weights_sample(path: str) -> str | None:
    """Digest of the weight files at a local path: names, sizes, and 16 pieces of 64 KiB of each. None for a hub's id.

    Reading all of a large model would take minutes; two exports of the same shape differ almost everywhere.
    """
    local = Path(path).expanduser()
    files = sorted(local.glob("*.safetensors")) if local.is_dir() else [local] if local.is_file() else []
    return digest_of([(f.name, f.stat().st_size, pieces(f)) for f in files]) if files else None


def pieces(file: Path) -> str:
    size, step = file.stat().st_size, 2**16
    digest = hashlib.sha256()
    with open(file, "rb") as data:
        for i in range(16):
            data.seek(max(0, (size - step) * i // 15))
            digest.update(data.read(step))
    return digest.hexdigest()


def contents_digests(config: ModelConfig) -> dict[str, str]:
    """Key -> digest of the local files besides weights that it names and that decide tokens. None of a hub's id."""
    digests = {}
    folder = Path(config.path).expanduser()
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if files:
        digests["model.path"] = digest_of([(f.name, file_digest(f)) for f in files])
    if config.chat_template:
        digests["model.chat_template"] = file_digest(Path(config.chat_template))
    return digests
