"""The safetensors files of a model's folder, each whole."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.errors import UserError
from mft_cli.files import read_json


def weight_files(folder: Path, config: ModelConfig) -> list[Path]:
    """The safetensors files, each whole, and all that an index names. Raises UserError."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(read_settings(index, config).get("weight_map", {}).values())
        if missing := sorted(n for n in names if not (folder / n).is_file()):
            raise UserError(f"model.path={config.path}: {missing[0]} is missing ({len(missing)} of {len(names)} files)")
        files = sorted(folder / n for n in names)
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"model.path={config.path}: no .safetensors file in it, model.safetensors is missing; other weight formats are not loaded"
        )
    for file in files:
        if not is_whole(file):
            raise UserError(f"model.path={config.path}: {file.name} is cut off or damaged; copy or export it again")
    return files


def is_whole(file: Path) -> bool:
    """Whether a safetensors file has the size that its header says (8 bytes of length, JSON, tensors)."""
    size = file.stat().st_size
    try:
        with open(file, "rb") as data:
            length = struct.unpack("<Q", data.read(8))[0]
            header = json.loads(data.read(length)) if length <= size - 8 else None
    except (struct.error, ValueError):
        return False
    if header is None:
        return False
    ends = [t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


def read_settings(path: Path, config: ModelConfig) -> dict[str, Any]:
    """A JSON file of a model's folder. Raises UserError for one that is missing or not whole."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        raise UserError(
            f"model.path={config.path}: {path.name} is missing or not valid JSON; export it again"
        ) from None
    return value if isinstance(value, dict) else {}
