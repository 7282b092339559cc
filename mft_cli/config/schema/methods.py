"""The methods' keys, what contradicts itself among them, and what the report shows of them.

A new method is a class here and a name in AnyMethod.
"""

from __future__ import annotations

import typing
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mft_cli.config.layer_numbers import layer_numbers, layers_of
from mft_cli.config.schema.base import MOST, STRICT, AtLeastOne, Count, Fraction, NonNegative, Positive, Share, key
from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.config.schema.monitors import Column, Monitor, SampleTable
from mft_cli.errors import UserError


@dataclass(config=STRICT)
class MethodConfig:
    """What every method has. The class variables say what the layers above need to know of it."""

    implementation: ClassVar[str] = ""  # module:class
    monitors: ClassVar[tuple[Monitor, ...]] = ()  # figures of the report
    sample_tables: ClassVar[tuple[SampleTable, ...]] = ()  # of what Method.sample writes
    decoders: ClassVar[dict[str, str]] = {}  # value of eval.decode -> module:class, see mft_cli/methods/decoding.py
    name: str = key("", "The method's name.")

    def method_class(self) -> str:
        """module:class that these settings mean."""
        return self.implementation

    def check(self, model: ModelConfig) -> None:
        """Raises UserError for settings that are each valid but contradict each other or the model."""


@dataclass(config=STRICT)
class SftConfig(MethodConfig):
    """Plain fine-tuning on response tokens: the baseline."""

    implementation: ClassVar[str] = "mft_cli.methods.sft:Sft"
    name: Literal["sft"] = key("sft", "The method's name.")


@dataclass(config=STRICT)
class MaskedThoughtConfig(MethodConfig):
    """Corrupt response tokens in the input, keep the labels (arXiv 2403.02178)."""

    implementation: ClassVar[str] = "mft_cli.methods.masked_thought:MaskedThought"
    name: Literal["masked_thought"] = key("masked_thought", "The method's name.")
    mask_ratio: Fraction = key(0.4, "Fraction of the target tokens that is corrupted after the warm-up.")
    warmup_fraction: Fraction = key(2 / 3, "Share of training over which mask_ratio ramps up from 0 (linear).")
    schedule: Literal["linear", "constant", "uniform", "late", "falling"] = key(
        "linear",
        "linear ramp; constant; uniform: a ratio from U(0, mask_ratio) for each example; late: 0 during the warm-up, then "
        "mask_ratio; falling: from twice mask_ratio to 0 over the whole training.",
    )
    random_fraction: Fraction = key(0.0, "Share of chosen tokens replaced by a random id, not by the mask token.")
    target: Literal["response", "prompt", "both"] = key("response", "Which tokens may be corrupted.")
    spans: list[str] = key(
        [],
        "Named spans of the sources (data.sources.<name>.spans) outside of which nothing is corrupted; []: no limit.",
    )
    granularity: Literal["token", "span", "step"] = key("token", "Single tokens, runs of tokens, or whole lines.")
    span_mean: Annotated[float, Field(ge=1, le=MOST)] = key(
        3.0, "Mean length of a run in tokens (granularity=span).", needs="granularity=span"
    )
    drop_attention: bool = key(False, "Also hide corrupted positions from attention of all other positions.")
    mask_token: str = key("auto", "Token that stands for a masked one; auto: a reserved one, else <mask> is added.")
    keep_mask_token: bool = key(False, "Keep an added mask token in the export.")
    noise: Literal["token", "dropout", "neftune", "model_sample", "mixup"] = key(
        "token",
        "What becomes of a chosen input: the mask token; its embedding dropped; noise added to it; a token that the "
        "model samples there; its embedding mixed with another.",
    )
    dropout_rate: Fraction = key(
        1.0, "Share of a chosen embedding's numbers set to 0 (noise=dropout).", needs="noise=dropout"
    )
    neftune_alpha: NonNegative = key(
        5.0, "Size of the added noise, alpha / sqrt(length x width) (noise=neftune).", needs="noise=neftune"
    )
    neftune_tokens: Literal["chosen", "all"] = key(
        "chosen",
        "Where noise is added: at chosen inputs; or at every token, whatever mask_ratio (noise=neftune).",
        needs="noise=neftune",
    )
    mixup_share: Fraction = key(0.3, "Share of the other embedding (noise=mixup).", needs="noise=mixup")
    mixup_with: Literal["expected", "sample", "random"] = key(
        "expected",
        "The other embedding: the mean under the model's prediction, or that of a sampled or a random token (noise=mixup).",
        needs="noise=mixup",
    )
    temperature: Positive = key(
        1.0,
        "Divides the logits that noise=model_sample and noise=mixup predict from.",
        needs="noise=model_sample|mixup",
    )

    def method_class(self) -> str:
        return self.implementation if self.noise == "token" else "mft_cli.methods.noise:NoisyThought"

    def check(self, model: ModelConfig) -> None:
        if self.drop_attention and model.attention in ("varlen", "flash_attention_2"):
            raise UserError(
                "method.drop_attention=true needs model.attention=sdpa or flex: flash-attention takes no mask"
            )
        if self.granularity == "step" and self.target != "response":
            raise UserError(f"method.granularity=step masks reasoning lines; method.target={self.target} has none")
        if self.noise != "token":
            self.check_noise()

    def check_noise(self) -> None:
        """Raises UserError for a key that says how a token is masked, where none is."""
        unused = {"random_fraction": 0.0, "drop_attention": False, "mask_token": "auto", "keep_mask_token": False}
        for name, default in unused.items():
            if (value := getattr(self, name)) != default:
                typed = str(value).lower() if isinstance(value, bool) else value
                raise UserError(
                    f"method.{name}={typed} is about the mask token, which method.noise={self.noise} does not use: "
                    f"leave it at {str(default).lower()}, or set method.noise=token"
                )


