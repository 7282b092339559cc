"""Checkpoints: written under another name, flushed, renamed, and verified by digest before anything is resumed from them.

Every rank writes the parts of the parameters that it holds, whatever the engine; the manifest says where each part lies
in its whole. So a checkpoint can be read by any number of ranks, under any ZeRO stage, each reading only what it needs.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mft_cli.console import Logger
from mft_cli.distributed.ranks import Ranks
from mft_cli.errors import UserError
from mft_cli.files import (
    digest_of,
    discard,
    disk_problem,
    file_digest,
    flush,
    put_in_place,
    read_json,
    remove,
    remove_leftovers,
    temporary_for,
    write_json,
)

PATTERN = re.compile(r"^step-(\d{8})$")
MANIFEST = "manifest.json"
# Tensors of a rank are written in files of about this size: so much is copied to the CPU at once.
FILE_BYTES = 4 * 2**30


class Part(TypedDict):
    """Where a rank's elements lie in the flattened whole of `shape`."""

    start: int
    shape: list[int]


class FileFacts(TypedDict, total=False):
    """What manifest.json says of a file; `parts` of those tensors that are not whole."""

    bytes: int
    sha256: str
    parts: dict[str, Part]


Facts = dict[str, FileFacts]  # file name -> facts


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def steps_in(root: Path) -> list[int]:
    """Steps of the complete-looking checkpoints under `root`, newest first."""
    if not root.is_dir():
        return []
    return sorted((int(m[1]) for p in root.iterdir() if (m := PATTERN.match(p.name))), reverse=True)


def save(
    root: Path, step: int, shards: Iterable[Shard], trainer: Mapping[str, object], ranks: Ranks | None = None
) -> Path:
    """Write `step-<step>`; all ranks have to call. `shards` are this rank's, `trainer` the small numbers.

    On any failure the temporary folder is removed and older checkpoints are untouched. Raises UserError on every rank
    when a disk is full.
    """
    ranks = ranks or Ranks()
    final = step_folder(root, step)
    temporary = ranks.from_first(temporary_for(final))
    with in_step(ranks, temporary, step):
        if ranks.rank == 0:
            remove_leftovers(root)
            temporary.mkdir(parents=True)
    written: Facts = {}
    with in_step(ranks, temporary, step):
        written = write_shards(temporary, shards, ranks.rank, ranks.world)
    facts = {file: of_file for of_rank in ranks.gather(written) for file, of_file in of_rank.items()}
    with in_step(ranks, temporary, step):
        if ranks.rank == 0:
            write_json(temporary / "trainer.json", trainer)
            facts["trainer.json"] = file_facts(temporary / "trainer.json")
            write_json(temporary / MANIFEST, {"step": step, "files": facts, "digest": digest_of(facts)})
            put_in_place(temporary, final)  # the same step may be there, after a resume from an older checkpoint
    return final


@contextlib.contextmanager
def in_step(ranks: Ranks, temporary: Path, step: int) -> Iterator[None]:
    """One part of saving, after which all ranks know whether it went well on all of them."""
    fault: Exception | None = None
    try:
        yield
    except (OSError, SafetensorError) as error:
        fault = error
    outcomes = ranks.gather((fault is not None, disk_problem(fault) if fault else None))
    if not any(failed for failed, _ in outcomes):
        return
    if ranks.rank == 0:
        remove(temporary)
    if problem := next((problem for _, problem in outcomes if problem), None):
        raise UserError(
            f"{temporary.parent}: {problem}: the checkpoint of step {step} is not written; the last good one stays; free "
            f"space or repair that, then start the same command again"
        ) from None
    raise fault or OSError(f"{temporary.parent}: another rank could not write the checkpoint of step {step}")


def write_shards(folder: Path, shards: Iterable[Shard], rank: int, world: int) -> Facts:
    """Weights into model*.safetensors, optimizer tensors into optimizer*.safetensors. Returns the manifest's facts."""
    facts: Facts = {}
    suffix = f"-r{rank}" if world > 1 else ""
    model, optimizer = (Writer(folder, f"{kind}{suffix}", facts) for kind in ("model", "optimizer"))
    for shard in shards:
        start = None if shard.whole else shard.start
        model.add(shard.name, shard.weight, shard.shape, start)
        for kind, tensor in shard.moments.items():
            scalar = tensor.numel() == 1 and shard.weight.numel() != 1
            optimizer.add(
                f"{shard.name}::{kind}", tensor, () if tensor.ndim == 0 else shard.shape, None if scalar else start
            )
    for writer in (model, optimizer):
        writer.close(may_be_empty=rank > 0)
    return facts


class Writer:
    """Collects tensors and writes them in files of FILE_BYTES: `stem.safetensors`, `stem-1.safetensors`, ..."""

    def __init__(self, folder: Path, stem: str, facts: Facts):
        self.folder, self.stem, self.facts = folder, stem, facts
        self.tensors: dict[str, Tensor] = {}
        self.parts: dict[str, Part] = {}
        self.bytes = self.files = 0

    def add(self, name: str, tensor: Tensor, shape: tuple[int, ...], start: int | None) -> None:
        # scalars copied: a step count that several parameters share would be refused
        self.tensors[name] = (tensor.detach().clone() if tensor.numel() == 1 else tensor.detach()).cpu().contiguous()
        if start is not None:
            self.parts[name] = {"start": start, "shape": list(shape)}
        self.bytes += tensor.numel() * tensor.element_size()
        if self.bytes >= FILE_BYTES:
            self.write()

    def write(self) -> None:
        path = self.folder / f"{self.stem}{f'-{self.files}' if self.files else ''}.safetensors"
        save_file(self.tensors, path)
        flush(path)
        self.facts[path.name] = file_facts(path)
        if self.parts:
            self.facts[path.name]["parts"] = self.parts
        self.tensors, self.parts, self.bytes, self.files = {}, {}, 0, self.files + 1

    def close(self, may_be_empty: bool) -> None:
        """What is left is written; the first rank's files exist even with nothing in them."""
        if self.tensors or not (self.files or may_be_empty):
            self.write()


