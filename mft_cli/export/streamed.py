"""The export of a model that no rank holds whole: tensor by tensor into sharded safetensors, then loaded again."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from mft_cli.console import quiet_transformers
from mft_cli.distributed.ranks import Ranks
from mft_cli.export.card import ExportFacts, write_facts
from mft_cli.export.generation import generation_settings
from mft_cli.export.whole import ExportSettings
from mft_cli.files import replacing, write_json
from mft_cli.models.pretrained import plain_attention, read_model

SHARD_BYTES = 5 * 10**9
Written = dict[str, tuple[int, str | None]]  # tensor -> bytes, and the sha256 of its values where they are known


class SavesItself(Protocol):
    """A configuration, a tokenizer."""

    def save_pretrained(self, save_directory: str) -> object: ...


def export_streamed(
    folder: Path, model: PreTrainedModel, tensor: Callable[[str], Tensor], ranks: Ranks, expected: Tensor | None,
    probe: Tensor, settings: ExportSettings, restored: range = range(0), names: list[str] | None = None,
) -> None:  # fmt: skip
    """Write the model as a folder that from_pretrained loads. All ranks have to call; rank 0 writes.

    `tensor(name)` gives a whole tensor, one at a time, of `names`, or of the model's own; `expected` are the trained
    model's logits [1, T, V] of the tokens `probe` [1, T], or None where the weights are an earlier step's; `restored` are
    rows of the head that `tensor` gives as they were before training, whose logits are not compared.
    The folder appears only after its tensors were counted and it was loaded again. Raises RuntimeError if they differ.
    """
    pieces = exported(model, tensor, settings.vocabulary, settings.dtype, names)
    if ranks.rank:
        for _ in pieces:  # takes part in gathering
            pass
        ranks.barrier()
        return
    config = copy.deepcopy(model.config)
    config._attn_implementation = plain_attention(model)
    config.vocab_size, config.dtype, config.architectures = settings.vocabulary, settings.dtype, [type(model).__name__]
    try:
        with replacing(folder) as temporary:
            written = write_shards(temporary, pieces)
            generation = generation_settings(model, settings.tokenizer, settings.end_ids)
            describe_folder(temporary, settings.facts, [config, generation, settings.tokenizer])
            verify(temporary, written, probe, expected, restored, settings.dtype, settings.trust)
            if settings.write_extra_files:
                # the logits compared above were those of the model with its adapter on
                settings.write_extra_files(temporary, probe, None)
    finally:
        ranks.barrier()


def describe_folder(folder: Path, facts: ExportFacts, parts: list[SavesItself]) -> None:
    """Everything but the weights: `parts` that save themselves, mft.json and the model card."""
    with quiet_transformers():
        for part in parts:
            part.save_pretrained(str(folder))
    write_facts(folder, facts)


def exported(
    model: PreTrainedModel,
    tensor: Callable[[str], Tensor],
    vocabulary: int,
    dtype: torch.dtype,
    names: list[str] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of everything that is saved: a tied head once, embeddings cut to the vocabulary."""
    ends = {n for n, m in model.named_modules() if m in (model.get_input_embeddings(), model.get_output_embeddings())}
    head = next(n for n, m in model.named_modules() if m is model.get_output_embeddings())
    for name in names or model.state_dict():
        if model.config.tie_word_embeddings and name == f"{head}.weight":
            continue
        value = tensor(name)
        if name.rpartition(".")[0] in ends:
            value = value[:vocabulary]
        yield name, value.to("cpu", dtype if value.is_floating_point() else value.dtype)


def values_digest(tensor: Tensor) -> str:
    """sha256 of a tensor's bytes."""
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def write_shards(folder: Path, pieces: Iterator[tuple[str, Tensor]]) -> Written:
    """Files of SHARD_BYTES, named and indexed as transformers does. Returns what was gathered, tensor by tensor."""
    folder.mkdir(exist_ok=True)
    digests: dict[str, str] = {}
    sizes: dict[str, int] = {}
    shards: list[list[str]] = [[]]
    held: dict[str, Tensor] = {}

    def flush() -> None:
        save_file(held, folder / f"part-{len(shards)}", metadata={"format": "pt"})
        held.clear()

    for name, value in pieces:
        if held and sum(sizes[n] for n in held) + value.nbytes > SHARD_BYTES:
            flush()
            shards.append([])
        held[name] = value.contiguous().clone()
        sizes[name], digests[name] = value.nbytes, values_digest(value)
        shards[-1].append(name)
    flush()
    places = {}
    for i, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        os.replace(folder / f"part-{i}", folder / file)
        places.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        write_json(folder / "model.safetensors.index.json", index)
    return {n: (size, digests[n]) for n, size in sizes.items()}


def verify_tensors(folder: Path, written: Written) -> None:
    """The tensors on the disk are those that were written, read one at a time. Raises RuntimeError."""
    on_disk: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118
                value = handle.get_tensor(name)
                size, digest = written.get(name, (-1, None))
                if size >= 0 and (value.nbytes != size or (digest is not None and values_digest(value) != digest)):
                    raise RuntimeError(f"{file}: {name} is not what was written")
                on_disk.add(name)
    if on_disk != written.keys():
        differ = sorted(on_disk ^ written.keys())
        raise RuntimeError(
            f"{folder}: {len(on_disk)} tensors on the disk, {len(written)} were written ({differ[0]} ...)"
        )


def verify(
    folder: Path, written: Written, probe: Tensor, expected: Tensor | None, restored: range,
    dtype: torch.dtype, trust: bool,
) -> None:  # fmt: skip
    """Tensor count, bytes and values, tied embeddings, and the logits of the folder loaded again.

    In the dtype of its files a model is loaded as a map of them: its pages are read as the forward pass comes to them and
    are dropped again when memory is short, so a model larger than the memory is compared, too.
    """
    verify_tensors(folder, written)
    again = read_model(folder, dtype=dtype, trust=trust).eval()
    with torch.no_grad():
        logits = again(probe.cpu()).logits.float()
    tied = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    if again.config.tie_word_embeddings and not tied:
        raise RuntimeError(f"{folder}: the export's embeddings are no longer tied")
    if expected is None:
        return
    close = 1e-4 if dtype == torch.float32 else 5e-2
    compared = [i for i in range(logits.shape[-1]) if i not in restored]
    reloaded, trained = logits[..., compared], expected.float().cpu()[..., compared]
    worst = float((reloaded - trained).abs().max() / trained.abs().max().clamp(min=1e-6))
    if not worst <= close:
        raise RuntimeError(f"{folder}: the reloaded export's logits differ from the trained model's by {worst:.2g}")
