"""Checkpoints: written beside, flushed, renamed, and verified by digest before anything is resumed from them."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mft_cli.errors import UserError
from mft_cli.run_dir import file_digest, write_json

PATTERN = re.compile(r"^step-(\d{8})$")
MANIFEST = "manifest.json"


@dataclass
class Checkpoint:
    """What a checkpoint holds: weights in fp32, optimizer tensors, and the trainer's small numbers."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    trainer: dict[str, Any]


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def steps_in(root: Path) -> list[int]:
    """Steps of the complete-looking checkpoints under `root`, newest first."""
    if not root.is_dir():
        return []
    return sorted((int(m[1]) for p in root.iterdir() if (m := PATTERN.match(p.name))), reverse=True)


def save(root: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write `step-<step>`. On any failure the temporary folder is removed and older checkpoints are untouched.

    Raises UserError when the disk is full.
    """
    final = step_folder(root, step)
    temporary = root / f".tmp-{final.name}-{os.getpid()}"
    try:
        sweep(root)
        temporary.mkdir(parents=True)
        save_tensors(checkpoint.weights, temporary / "model.safetensors")
        save_tensors(checkpoint.moments, temporary / "optimizer.safetensors")
        write_json(temporary / "trainer.json", checkpoint.trainer)
        files = sorted(temporary.iterdir())
        manifest = {p.name: {"bytes": p.stat().st_size, "sha256": file_digest(p)} for p in files}
        write_json(temporary / MANIFEST, {"step": step, "files": manifest})
        flush_folder(temporary)
        if final.exists():  # the same step saved again, after a resume from an older checkpoint
            discard(final)
        os.replace(temporary, final)
        flush_folder(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_disk_full(error):
            raise UserError(
                f"{root}: no space left for the checkpoint of step {step}; the last good checkpoint stays; free space "
                f"and start the same command again"
            ) from None
        raise
    return final


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def is_disk_full(error: Exception) -> bool:
    """safetensors tells a full disk in words only."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def flush_folder(folder: Path) -> None:
    """A rename is on the disk only once the folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(folder: Path) -> None:
    """Renamed first: a kill in the middle of removing leaves nothing that looks like a checkpoint."""
    doomed = folder.with_name(f".old-{folder.name}-{os.getpid()}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove what killed runs left behind."""
    for path in root.glob(".tmp-*") if root.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)
    for path in root.glob(".old-*") if root.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)


def verify(folder: Path) -> str | None:
    """None if every file has the manifest's size and digest, else what is wrong."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, facts in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != facts["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}"
            if file_digest(path) != facts["sha256"]:
                return f"{name} does not have the digest that was written"
    except (OSError, ValueError, KeyError) as error:
        return f"its manifest or a file cannot be read ({error})"
    return None


def load(folder: Path) -> Checkpoint:
    trainer = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
    return Checkpoint(load_file(folder / "model.safetensors"), load_file(folder / "optimizer.safetensors"), trainer)


def newest_verified(root: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are all as written; damaged ones are named and passed over."""
    for step in steps_in(root):
        folder = step_folder(root, step)
        problem = verify(folder)
        if problem is None:
            return folder
        say(f"checkpoint {folder} is damaged ({problem}); trying the one before")
    return None


def thin(root: Path, keep_last: int, best: int | None) -> None:
    """Remove all but the newest `keep_last` checkpoints and the best one."""
    for step in steps_in(root)[keep_last:]:
        if step != best:
            discard(step_folder(root, step))