@dataclass(config=STRICT)
class MaskedCritiqueConfig(MethodConfig):
    """Drop labels inside a teacher's critique, the inputs stay."""

    implementation: ClassVar[str] = "mft_cli.methods.masked_critique:MaskedCritique"
    monitors: ClassVar[tuple[Monitor, ...]] = (
        Monitor("format-reward", "Format", "share of examples with the format", "format_reward"),
        Monitor("tag-loss", "Loss of tags and answer", "loss (nats/token)", "tag_loss"),
    )
    name: Literal["masked_critique"] = key("masked_critique", "The method's name.")
    mask_ratio: Fraction = key(0.2, "Fraction of the tokens in the spans that is not trained on.")
    spans: list[Literal["think", "critique", "reasoning"]] = key(
        ["critique"], "Spans in which labels are dropped; [think] is critique and reasoning."
    )
    skip_first: Count = key(5, "Tokens at the start of each span that are always trained on.")
    redraw: bool = key(True, "Draw again in each epoch; false: the same labels are dropped throughout.")
    format_term: Literal["argmax_reward", "tag_likelihood"] = key(
        "argmax_reward",
        "argmax_reward: the paper's, it has no gradient; tag_likelihood: cross entropy of tags and answer.",
    )
    beta: NonNegative = key(0.05, "Weight of the format term.")
    strict_format: bool = key(False, "The reward accepts integer answers only, as the published code does.")
    neftune_alpha: NonNegative = key(
        0.0,
        "NEFTune: size of the noise added to all embeddings, alpha / sqrt(length x width); 0 is off, published 0.1.",
    )


@dataclass(config=STRICT)
class MaskFinetuneConfig(MethodConfig):
    """Learn which weights of a fine-tuned model to remove, nothing else (arXiv 2503.22764)."""

    implementation: ClassVar[str] = "mft_cli.methods.mask_finetune:MaskFinetune"
    monitors: ClassVar[tuple[Monitor, ...]] = (
        Monitor("removed-share", "Removed weights", "share of the masked weights", "removed_share"),
        Monitor("mask-changes", "Changes of the mask", "share of the masked weights, in a step", "mask_changes"),
    )
    name: Literal["mask_finetune"] = key("mask_finetune", "The method's name.")
    selection: Literal["local", "global"] = key(
        "local", "local: the smallest scores of each matrix, by mask_ratio; global: all scores below threshold."
    )
    mask_ratio: Fraction | dict[str, Fraction] = key(
        0.1,
        "Fraction of a matrix's weights that is removed (local); or a map from attention, mlp or a name pattern.",
        needs="selection=local",
    )
    threshold: float | dict[str, float] = key(
        -0.035,
        "Weights whose score is below are removed (global); or a map from attention, mlp or a name pattern.",
        needs="selection=global",
    )
    layers: str | Count | list[Count] | None = key(
        None, "Layers whose weights are masked: 4-7, [4,5], '0-3,20-23' or all; null: all, with selection=global only."
    )
    modules: list[str] = key(["attention", "mlp"], "Linear layers in them: attention, mlp, or name patterns (q_proj).")
    scores: Literal["learned", "random", "magnitude"] = key(
        "learned",
        "learned; or, without any training, random (each weight with mask_ratio) or magnitude (smallest |W|).",
    )
    score_init: Positive | None = key(
        None,
        "Standard deviation of the learned scores at the start; null: the model's initializer_range.",
        needs="scores=learned",
    )

    def check(self, model: ModelConfig) -> None:
        if self.selection == "local" and self.layers is None:
            raise UserError(
                "method.layers is missing: name the layers to mask, such as 4-7, or all (method.selection=local)"
            )
        if self.selection == "global" and self.scores != "learned":
            raise UserError(
                f"method.scores={self.scores} is not a learned score that a threshold could cut: set method.selection=local"
            )
        if not self.modules:
            raise UserError("method.modules is empty: expected attention, mlp or name patterns")
        layer_numbers(self.layers, layers_of(model.path))


