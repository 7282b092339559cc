"""Mask fine-tuning (arXiv 2503.22764): learn which weights of a fine-tuned model to remove; nothing else changes.

The mask is selected once per optimizer step from the fp32 scores into a buffer. Forward passes, recomputation and the
export read only that buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from mft_cli.config.layer_numbers import layer_numbers
from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.config.schema.methods import MaskFinetuneConfig
from mft_cli.config.validate import build, to_plain
from mft_cli.data.pack import Batch
from mft_cli.distributed.zero import numel_of
from mft_cli.errors import UserError
from mft_cli.methods import weight_masks
from mft_cli.methods.base import Corrupted, Method, ParamGroup, label_count
from mft_cli.methods.cost import ModelSizes, TrainedParameters
from mft_cli.methods.masked_layers import (
    MASK,
    SCORES,
    MaskedLayer,
    check_patterns,
    choose,
    first_scores,
    install,
    is_chosen,
    keep_product,
    linear_layers,
    value_for,
)
from mft_cli.methods.selection import keep_above, keep_largest, removed_count
from mft_cli.rng import Draw, digest64


class MaskFinetune(Method):
    """Scores train, weights do not. The loss is plain cross entropy."""

    config: MaskFinetuneConfig
    peft_refusal: str | None = (
        "mask_finetune freezes every weight and trains a score for each, so there is nothing that adapters could train; "
        "fine-tune with method=sft and adapters first, then start from that export with model.path="
    )

    def __init__(self, config: MaskFinetuneConfig, logits_chunk: int = 1024):
        super().__init__(config, logits_chunk)
        self.trains = config.scores == "learned"
        self.layers: dict[str, MaskedLayer] = {}  # name -> masked module
        self.removed: dict[str, Tensor] = {}  # name -> entries that the buffer removes: numbers that nobody waits for
        self.changed: Tensor | int = 0  # entries that the last step's selection changed

    # ---- the model ----

    def adapt(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
        if not hasattr(model, "config"):  # data is only shown: inputs and labels do not change
            return model
        chosen = choose(cast(PreTrainedModel, model), self.config.layers, self.config.modules)
        if isinstance(self.rule, Mapping):
            check_patterns(self.rule, linear_layers(model), f"method.{self.rule_name}")
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        std = self.config.score_init
        std = float(getattr(model.config, "initializer_range", 0.02)) if std is None else std
        for name, module in chosen.items():
            seed = digest64("mask_finetune", torch.initial_seed(), name)  # initial_seed: what manual_seed was given
            scores = first_scores(self.config.scores, module.get_parameter("weight"), std, seed)
            sign = self.config.selection == "local"
            self.layers[name] = install(module, scores, self.select(name, scores), sign)
            self.count(name)
        return model

    @property
    def rule_name(self) -> str:
        return "mask_ratio" if self.config.selection == "local" else "threshold"

    @property
    def rule(self) -> float | Mapping[str, float]:
        return self.config.mask_ratio if self.config.selection == "local" else self.config.threshold

    def facts(self) -> list[str]:
        if not self.layers:
            return [
                "what is masked are weights: inputs and labels stay (mft mask inspect shows the masks of an export)"
            ]
        scored = sum(numel_of(m.weight) for m in self.layers.values())
        c = self.config
        untrained = "" if self.trains else ", which do not train: no step is made"
        return [
            f"masked layers: {len(self.layers)} linear layers with {scored:,} weights; {c.scores} scores{untrained}; "
            f"{c.selection} selection, {self.rule_name} {self.rule}"
        ]

    def param_groups(self, model: nn.Module) -> list[ParamGroup]:
        scores = [(f"{n}.{SCORES}", m.scores) for n, m in self.layers.items()]
        return [{"params": scores, "decay": False, "scale": 1.0}]

    def trained_parameters(self, sizes: ModelSizes) -> TrainedParameters:
        """A score for each weight that method.layers and method.modules mean."""
        c = self.config
        numbers = layer_numbers(c.layers, sizes.layers)
        check_patterns(c.modules, [x.name for x in sizes.linears], "method.modules")
        scored = [x for x in sizes.linears if is_chosen(x.name, numbers, c.modules)]
        scores = sum(x.weights for x in scored)
        scored_weights = f"{scores:,} weights in {len(scored)} linear layers"
        if not self.trains:
            note = f"{c.name}: {c.scores} scores of {scored_weights} choose what is removed; nothing trains, no step is made"
            return TrainedParameters(0, sizes.parameters + scores, note, scores, trains_head=False)
        note = f"{c.name}: a score for each of {scored_weights} trains, {sizes.parameters:,} weights are frozen"
        return TrainedParameters(scores, sizes.parameters, note, scores, trains_head=False)

    # ---- a step ----

    def begin_step(self, model: nn.Module, progress: float, masters: Callable[[str], Tensor]) -> None:
        self.refresh(model, masters)
        self.changed = torch.stack([m.mask_changes for m in self.layers.values()]).sum()
        for module in self.layers.values():
            module.mask_changes.zero_()

    @torch.no_grad()
    def refresh(self, model: nn.Module, masters: Callable[[str], Tensor]) -> None:
        """Selects again from the fp32 scores. Changes add up in a buffer until the next step takes them."""
        # to hold little: W * M is made when needed
        recomputes = bool(getattr(model, "is_gradient_checkpointing", False))
        for name, module in self.layers.items():
            mask = self.select(name, masters(f"{name}.{SCORES}"))
            module.mask_changes += (mask != module.mask).sum()
            module.mask.copy_(mask)
            keep_product(module, not recomputes)
            self.count(name)

    def count(self, name: str) -> None:
        mask = self.layers[name].mask
        self.removed[name] = mask.numel() - mask.count_nonzero()

    def select(self, name: str, scores: Tensor) -> Tensor:
        """The mask (bool, True is kept) of one matrix's fp32 scores."""
        value = value_for(name, self.rule, f"method.{self.rule_name}")
        if self.config.selection == "global":
            return keep_above(scores, value)
        if self.config.scores == "random":  # each entry on its own, with probability mask_ratio
            return keep_above(scores, value)
        return keep_largest(scores, removed_count(value, scores.numel()))

    def corrupt(self, batch: Batch, progress: float, draw: Draw) -> Corrupted:
        """Inputs and labels stay; the shares say what is removed."""
        return Corrupted(batch, {"ce": label_count(batch)}, self.shares())

    def shares(self) -> dict[str, tuple[int | Tensor, int]]:
        """Removed entries of all masked weights, of each kind of module, and entries that this step changed."""
        if not self.removed:
            return {}
        size = {n: m.mask.numel() for n, m in self.layers.items()}
        kinds: dict[str, list[str]] = {}
        for name in self.layers:
            kinds.setdefault(name.rsplit(".", 1)[-1], []).append(name)
        whole = sum(size.values())
        shares: dict[str, tuple[int | Tensor, int]] = {
            "removed_share": (sum(self.removed.values()), whole), "mask_changes": (self.changed, whole),
        }  # fmt: skip
        for kind, names in kinds.items():
            shares[f"removed_share/{kind}"] = (sum(self.removed[n] for n in names), sum(size[n] for n in names))
        return shares

    # ---- the export ----

    def masks_of_base(self) -> dict[str, str] | None:
        return {f"{name}.weight": f"{name}.{MASK}" for name in self.layers}


