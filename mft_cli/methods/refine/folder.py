"""The head next to an exported backbone: head/config.json and head/model.safetensors."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mft_cli.errors import UserError
from mft_cli.files import digest_of, file_digest, read_json, write_json
from mft_cli.methods.refine.head import HeadSettings, RefineHead

FOLDER = "head"


def write_head(folder: Path, settings: HeadSettings, tensors: dict[str, Tensor]) -> None:
    """Writes into `folder`, which is made."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    write_json(folder / "config.json", asdict(settings))
    save_file({n: t.detach().to("cpu").contiguous() for n, t in tensors.items()}, folder / "model.safetensors")


def read_settings(export: Path) -> HeadSettings:
    """Raises UserError where no head lies next to the model, or its file is not readable."""
    path = export / FOLDER / "config.json"
    if not path.is_file():
        raise UserError(
            f"model.path={export}: eval.decode needs the head that method=chunk_refine exports next to the model "
            f"({FOLDER}/), and there is none; use eval.decode=plain"
        )
    try:
        return HeadSettings(**read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not the settings of a refinement head ({error}); export the run again") from None


def read_head(export: Path, into: RefineHead | None = None) -> RefineHead:
    """The head of an export, or its weights into a head of the same shape. Raises UserError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    head = into if into is not None else RefineHead(read_settings(export))
    path = export / FOLDER / "model.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); export the run again") from None
    here = head.state_dict()
    if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in here.items()}:
        raise UserError(
            f"{path}: its head has another shape than the settings say; set method.width, method.layers, "
            f"method.chunk_size and method.context as in {path.with_name('config.json')}, or start from another model"
        )
    with torch.no_grad():
        head.load_state_dict(tensors)
    return head


def open_head(export: Path, model: PreTrainedModel, steps: int | None) -> RefineHead:
    """The head of an export for decoding with its backbone; `steps`: refinement steps at most, None: the export's."""
    weight = next(model.parameters())
    head = read_head(export).to(weight.dtype).to(weight.device).eval()
    if steps is not None:
        head.settings = replace(head.settings, max_steps=steps)
    return head


def head_digest(export: Path) -> str:
    """Of settings and weights: which head a completion belongs to."""
    read_settings(export)
    return digest_of([file_digest(export / FOLDER / n) for n in ("config.json", "model.safetensors")])
