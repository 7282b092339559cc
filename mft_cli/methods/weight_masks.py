"""Packed weight masks, one bit a weight, and what is done with them: apply to a base model, inspect, compare.

A masks file is in safetensors' format: for each masked weight, by the name that the base model's files give it, a uint8
tensor in which bit i % 8 (least significant first) of byte i // 8 is 1 where the i-th entry in row-major order is kept. Its
header says which base model the masks belong to.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mft_cli import __version__
from mft_cli.config.model_path import model_path
from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.errors import UserError
from mft_cli.files import digest_of, read_json, replacing, write_json
from mft_cli.methods.masked_layers import kind_of, layer_of, masked
from mft_cli.models.checksums import write_sums
from mft_cli.models.loading import locate

FILE_NAME = "masks.mft"  # not *.safetensors: vLLM takes every such file of a folder for weights
FORMAT = "mft-masks-1"
COPIED = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken")  # what belongs to a model besides its weights


@dataclass
class Masks:
    """Masks by weight name, packed, and facts: base_model, base_digest, method, seed."""

    packed: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]
    facts: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """The mask of a weight: bool, True is kept."""
        return unpack(self.packed[name], self.shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed)

    def removed(self, name: str) -> int:
        return int(np.prod(self.shapes[name], dtype=np.int64)) - ones(self.packed[name])


def pack(mask: Tensor) -> Tensor:
    """bool, any shape -> uint8 [ceil(n / 8)]."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().reshape(-1).numpy(), bitorder="little"))


