"""Models and tokenizers: a folder, a hub id, or a GGUF file, which is converted once into a folder of the cache."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerFast

from mft_cli.config.model_path import kind_of, no_model
from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.console import Logger
from mft_cli.data.chat_templates import read_template, settled
from mft_cli.distributed.zero import numel_of
from mft_cli.errors import UserError, first_line
from mft_cli.files import read_object
from mft_cli.models.gguf import convert_gguf
from mft_cli.models.new_model import make_new
from mft_cli.models.packages import package_file
from mft_cli.models.pretrained import Settings, read_model, read_tokenizer
from mft_cli.models.vocabulary import table
from mft_cli.models.weight_files import read_settings, weight_files


def locate(config: ModelConfig, log: Logger = print) -> str:
    """A folder or hub id that from_pretrained takes. Converts a GGUF file first. Raises UserError."""
    path = config.path
    if path == "new:chains":
        return str(make_new(config.new, log))
    if path.startswith("package:"):
        path = str(package_file(path.removeprefix("package:"), log))
    if path.endswith(".gguf"):
        return str(convert_gguf(Path(path).expanduser(), log))
    folder = Path(path).expanduser()
    if folder.is_dir():
        kind = kind_of(folder)
        if kind != "model":
            if kind == "adapter":
                raise UserError(
                    f"model.path={config.path}: an adapter, not a model; peft=lora trains on from it, everything else "
                    f"takes the merged model (an export of mft has it one folder up)"
                )
            raise no_model(config.path, folder)
        if not any(folder.glob("*.safetensors")):
            raise UserError(
                f"model.path={config.path}: no .safetensors file in it; other weight formats are not loaded"
            )
        return str(folder)
    return path


# ---- loading --------------------------------------------------------------------------------------------------------


def load_tokenizer(path: str, config: ModelConfig) -> PreTrainedTokenizerFast:
    """The fast tokenizer, right-padded, with a padding token. Raises UserError."""
    try:
        tokenizer = read_tokenizer(path, revision=config.revision, trust=config.trust_remote_code)
    except Exception as error:  # OSError, ValueError, hub errors: all mean that this is not a loadable tokenizer
        raise UserError(cannot_load("tokenizer", config, error)) from None
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"model.path={config.path}: its tokenizer has no fast version, which gives the token offsets")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    template = read_template(config.chat_template) if config.chat_template else tokenizer.chat_template
    if isinstance(template, str):
        tokenizer.chat_template = settled(template, config)
    return tokenizer


def held_dtype(path: str, config: ModelConfig, computed: torch.dtype) -> torch.dtype:
    """What a model that computes in `computed` is loaded in: that, if its files hold nothing else and so nothing is rounded,
    else fp32. fp32 for a model of the hub that is not downloaded yet, too."""
    folder = Path(path) if Path(path).is_dir() else cached_snapshot(path, config.revision)
    if folder is None:
        return torch.float32
    names = {torch.bfloat16: "BF16", torch.float16: "F16"}
    stored = {dtype for file in weight_files(folder, config) for dtype in dtypes_in(file)}
    return computed if stored == {names.get(computed)} else torch.float32


def cached_snapshot(name: str, revision: str | None) -> Path | None:
    """The folder of a hub model in the hub's cache; None where it is not there. Nobody is asked."""
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None


def dtypes_in(file: Path) -> set[str]:
    """Of the tensors of a safetensors file, by its names."""
    with safe_open(file, "pt") as tensors:
        return {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118  not a dict


def load_model(
    path: str, config: ModelConfig, *, dtype: torch.dtype, attention: str, quantization: BitsAndBytesConfig | None = None,
    device: torch.device | None = None,
) -> PreTrainedModel:  # fmt: skip
    """A causal language model, on the CPU unless it is quantized (on `device`). One whose code takes transformers' own
    attention alone is loaded with that: models.probes.settle tells. Raises UserError.
    """
    folder = Path(path)
    if folder.is_dir():
        weight_files(folder, config)
        if (folder / "generation_config.json").is_file():  # transformers would go on without a damaged one's end tokens
            read_settings(folder / "generation_config.json", config)
    settings: Settings = {"use_safetensors": True}
    if quantization is not None:
        settings |= {"quantization_config": quantization, "device_map": {"": device}}
    read = partial(read_model, path, revision=config.revision, trust=config.trust_remote_code, dtype=dtype, **settings)
    try:
        return with_attention(read, attention)
    except Exception as error:
        raise UserError(cannot_load("model", config, error)) from None


def with_attention(read: Callable[..., PreTrainedModel], attention: str) -> PreTrainedModel:
    try:
        return read(attn_implementation=attention)
    except Exception as error:
        if attention not in str(error):
            raise
        return read()  # its code chooses among transformers' own by name


def cannot_load(what: str, config: ModelConfig, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return custom_code_refusal(config.path)
    reason = first_line(error)
    return f"model.path={config.path}: the {what} cannot be loaded ({reason}); give a folder, a hub id or a .gguf file"


def custom_code_refusal(path: str) -> str:
    """Why a model that brings code is not loaded, and what it would run: the files that its `auto_map` names."""
    named: list[str] = []
    for file in ("config.json", "tokenizer_config.json"):
        with contextlib.suppress(OSError, ValueError):
            named += str(read_object(Path(path).expanduser() / file).get("auto_map", {})).replace("--", " ").split("'")
    modules = sorted({f"{match[1]}.py" for text in named if (match := re.fullmatch(r"(?:.*\s)?(\w+)\.\w+", text))})
    what = ", ".join(modules) if modules else "see the Python files of its repository"
    return (
        f"model.path={path}: this model runs Python code of its own ({what}), with all your rights; read it, and where you "
        f"trust it set model.trust_remote_code=true"
    )


def flops_per_token(model: nn.Module, length: float, frozen: float = 6.0) -> float:
    """Floating-point operations of forward and backward for a token after `length` / 2 others on average.

    6 per weight that multiplies (embeddings only look up), `frozen` where it does not train, and 12 x layers x width x
    context for attention's products (Chowdhery et al. 2022, PaLM, appendix B), causal attention counted at half.
    """
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    embedding, head = table(model.get_input_embeddings()), table(model.get_output_embeddings())  # type: ignore[operator]
    each = [(6.0 if p.requires_grad else frozen) * numel_of(p) for p in model.parameters() if p is not embedding]
    weights = sum(each) + (
        0 if head is not embedding else (6.0 if embedding.requires_grad else frozen) * numel_of(head)
    )
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    return weights + 6.0 * layers * width * length