# ---- inside another trainer -----------------------------------------------------------------------------------------


class MaskFinetuneCallback(TrainerCallback):
    """method=mask_finetune in transformers' Trainer or TRL's SFTTrainer (docs/python.md).

    Making it freezes the model's weights and gives its linear layers scores and masks, so make it before the trainer.
    `keys` are the method's keys (docs/keys.md, without `method.`). Raises UserError for a wrong key.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, seed: int = 1, **keys: object):
        config = build(MaskFinetuneConfig, keys, "method.")
        config.check(ModelConfig())
        self.model, self.method, self.seed = model, MaskFinetune(config), seed
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.method.adapt(model, tokenizer)

    def scores(self, name: str) -> Tensor:
        """The trained scores that `name` (<layer>.scores) means, fp32."""
        return self.method.layers[name.removesuffix(f".{SCORES}")].scores

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        if args.weight_decay:
            raise UserError(
                f"weight_decay={args.weight_decay:g} would pull the scores towards 0, which is no mask: set weight_decay=0"
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        self.method.begin_step(self.model, state.global_step / max(1, state.max_steps), self.scores)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        if control.should_evaluate or control.should_save or state.global_step >= state.max_steps:
            self.method.refresh(self.model, self.scores)

    def save_masks(self, base: str | Path, file: str | Path) -> None:
        """Writes the masks of the model that lies in `base`: a file for `mft mask apply` and `mft mask inspect`."""
        folder = weight_masks.base_folder(ModelConfig(path=str(base)))
        known = {name for name, _ in weight_masks.tensors(folder)}
        masks = {
            weight_masks.stored_name(f"{name}.weight", known): layer.mask for name, layer in self.method.layers.items()
        }
        facts = {"base_model": str(base), "method": to_plain(self.method.config), "seed": self.seed}
        weight_masks.write(
            Path(file), weight_masks.make(masks, {**facts, "base_digest": weight_masks.weights_digest(folder)})
        )
