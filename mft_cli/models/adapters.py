"""LoRA adapters through the peft library: put on a model, drawn, gone on from, saved and merged.

Only adapters and the rows of new tokens train. The first weights are a function of (seed, layer), dropout is one of
(seed, epoch, example, position, layer, feature): ranks, packing and resumes change no number.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from mft_cli.config.model_path import ADAPTER, ADAPTER_WEIGHTS
from mft_cli.config.schema.launching import PeftConfig
from mft_cli.data.pack import Batch
from mft_cli.distributed.zero import gathered, partition_rest, read_inside
from mft_cli.errors import UserError
from mft_cli.files import read_json
from mft_cli.models.folder import adapter_rows
from mft_cli.rng import Draw, digest64, spread

NAME = "default"  # peft's name of a model's only adapter
PREFIX = "base_model.model."  # what peft puts before the names of a model's parameters
FIELDS = {"rank": "r", "alpha": "lora_alpha", "rslora": "use_rslora"}  # our keys and peft's, decided by an old adapter
Read = Callable[[str], Tensor]  # name in the wrapped model -> whole tensor; empty on ranks that do not write


# ---- putting adapters on --------------------------------------------------------------------------------------------


@dataclass
class Adapters:
    """A model with adapters on its linear layers, as `model`, peft's wrapper around it."""

    model: Any  # peft's wrapper
    base: PreTrainedModel  # the causal LM inside
    seen: Seen
    layers: dict[str, Any] = field(default_factory=dict)  # weight's name in the plain model -> adapted layer
    tables: dict[str, Any] = field(default_factory=dict)  # embedding's name in the plain model -> peft's token layer
    names: dict[str, str] = field(default_factory=dict)  # name in the plain model -> name in `model`

    def __post_init__(self) -> None:
        for key in self.base.state_dict():
            if "lora_" not in key and "trainable_tokens_" not in key and not re.search(r"\.weight\.", key):
                self.names[key.replace(".token_adapter", "").replace(".base_layer", "")] = PREFIX + key
        for name, module in self.base.named_modules():
            if hasattr(module, "lora_A"):
                self.layers[f"{name}.weight"] = module
            elif hasattr(module, "trainable_tokens_delta"):
                self.tables[f"{name.removesuffix('.token_adapter')}.weight"] = module

    def draw_dropout_for(self, batch: Batch) -> None:
        """The batch that the next forward pass is for: dropout is drawn for its examples."""
        self.seen.batch = batch

    def plain(self, name: str, read: Read, merge: bool = True) -> Tensor:
        """A tensor of the plain model, on the CPU; merged in fp32 unless the base's own is wanted."""
        layer, table = self.layers.get(name), self.tables.get(name)
        whole = dequantized(layer.base_layer) if layer is not None else None
        whole = read(self.names[name]).cpu() if whole is None else whole
        if layer is not None and merge:
            module = f"{PREFIX}{name.removesuffix('.weight')}"
            down, up = (read(f"{module}.lora_{x}.{NAME}.weight").cpu().float() for x in "AB")
            if down.numel():  # else another rank writes
                product = (up @ down) * layer.scaling[NAME]
                whole = whole.float() + (product.T if getattr(layer, "fan_in_fan_out", False) else product)
        if table is not None and merge:
            rows = read(self.rows_name(name)).cpu()
            if rows.numel():
                whole = whole.to(torch.float32, copy=True)
                whole[table.token_indices[NAME]] = rows.float()
        return whole

    def rows_name(self, name: str) -> str:
        """Name of the parameter with the trained rows of an embedding: a tied head has the input's."""
        if self.tables[name].tied_adapter is not None:
            name = next(n for n, t in self.tables.items() if t is self.tables[name].tied_adapter)
        return f"{PREFIX}{name.removesuffix('.weight')}.token_adapter.trainable_tokens_delta.{NAME}"

    def write(self, folder: Path, read: Read, base: str, keep: Callable[[int], bool]) -> None:
        """The adapter as peft's own files, in fp32. Of the token rows those stay whose id `keep` takes."""
        from peft import get_peft_model_state_dict

        trained = {n for n, p in self.model.named_parameters() if p.requires_grad}
        state = {n: read(n).cpu().float() for n in trained}
        settings = copy.deepcopy(self.model.peft_config[NAME])
        tensors = get_peft_model_state_dict(self.model, state_dict=self.tied_too(state), save_embedding_layers=False)
        kept: dict[str, list[int]] = {}
        for module, ids in (settings.trainable_token_indices or {}).items():
            stay = [i for i, token in enumerate(ids) if keep(token)]
            name = f"{PREFIX}{module}.token_adapter.trainable_tokens_delta"
            rows = tensors.pop(name)
            if stay:
                kept[module], tensors[name] = [ids[i] for i in stay], rows[stay]
        settings.trainable_token_indices = kept or None
        settings.target_modules = sorted(settings.target_modules)  # a set, whose order differs from process to process
        settings.base_model_name_or_path, settings.inference_mode = base, True
        folder.mkdir(parents=True)
        settings.save_pretrained(str(folder))
        save_file(
            {n: t.contiguous().clone() for n, t in sorted(tensors.items())}, folder / ADAPTER_WEIGHTS, {"format": "pt"}
        )

    def tied_too(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A tied head's rows go by two names."""
        return {n: state[n] if n in state else torch.empty(0) for n in {*state, *map(self.rows_name, self.tables)}}


def attach(
    model: PreTrainedModel, config: PeftConfig, seed: int, rows: list[int], adapter: Path | None = None
) -> Adapters:
    """Adapters on a loaded causal LM, whose own weights freeze; `rows` are the token ids whose embedding rows train.

    With `adapter` its weights are taken over. All ranks have to call. Raises UserError for targets that are not there
    and for an adapter of other settings.
    """
    from peft import LoraConfig, get_peft_model

    head = model.get_output_embeddings()
    if rows and getattr(head, "bias", None) is not None:
        raise UserError(
            f"peft.name={config.name}: rows of new tokens cannot be trained in a head with a bias; peft=none"
        )
    ends = {n: m for n, m in model.named_modules() if m in (model.get_input_embeddings(), head)}
    tied = bool(model.config.tie_word_embeddings)
    names = [n for n, m in ends.items() if m is not head or not tied]
    settings = LoraConfig(
        r=config.rank, lora_alpha=whole_number(config.alpha),  # type: ignore[arg-type]
        use_rslora=config.rslora, task_type="CAUSAL_LM",
        target_modules="all-linear" if config.targets == ["auto"] else list(config.targets),
        trainable_token_indices={n: list(rows) for n in names} if rows else None,
    )  # fmt: skip
    linear = sorted(
        {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    )
    with gathered([p for m in ends.values() for p in m.parameters()]):
        try:
            wrapped: Any = get_peft_model(model, settings, autocast_adapter_dtype=False)
        except ValueError as error:
            raise UserError(
                f"peft.targets={config.targets}: expected auto or names of linear layers, such as "
                f"{', '.join(linear)} ({str(error).splitlines()[0][:120]})"
            ) from None
    for parameter in (p for p in wrapped.parameters() if p.requires_grad):
        parameter.data = parameter.data.float()  # peft makes them as the frozen weights are
    made = Adapters(wrapped, wrapped.get_base_model(), Seen())
    check_exportable(made, tied, linear)
    draw_weights(made, config, seed)
    if adapter is not None:
        take_over(made, config, adapter)
    for module in wrapped.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # else bitsandbytes packs 4-bit weights again in the first evaluation on a CPU, and rounds their scales
            module.support_avx512bf16_for_cpu = False
    partition_rest(wrapped)
    for table in made.tables.values():  # it reads another module's weight and rows
        read_inside(table, [table.base_layer.weight, *table.trainable_tokens_delta.values()])
    return made


def check_exportable(made: Adapters, tied: bool, linear: list[str]) -> None:
    """Raises UserError for an adapter that no export could merge: on experts, on embeddings, on a head that shares theirs."""
    head = made.base.get_output_embeddings()
    for name, layer in made.layers.items():
        module = name.removesuffix(".weight")
        shared = tied and layer is head
        if not shared and name in made.names and NAME in layer.lora_A:
            continue
        reason = "shares its weights with the embeddings" if shared else f"is no linear layer ({type(layer).__name__})"
        raise UserError(
            f"peft.targets: the adapter on {module} could not be merged into the exported model, since {module} {reason}; name "
            f"linear layers, such as 'peft.targets=[{','.join(linear)}]'"
        )


def whole_number(value: float) -> float:
    """vLLM and peft write alpha as an integer where it is one."""
    return int(value) if value == int(value) else value


@torch.no_grad()
def draw_weights(made: Adapters, config: PeftConfig, seed: int) -> None:
    """A uniform in peft's own range, B zero; and our dropout. `lora_dropout` is only told to peft: it draws its own."""
    for name, layer in made.layers.items():
        down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
        generator = torch.Generator().manual_seed(digest64("lora", seed, name))
        drawn = nn.init.kaiming_uniform_(torch.empty(down.shape), a=math.sqrt(5), generator=generator)
        down.copy_(drawn)
        up.zero_()
        if config.dropout:
            layer.lora_dropout[NAME] = DrawnDropout(config.dropout, seed, name, down.shape[1], made.seen)
    made.model.peft_config[NAME].lora_dropout = config.dropout


@torch.no_grad()
def take_over(made: Adapters, config: PeftConfig, folder: Path) -> None:
    """The weights of an earlier adapter. Raises UserError if it is of another shape or kind."""
    said = read_json(folder / ADAPTER)
    for key, name in FIELDS.items():
        now = getattr(config, key)
        if said.get(name, False) != now:
            raise UserError(f"peft.{key}={now}: the adapter in {folder} has {said.get(name)}; set peft.{key} to it")
    unknown = [k for k in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern") if said.get(k)]
    if said.get("peft_type") != "LORA" or unknown:
        raise UserError(
            f"model.path={folder}: not a plain LoRA adapter ({', '.join(unknown) or said.get('peft_type')})"
        )
    stored, parameters = load_file(folder / ADAPTER_WEIGHTS), dict(made.model.named_parameters())
    lora = [n for n in stored if "lora_" in n]
    expected_names = {n for n, p in parameters.items() if p.requires_grad and "lora_" in n}
    if {parameter_name(n) for n in lora} != expected_names or any(
        stored[n].shape != parameters[parameter_name(n)].shape for n in lora
    ):
        raise UserError(
            f"peft.targets={config.targets}: the adapter in {folder} sits on other layers; set peft.targets="
            f"{sorted(said.get('target_modules') or [])} or start from the merged export next to it"
        )
    for name in lora:
        parameters[parameter_name(name)].copy_(stored[name])
    old = adapter_rows(folder)
    for name, table in made.tables.items():
        key = made.rows_name(name).removesuffix(f".{NAME}")
        if old and key in stored:
            places = [table.token_indices[NAME].index(i) for i in old]
            table.trainable_tokens_delta[NAME][places] = stored[key].to(table.trainable_tokens_delta[NAME].dtype)


def parameter_name(stored: str) -> str:
    """The parameter that a tensor of an adapter's file belongs to."""
    return re.sub(r"\.weight$", f".{NAME}.weight", stored)


# ---- dropout --------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """The batch whose passes are under way; the backward pass may compute the forward one again."""

    batch: Batch | None = None


class DrawnDropout(nn.Module):
    """Dropout as a function of (seed, epoch, example, position, layer, feature), so that no layout of rows changes it.

    A 64-bit draw decides four features: the probability is rounded to 1 / 65,536, and what stays is scaled to match.
    """

    def __init__(self, p: float, seed: int, layer: str, features: int, seen: Seen):
        super().__init__()
        self.limit = round(p * 65536)
        self.draw, self.layer, self.features, self.seen = Draw(seed), layer, features, seen

    def forward(self, x: Tensor) -> Tensor:
        """x [R, T, D] of the batch's R rows of T positions. Raises UserError where the rows are not the batch's."""
        if not self.training or self.limit == 0:
            return x
        batch = self.seen.batch
        if batch is None or x.shape[:2] != batch.positions.shape:
            raise UserError(
                "peft.dropout: this method runs the model on other rows than the batch's; set peft.dropout=0"
            )
        at = self.draw(f"lora.{self.layer}", batch.epoch, batch.example, batch.positions)
        drop = spread(at, self.features, torch.int16) < self.limit - 32768
        return (x * (65536 / (65536 - self.limit))).masked_fill(drop, 0)


# ---- 4 bits ---------------------------------------------------------------------------------------------------------


def four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with doubly quantized scales (arXiv 2305.14314), computing in `dtype`; what from_pretrained takes."""
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def dequantized(module: nn.Module) -> Tensor | None:
    """A 4-bit weight in fp32 on the CPU; None if the weight is an ordinary one."""
    state = getattr(module.weight, "quant_state", None)
    if state is None:
        return None
    import bitsandbytes.functional as bnb

    weight: Any = module.weight
    return bnb.dequantize_4bit(weight.data, state).float().cpu()
