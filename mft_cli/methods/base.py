"""The interface between a method and the loop. The defaults are plain fine-tuning; a method overrides two or three of them.

A method knows no rank, no engine and no optimizer. It returns sums and says beforehand what each is divided by; the
loop divides by the counts of the whole optimizer step, so batch split, ranks and packing change the speed, never the
number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from mft_cli.config.schema.methods import MethodConfig
from mft_cli.data.examples import Examples
from mft_cli.data.pack import IGNORE, Batch, taken
from mft_cli.distributed.zero import shape_of
from mft_cli.errors import UserError
from mft_cli.methods.cost import ExtraPass, ModelSizes, TrainedParameters
from mft_cli.models.kernels.attention import packed_kwargs
from mft_cli.models.kernels.cross_entropy import head_losses, hidden_states
from mft_cli.rng import Draw

Inputs = dict[str, Any]  # keyword arguments of a model's forward pass
ParamGroup = dict[str, Any]  # {"params": [(name, parameter)], "decay": bool, "scale": learning-rate factor}


@dataclass
class Corrupted:
    """What `corrupt` returns: the batch to train on, the count that each loss term is divided by, and shares to log."""

    batch: Batch
    counts: dict[str, int]  # term -> number of things it is a mean over, in this batch
    shares: Mapping[str, tuple[int | Tensor, int]] = field(default_factory=dict)  # name -> (part, whole), in this batch
    noisy: Tensor | None = None  # bool [R, T], chosen inputs that keep their id until the forward pass


# Further sums, of terms without a gradient and of metrics, that the host makes of numbers once it has them.
HostSums = tuple[dict[str, float], dict[str, tuple[float, str]]]
OnHost = tuple[Tensor, Callable[[list[int]], HostSums]]


@dataclass
class Losses:
    """What `loss` returns: the sum of every term (differentiable scalars), and sums to log besides them."""

    sums: dict[str, Tensor]
    # name -> (sum, the term whose count divides it)
    metrics: dict[str, tuple[Tensor | float, str]] = field(default_factory=dict)
    on_host: OnHost | None = None

    def detached(self) -> Losses:
        """For the log: nothing of the forward pass is kept alive."""
        metrics = {n: (v.detach() if isinstance(v, Tensor) else v, term) for n, (v, term) in self.metrics.items()}
        return Losses({n: s.detach() for n, s in self.sums.items()}, metrics, self.on_host)


class Method:
    """Plain fine-tuning: mean cross entropy over the response tokens of an optimizer step."""

    new_tokens: tuple[str, ...] = ()  # added to tokenizer and model before training
    hides_positions = False  # whether batches have hidden_keys, which not every attention backend can do
    marked_as: str | None = None  # what `mft data show` calls the inputs that it marks, if any are
    drops_labels = False  # whether some response tokens are not trained on
    keep_new_tokens = True  # whether new tokens stay in the export
    peft_refusal: str | None = None  # why this method trains no adapters
    trains = True  # False: no step is made, the model is exported as adapt left it
    weights: dict[str, float] = {"ce": 1.0}  # noqa: RUF012  term -> its weight in the loss

    config: MethodConfig

    def __init__(self, config: MethodConfig, logits_chunk: int = 1024):
        self.config = config
        self.logits_chunk = logits_chunk
        # set where the head's last rows are not tokens of the tokenizer (an input-only mask token)
        self.vocab_size: int | None = None

    def prepare(self, tokenizer: PreTrainedTokenizerFast) -> list[str]:
        """Before the model is loaded: choose or name new tokens. Returns the tokens to add to the tokenizer."""
        return list(self.new_tokens)

    def adapt(self, model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
        """Once, after new tokens and peft, before the optimizer."""
        return model

    def check(self, examples: Examples) -> None:
        """Once, after `adapt`: raises UserError for training or validation examples that the method cannot take."""

    def facts(self) -> list[str]:
        """Choices that the method made, to print and to record."""
        return []

    def param_groups(self, model: nn.Module) -> list[ParamGroup]:
        """What trains: {"params": [(name, parameter)], "decay": bool, "scale": learning-rate factor}."""
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        matrices = [(n, p) for n, p in named if len(shape_of(p)) >= 2]
        others = [(n, p) for n, p in named if len(shape_of(p)) < 2]
        return [{"params": matrices, "decay": True, "scale": 1.0}, {"params": others, "decay": False, "scale": 1.0}]

    def begin_step(self, model: nn.Module, progress: float, masters: Callable[[str], Tensor]) -> None:
        """Once per optimizer step, before its first forward pass. `masters(name)` is a parameter in fp32."""

    def refresh(self, model: nn.Module, masters: Callable[[str], Tensor]) -> None:
        """Before weights are read between steps (validation, samples, checkpoints): buffers of the present parameters."""

    def masks_of_base(self) -> dict[str, str] | None:
        """Weight -> buffer with its mask, where the export is the base model with weights removed; else None."""
        return None

    # ---- what mft plan asks, before anything is loaded ----

    def check_peft(self, name: str) -> None:
        """Raises UserError where peft=`name` is chosen and the method trains no adapters."""
        if name != "none" and self.peft_refusal:
            raise UserError(f"peft.name={name}: {self.peft_refusal}; set peft=none")

    def most_new_tokens(self) -> int:
        """New tokens at most, whose embedding rows train with adapters, where no tokenizer can be asked."""
        return len(self.new_tokens)

    def trained_parameters(self, sizes: ModelSizes) -> TrainedParameters:
        """What trains without peft, of a model of these sizes. Raises UserError for settings that do not fit it."""
        return TrainedParameters(sizes.parameters, 0, f"all {sizes.parameters:,} parameters train")

    def extra_passes(self, label_share: float, ratios: Sequence[float | None]) -> tuple[ExtraPass, ...]:
        """Passes besides the training's own.

        `label_share` of all tokens have a label; `ratios` are the sources' own mask ratios, None where they have none.
        """
        return ()

    # ---- a step ----

    def corrupt(self, batch: Batch, progress: float, draw: Draw) -> Corrupted:
        """The batch to train on, from one in the processor's memory. `progress` = finished steps / total steps, 0 in the first step."""
        return Corrupted(batch, {"ce": label_count(batch)})

    def for_validation(self, batch: Batch, draw: Draw) -> Corrupted:
        """The batch to validate on: clean, unless the method's loss means nothing without its masks."""
        return Corrupted(batch, {"ce": label_count(batch)})

    def describe(self, corrupted: Corrupted) -> str:
        """What `mft data show` says of one corrupted example, besides its counts."""
        return ""

    def sample(
        self, model: nn.Module, batch: Batch, tokenizer: PreTrainedTokenizerFast, draw: Draw
    ) -> dict[str, object]:
        """What samples.jsonl holds of an example (a batch of one), besides a completion."""
        return {}

    def extra_files(self, model: nn.Module) -> dict[str, list[str]]:
        """Parts of the trained module tree that are exported into folders of their own: folder -> parameter names."""
        return {}

    def write_extra_files(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        """Writes such a part, its parameters by name, into its folder of the export."""

    def inputs(self, model: nn.Module, batch: Batch) -> Inputs:
        """Keyword arguments of the forward pass that the loss is made of: the place of noise that needs the model."""
        return model_inputs(batch)

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        """Sums of the loss terms over this batch. Logits are made only where there are labels."""
        hidden = hidden_states(model, **self.inputs(model, batch))
        labels = taken(batch.labels, batch.label_at)
        total, _, predicted = head_losses(
            model, taken(hidden, batch.label_at), labels, vocab_size=self.vocab_size, chunk_tokens=self.logits_chunk
        )
        return Losses({"ce": total}, {"token_accuracy": ((predicted == labels).sum(), "ce")})


def model_inputs(batch: Batch) -> Inputs:
    """Keyword arguments of the model's forward pass: no mask, the rows' examples are told by their lengths."""
    packed = packed_kwargs(batch.lengths, batch.hidden_keys)
    return {"input_ids": batch.input_ids, "position_ids": batch.positions, "use_cache": False, **packed}


def mask_ratios(batch: Batch, ratio: float) -> Tensor:
    """At every position the source's own mask_ratio, else the method's `ratio`: float64 [R, T]."""
    return batch.ratio.double().where(~batch.ratio.isnan(), ratio)


def label_count(batch: Batch) -> int:
    return int((batch.labels != IGNORE).sum())