@dataclass(config=STRICT)
class ChunkRefineConfig(MethodConfig):
    """Mask whole chunks of reasoning; a small recurrent head refines the hidden states of what was masked."""

    implementation: ClassVar[str] = "mft_cli.methods.chunk_refine:ChunkRefine"
    monitors: ClassVar[tuple[Monitor, ...]] = (
        Monitor("masked-chunks", "Masked chunks", "share of response chunks", "masked_chunk_share"),
        Monitor("masked-chunk-loss", "Masked chunks' loss", "mean of chunk means (nats/token)", "masked_loss"),
        Monitor("unmasked-chunk-loss", "Unmasked chunks' loss", "mean of chunk means (nats/token)", "unmasked_loss"),
        Monitor("chunk-weight", "Weight of a masked chunk", "weight in the loss", "chunk_weight"),
        Monitor("refinement-steps", "Refinement steps", "mean steps of a masked chunk", "mean_steps"),
    )
    decoders: ClassVar[dict[str, str]] = {
        "verify": "mft_cli.methods.refine.verify:VerifyDecoder", "refine": "mft_cli.methods.refine.decode:RefineDecoder",
    }  # fmt: skip
    sample_tables: ClassVar[tuple[SampleTable, ...]] = (
        SampleTable(
            "masked_chunks", "Masked chunks",
            "Text that the refinement head predicts for masked chunks, every position by itself, against the true text.",
            (
                Column("chunk", "whole"), Column("loss", "number", "{:.3f}"), Column("weight", "number", "{:.2f}"),
                Column("steps", "whole"), Column("confidence", "share"), Column("predicted", "text"),
                Column("true", "text"),
            ),
        ),
    )  # fmt: skip
    name: Literal["chunk_refine"] = key("chunk_refine", "The method's name.")
    mask_ratio: Fraction = key(0.3, "Probability that a chunk of the response is masked, as a whole.")
    chunk_size: Annotated[int, Field(ge=2, le=MOST)] = key(16, "Tokens of a chunk, from the response's first token on.")
    partial_fill: Fraction = key(0.5, "Share of the masked chunks of which only a part is masked, as in decoding.")
    filled_prefixes: Fraction = key(
        0.5, "Share of those that are masked from some token to the end, as after a draft that was accepted in part."
    )
    backbone: Literal["frozen", "trained"] = key("frozen", "frozen: only the head trains; trained: all weights do.")
    hidden: Literal["backbone", "embedding"] = key("backbone", "What the head reads: backbone states, or embeddings.")
    context: Literal["causal", "none"] = key("causal", "causal: a chunk's code attends to those of earlier chunks.")
    supervise: Literal["last", "every_step"] = key("every_step", "Which refinement steps have a loss.")
    deep_supervision_weight: NonNegative = key(0.3, "A refined chunk weighs 1 + this in the loss, another one 1.")
    early_stop: Literal["eval", "always", "never"] = key(
        "eval", "Where a chunk stops once it no longer changes: in inference, in training too, or nowhere."
    )
    min_steps: AtLeastOne = key(2, "Refinement steps before a chunk may stop.", needs="early_stop!=never")
    max_steps: Count = key(8, "Refinement steps at most; 0: none, the backbone's own states are read.")
    threshold: Share = key(0.01, "Stop when successive codes have cosine above 1 - this.", needs="early_stop!=never")
    refine_low_confidence_only: bool = key(False, "Leave chunks alone of which the head is more than 50 % sure.")
    width: AtLeastOne = key(512, "Width of the head.")
    layers: AtLeastOne = key(2, "Transformer layers of the head.")
    heads: AtLeastOne = key(8, "Attention heads of the head; they divide width.")
    mask_token: str = key("auto", "Token that stands for a masked one; auto: a reserved one, else <mask> is added.")

    def check(self, model: ModelConfig) -> None:
        if self.max_steps and self.min_steps > self.max_steps:
            raise UserError(
                f"method.min_steps={self.min_steps} is above method.max_steps={self.max_steps}; set it lower"
            )
        if self.width % self.heads:
            raise UserError(
                f"method.heads={self.heads} does not divide method.width={self.width}; set method.heads to a divisor"
            )
        if self.hidden == "embedding" and self.backbone == "trained":
            raise UserError(
                "method.hidden=embedding never runs the backbone, so method.backbone=trained would train nothing of it: "
                "set method.backbone=frozen, or method.hidden=backbone"
            )


# a new method is added here
AnyMethod = Annotated[
    SftConfig | MaskedThoughtConfig | MaskedCritiqueConfig | MaskFinetuneConfig | ChunkRefineConfig,
    Field(discriminator="name"),
]


def method_classes() -> tuple[type[MethodConfig], ...]:
    """The configuration class of every method."""
    classes: tuple[type[MethodConfig], ...] = typing.get_args(typing.get_args(AnyMethod)[0])
    return classes