def unpack(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `pack`."""
    count = int(np.prod(shape, dtype=np.int64))
    bits = np.unpackbits(packed.numpy(), count=count, bitorder="little")
    return torch.from_numpy(bits.view(bool)).view(shape)


def ones(packed: Tensor) -> int:
    return int(np.bitwise_count(packed.numpy()).sum(dtype=np.int64))


def make(masks: Mapping[str, Tensor], facts: dict[str, Any]) -> Masks:
    return Masks({n: pack(m) for n, m in masks.items()}, {n: tuple(m.shape) for n, m in masks.items()}, facts)


def write(path: Path, masks: Masks) -> None:
    """The masks file, whole or not at all; the same masks are the same bytes."""
    texts = {"format": FORMAT, "shapes": json.dumps(masks.shapes), "facts": json.dumps(masks.facts)}
    with replacing(path) as temporary:
        save_file(masks.packed, temporary, metadata={**texts, "digest": contents_digest(masks.packed, texts)})
        sort_metadata(temporary)


def contents_digest(packed: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """Of a masks file, but for the digest itself: a flipped bit would remove another weight."""
    masks = {name: hashlib.sha256(mask.numpy().data).hexdigest() for name, mask in packed.items()}
    return digest_of([masks, {name: text for name, text in texts.items() if name != "digest"}])


def sort_metadata(file: Path) -> None:
    """safetensors writes a header's metadata in an order that differs from process to process."""
    with open(file, "r+b") as data:
        size = struct.unpack("<Q", data.read(8))[0]
        header = json.loads(data.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > size:
            raise RuntimeError(f"{file}: the sorted header has {len(text)} bytes instead of {size}")
        data.seek(8)
        data.write(text.ljust(size))


def read(path: Path) -> Masks:
    """A masks file, or the one in an export's folder. Raises UserError for another file and a damaged one."""
    file = Path(model_path(str(path), "FOLDER")) / FILE_NAME if path.is_dir() else path
    try:
        with safe_open(file, "pt") as handle:
            header = handle.metadata() or {}
            packed = {n: handle.get_tensor(n) for n in handle.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: is not a masks file ({error}); give one that a mask_finetune export holds") from None
    if header.get("format") != FORMAT:
        raise UserError(f"{file}: not a masks file of this version; expected {FORMAT}, it has {header.get('format')}")
    if "digest" in header and header["digest"] != contents_digest(packed, header):  # files of older versions have none
        raise UserError(
            f"{file} is damaged: its contents are not those that were written; export it again or put back a copy"
        )
    shapes = {n: tuple(s) for n, s in json.loads(header["shapes"]).items()}
    return Masks(packed, shapes, json.loads(header["facts"]))


# ---- the base model -------------------------------------------------------------------------------------------------


def base_folder(config: ModelConfig) -> Path:
    """The folder of the base model's files; a hub model's is in the hub's cache. Raises UserError."""
    located = locate(config)
    if Path(located).is_dir():
        return Path(located)
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", *(f"*{suffix}" for suffix in COPIED)]
    try:
        return Path(snapshot_download(located, revision=config.revision, allow_patterns=patterns))
    except Exception as error:  # hub and network errors, not found: all mean that it is not here
        raise UserError(f"model.path={config.path}: not in the hub's cache and unavailable ({error})") from None


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(folder):
        with safe_open(file, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118  not a dict
                yield name, handle.get_tensor(name)


def weights_digest(folder: Path) -> str:
    """Digest of all weights, the same however they are spread over files."""
    digests = sorted((name, tensor_digest(tensor)) for name, tensor in tensors(folder))
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    head = f"{tensor.dtype} {tuple(tensor.shape)}\n".encode()
    return hashlib.sha256(head + raw.tobytes()).hexdigest()


def stored_name(name: str, known: set[str]) -> str:
    """The name that a base model's files give a weight: the model's own, or without its first parts (GPT-2's hub files)."""
    for first in range(name.count(".")):
        shorter = name.split(".", first)[-1]
        if shorter in known:
            return shorter
    raise UserError(f"{name}: the base model's files hold no weight of this name, so no mask can be kept for it")


# ---- apply ----------------------------------------------------------------------------------------------------------


def write_masked_weights(base: Path, masks: Masks, out: Path) -> None:
    """The base's weight files with removed entries 0, file by file; every other byte of a tensor stays."""
    missing = set(masks)
    for file in weight_files(base):
        with safe_open(file, "pt") as handle:
            held = {n: handle.get_tensor(n) for n in handle.keys()}  # noqa: SIM118  not a dict
            metadata = handle.metadata() or {"format": "pt"}
        for name in missing & set(held):
            check_shape(name, held[name], masks)
            held[name] = masked(held[name], masks[name])
        missing -= set(held)
        save_file(held, out / file.name, metadata=metadata)
    if missing:
        raise UserError(f"{base}: no weight {min(missing)}; these masks belong to another model")


def check_shape(name: str, weight: Tensor, masks: Masks) -> None:
    if tuple(weight.shape) != masks.shapes[name]:
        raise UserError(f"{name} is {tuple(weight.shape)}, its mask {masks.shapes[name]}: masks of another model")


def copy_rest(base: Path, out: Path) -> None:
    """Configuration, tokenizer and code; what mft said of the base is not copied."""
    for file in sorted(base.iterdir()):
        if file.is_file() and file.suffix in COPIED and file.name != "mft.json" and not file.name.startswith("."):
            shutil.copyfile(file, out / file.name)


def check_base(base: Path, masks: Masks, what: str) -> None:
    """Raises UserError unless the folder's weights are those that the masks were trained on."""
    if weights_digest(base) != masks.facts.get("base_digest"):
        raise UserError(
            f"{what}: its weights are not those of {masks.facts.get('base_model')}, which these masks were trained on; "
            f"give that model"
        )


def write_folder(base: Path, masks: Masks, out: Path, finish: Callable[[Path], None]) -> None:
    """A whole model folder: masked weights, the base's other files, the masks. `finish` adds to it before it appears."""
    with replacing(out) as temporary:
        temporary.mkdir()
        copy_rest(base, temporary)
        write_masked_weights(base, masks, temporary)
        write(temporary / FILE_NAME, masks)
        finish(temporary)


def apply(base_path: str, masks_path: Path, out: Path) -> None:
    """`mft mask apply`. Raises UserError if `out` exists or the base is not the masks' own."""
    masks = read(masks_path)
    if out.exists():
        raise UserError(f"{out} exists already; name a new folder")
    base = base_folder(ModelConfig(path=base_path))
    check_base(base, masks, base_path)

    def finish(folder: Path) -> None:
        before = read_json(base / "mft.json") if (base / "mft.json").is_file() else {}
        kept = {k: before[k] for k in ("prompt", "derived_from") if k in before}
        write_json(
            folder / "mft.json", {"mft_version": __version__, **kept, "base_model": base_path, "masks": about(masks)}
        )
        write_sums(folder)

    write_folder(base, masks, out, finish)


def about(masks: Masks) -> dict[str, Any]:
    """What an export says of its masks."""
    removed, entries = totals(masks)
    return {
        "file": FILE_NAME, "base_digest": masks.facts.get("base_digest"), "removed": removed, "of": entries,
        "removed_share": removed / entries,
    }  # fmt: skip


def totals(masks: Masks) -> tuple[int, int]:
    """(removed, all) entries of the masked weights."""
    return sum(masks.removed(n) for n in masks), sum(int(np.prod(s, dtype=np.int64)) for s in masks.shapes.values())


# ---- inspect and compare --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sparsity:
    """One masked weight: which layer, which module in it, how much is removed."""

    name: str
    layer: int
    module: str
    kind: str
    removed: int
    entries: int

    @property
    def share(self) -> float:
        return self.removed / self.entries


def inspect(masks: Masks) -> list[Sparsity]:
    layers = []
    for name in masks:
        module = name.removesuffix(".weight")
        entries = int(np.prod(masks.shapes[name], dtype=np.int64))
        dotted = f".{module}"  # a name may begin with its layer's number
        layers.append(
            Sparsity(name, layer_of(dotted), module.rsplit(".", 1)[-1], kind_of(module), masks.removed(name), entries)
        )
    return sorted(layers, key=lambda s: s.layer)


@dataclass(frozen=True)
class Overlap:
    """Removed entries of two masks on the same weights. `chance`: what independent masks of these sizes would share.

    `variance` is that of the shared number, which is hypergeometric for one weight; of sums it is the sum.
    """

    name: str
    first: int
    second: int
    both: int
    chance: float
    variance: float

    @property
    def jaccard(self) -> float:
        either = self.first + self.second - self.both
        return self.both / either if either else 1.0

    @property
    def chance_jaccard(self) -> float:
        either = self.first + self.second - self.chance
        return self.chance / either if either else 1.0


def same_start(first: Masks, second: Masks) -> bool:
    """Whether both were trained from the same first scores: these are a function of seed and module."""
    kinds = [(m.facts.get("method") or {}).get("scores", "learned") for m in (first, second)]
    return kinds == ["learned"] * 2 and first.facts.get("seed") == second.facts.get("seed") is not None


def diff(first: Masks, second: Masks) -> list[Overlap]:
    """One entry for each weight that both mask, and their sum last, named `all`. Raises UserError if there is none."""
    overlaps = []
    for name in first:
        if name not in second.packed:
            continue
        if first.shapes[name] != second.shapes[name]:
            raise UserError(
                f"{name} is {first.shapes[name]} in one and {second.shapes[name]} in the other: other models"
            )
        entries = int(np.prod(first.shapes[name], dtype=np.int64))
        kept_by_one = ones(first.packed[name] | second.packed[name])
        a, b = first.removed(name), second.removed(name)
        chance = a * b / entries
        variance = chance * (entries - a) * (entries - b) / (entries * max(1, entries - 1))
        overlaps.append(Overlap(name, a, b, entries - kept_by_one, chance, variance))
    if not overlaps:
        raise UserError("the two mask no weight in common: masks of other layers, or of other models")
    total = [sum(getattr(o, f) for o in overlaps) for f in ("first", "second", "both", "chance", "variance")]
    return [*overlaps, Overlap("all", *total)]
