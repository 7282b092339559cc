"""The sizes of a model from its configuration alone: a model without storage (meta device) is built and counted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import PreTrainedModel

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.console import quiet_transformers
from mft_cli.errors import UserError
from mft_cli.models.loading import flops_per_token, locate
from mft_cli.models.vocabulary import table
from mft_cli.plan.presets import ARCHITECTURES


@dataclass(frozen=True)
class Linear:
    """A linear layer of the body: its full name, and [rows, columns] of its weight."""

    name: str
    rows: int
    columns: int

    @property
    def weights(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class Shape:
    """What the formulas need to know of a model."""

    source: str
    parameters: int
    vocabulary: int
    width: int  # D, hidden size
    inner: int  # I, width of the feed-forward layer
    layers: int  # L
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    gated: bool  # down(act(gate) * up), as Llama
    linears: tuple[Linear, ...]  # of the body; the head is not among them
    model: Any  # without storage

    @property
    def queries(self) -> int:
        """A: width of the queries and of attention's output."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """K: width of the keys, and of the values."""
        return self.kv_heads * self.head_dim

    @property
    def head(self) -> int:
        """Weights of the output layer, V x D."""
        return self.vocabulary * self.width

    def flops_per_token(self, length: float) -> float:
        """models.flops_per_token, the formula of the `mfu` that a training logs."""
        return flops_per_token(self.model, length)


def read_shape(config: ModelConfig, arch: str | None) -> Shape:
    """From arch=, a folder, the table of presets, or the hub's cache, in this order. Raises UserError."""
    if arch is not None:
        return measure(from_arch(arch), f"arch={arch}")
    if config.path in ARCHITECTURES and not Path(config.path).expanduser().is_dir():
        return measure(ARCHITECTURES[config.path], f"the public config.json of {config.path} (table of mft plan)")
    path = locate(config)
    try:
        from mft_cli.models.pretrained import read_config

        settings = read_config(path, revision=config.revision, trust=config.trust_remote_code)
    except Exception:  # OSError, ValueError, hub errors: all mean that there is no readable configuration
        raise UserError(
            f"model.path={config.path}: its config.json is neither in the hub's cache here nor in the table of mft plan, "
            f"which downloads nothing; give arch=FILE with the model's config.json, or arch='{{model_type: llama, ...}}'"
        ) from None
    return measure(settings, f"config.json of {path}")


def from_arch(arch: str) -> dict[str, Any]:
    """arch=FILE, arch=FOLDER with a config.json, or the numbers themselves as YAML or JSON."""
    path = Path(arch).expanduser()
    if not arch.lstrip().startswith("{"):
        file = path / "config.json" if path.is_dir() else path
        if not file.is_file():
            raise UserError(f"arch={arch}: no such file; give a config.json or '{{model_type: llama, ...}}'")
        arch_text = file.read_text(encoding="utf-8")
    else:
        arch_text = arch
    try:
        values = yaml.safe_load(arch_text)
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict) or "model_type" not in values:
        raise UserError(f"arch={arch}: expected a model's configuration with model_type, hidden_size, ...")
    return values


def measure(source: Any, origin: str) -> Shape:
    """Builds the model on the meta device and counts. `source` is a transformers configuration or its numbers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.for_model(**source) if isinstance(source, dict) else source
        with quiet_transformers(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        return shape_of(model, origin)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        text = json.dumps(source) if isinstance(source, dict) else origin
        raise UserError(f"{text}: no causal language model can be built from this configuration ({error})") from None


def shape_of(model: PreTrainedModel, origin: str) -> Shape:
    config = model.config
    embedding, head = (table(e) for e in (model.get_input_embeddings(), model.get_output_embeddings()))
    heads = int(config.num_attention_heads)
    body = getattr(model, model.base_model_prefix)
    linears = tuple(
        Linear(name, m.weight.shape[0], m.weight.shape[1])
        for name, m in body.named_modules()
        if isinstance(m, nn.Linear)
    )
    return Shape(
        source=origin, parameters=sum(p.numel() for p in model.parameters()), vocabulary=head.shape[0],
        width=int(config.hidden_size), inner=int(config.intermediate_size), layers=int(config.num_hidden_layers),
        heads=heads, kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads), tied=head is embedding,
        gated=any(x.name.endswith("gate_proj") for x in linears), linears=linears, model=model,
    )  # fmt: skip
