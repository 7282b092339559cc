"""What transformers and peft read from folders and the hub: the only module that calls their from_pretrained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from torch import nn

from mft_cli.console import quiet_transformers

if not torch.cuda.is_available():
    # transformers imports deepspeed, which would warn of what it guesses
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)  # fmt: skip


class Settings(TypedDict, total=False):
    """Of `read_model`; what is left out is transformers' default."""

    attn_implementation: str
    use_safetensors: bool
    local_files_only: bool
    gguf_file: str
    quantization_config: BitsAndBytesConfig
    device_map: dict[str, torch.device | None] | str


def read_model(
    path: str | Path, *, dtype: torch.dtype, trust: bool = False, revision: str | None = None, **settings: Unpack[Settings]
) -> PreTrainedModel:  # fmt: skip
    """A causal language model. Raises what transformers raises: OSError, ValueError, ImportError, RuntimeError and others."""
    with quiet_transformers():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=dtype, trust_remote_code=trust, revision=revision, **settings
        )
    return model


def plain_attention(model: PreTrainedModel) -> str:
    """What transformers itself takes for the model: sdpa, or eager where the architecture has no other, as gpt-oss."""
    return "sdpa" if model._supports_sdpa else "eager"


def read_tokenizer(
    path: str, *, trust: bool = False, revision: str | None = None, gguf_file: str | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer; a slow one where there is no fast one. Raises as `read_model`."""
    with quiet_transformers():
        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(  # type: ignore[assignment]
            path, revision=revision, trust_remote_code=trust, **({"gguf_file": gguf_file} if gguf_file else {})
        )
    return tokenizer


def read_config(path: str, *, trust: bool = False, revision: str | None = None) -> PretrainedConfig:
    """A model's config.json. Raises as `read_model`."""
    with quiet_transformers():
        config: PretrainedConfig = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust)
    return config


def read_adapted(model: PreTrainedModel, adapter: Path) -> nn.Module:
    """`model` with the adapter of a folder, not merged and not to be trained. Raises as `read_model`; ImportError without peft."""
    from peft import PeftModel

    wrapped: nn.Module = PeftModel.from_pretrained(
        model, str(adapter), is_trainable=False, autocast_adapter_dtype=False
    )
    return wrapped