def file_facts(path: Path) -> FileFacts:
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def verify(folder: Path) -> str | None:
    """None if every file has the manifest's size and digest, else what is wrong."""
    try:
        manifest = read_json(folder / MANIFEST)
        if manifest.get("digest", digest_of(manifest["files"])) != digest_of(manifest["files"]):
            return f"{MANIFEST} does not have the digest that was written"
        if (step := manifest.get("step")) is not None and folder.name != step_folder(folder, step).name:
            return f"it is the checkpoint of step {step} under another name"
        for name, facts in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != facts["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}"
            if file_digest(path) != facts["sha256"]:
                return f"{name} does not have the digest that was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest or a file cannot be read ({error})"
    return None


class LossScaleState(TypedDict):
    scale: float
    run: int  # good steps since it was last halved


class EngineState(TypedDict):
    """What an engine saves besides tensors."""

    loss_scale: LossScaleState | None  # of fp16


class Trainer(TypedDict):
    """trainer.json."""

    position: dict[str, float | None]  # train.state.TrainerState
    engine: EngineState
    hardware: Mapping[str, object]
    logged: dict[str, str]  # run_dir.RunDir.logged; older checkpoints have none


class Stored:
    """A checkpoint on the disk, read part by part: the tensors may be larger than the memory."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.trainer: Trainer = read_json(folder / "trainer.json")
        manifest: Facts = read_json(folder / MANIFEST)["files"]
        self.files = {name: safe_open(folder / name, "pt") for name in manifest if name.endswith(".safetensors")}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.places: dict[str, list[tuple[str, int, int]]] = {}  # tensor -> (file, first element, elements)
        for file, handle in self.files.items():
            parts = manifest[file].get("parts", {})
            for name in handle.keys():  # noqa: SIM118  not a dict
                stored_shape = list(handle.get_slice(name).get_shape())
                part = parts.get(name, {"start": 0, "shape": stored_shape})
                self.shapes[name] = tuple(part["shape"])
                self.places.setdefault(name, []).append((file, part["start"], math.prod(stored_shape)))

    @property
    def weights(self) -> list[str]:
        """Names of the stored parameters and buffers."""
        return [name for name in self.shapes if "::" not in name]

    @property
    def stepped(self) -> bool:
        """Whether the optimizer had stepped."""
        return any("::" in name for name in self.shapes)

    def read(self, name: str, start: int, count: int) -> Tensor:
        """Elements start .. start + count of the flattened tensor; zeros after its end. Raises KeyError."""
        out: Tensor | None = None
        for file, first, length in self.places[name]:
            low, high = max(start, first), min(start + count, first + length)
            if low >= high:
                continue
            shape = self.files[file].get_slice(name).get_shape()
            if len(shape) == 1:
                part = self.files[file].get_slice(name)[low - first : high - first]
            else:
                part = self.files[file].get_tensor(name).reshape(-1)[low - first : high - first]
            if out is None:
                out = torch.zeros(count, dtype=part.dtype)
            out[low - start : high - start] = part
        return torch.zeros(count) if out is None else out

    def tensor(self, name: str) -> Tensor:
        """The whole tensor. Raises KeyError."""
        shape = self.shapes[name]
        return self.read(name, 0, math.prod(shape)).view(shape)


def newest_verified(root: Path, log: Logger) -> Path | None:
    """The newest checkpoint whose files are all as written; damaged ones are named and passed over. None without any.

    Raises UserError if all are damaged: to start from the first step would be to lose the work without a word. What a kill
    leaves of a first save is not a checkpoint (steps_in): the name is given to whole ones only.
    """
    damaged: list[str] = []
    for step in steps_in(root):
        folder = step_folder(root, step)
        problem = verify(folder)
        if problem is None:
            for line in damaged:
                log(f"checkpoint {line} is damaged and passed over")
            return folder
        damaged.append(f"{folder.name} ({problem})")
    if damaged:
        raise UserError(
            f"{root}: no checkpoint can be used: damaged {'; '.join(damaged)}; put back a copy, or start from the first step "
            f"by moving them away, with another run_dir, or with checkpoint.resume=false"
        )
    return None


def prune(root: Path, keep_last: int, best: int | None) -> None:
    """Remove all but the newest `keep_last` checkpoints and the best one."""
    for step in steps_in(root)[keep_last:]:
        if step != best:
            discard(step_folder(root, step))


Read = Callable[[str, int, int], Tensor]  # (name, start, count) -> elements of a flattened stored tensor


@dataclass
class Shard:
    """This rank's part of a trained parameter: whole, or the elements [n] from `start` on of the flattened whole."""

    name: str
    weight: Tensor
    shape: tuple[int, ...]  # of the whole parameter
    start: int = 0
    moments: dict[str, Tensor] = field(default_factory=dict)  # optimizer tensors of the same elements; scalars whole

    @property
    def whole(self) -> bool:
        return tuple(self.weight.shape) == self.shape
