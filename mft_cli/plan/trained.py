"""Which parameters a run trains: all, adapters and new tokens' rows (LoRA), or a score a weight (mask_finetune)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mft_cli.config.checks import layer_numbers
from mft_cli.config.schema.launching import PeftConfig
from mft_cli.config.schema.methods import ChunkRefineConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.errors import UserError
from mft_cli.methods import make
from mft_cli.methods.masked_layers import KINDS, check_patterns, layer_of, matches
from mft_cli.methods.refine.head import HeadSettings, count_parameters
from mft_cli.models.loading import load_tokenizer, locate
from mft_cli.plan.shape import Linear, Shape

SCORE_METHODS = ("mask_finetune",)  # methods that freeze the weights and train a score for each of them
# NF4: half a byte a weight, an 8-bit scale for 64 weights, a 32-bit scale for 256 of those (arXiv 2305.14314, 3.)
BYTES_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Trained:
    """Parameter counts. `frozen` + `trained` are all that a rank without ZeRO holds."""

    trained: int
    frozen: int
    quantized: int = 0  # of the frozen ones, in 4 bits
    adapters: int = 0
    rank: int = 0
    adapted: tuple[Linear, ...] = ()
    scores: int = 0
    token_rows: int = 0  # parameters of new tokens' embedding rows, which train beside adapters
    trains_head: bool = True
    note: str = ""

    @property
    def total(self) -> int:
        return self.trained + self.frozen

    @property
    def untrained_scores(self) -> int:
        """Scores that choose what is removed and never train (random, magnitude)."""
        return 0 if self.trained else self.scores

    def parameter_bytes(self, compute: int) -> float:
        """Bytes of all parameters as the forward pass reads them, `compute` bytes each but the 4-bit ones."""
        return compute * (self.total - self.quantized) + BYTES_4BIT * self.quantized


def count_trained(config: TrainConfig, shape: Shape) -> Trained:
    """Raises UserError where adapters would sit on no module."""
    peft = config.peft
    if config.method.name in SCORE_METHODS:
        return with_scores(config.method, shape)
    if isinstance(config.method, ChunkRefineConfig) and peft.name == "none":
        return with_refinement(config.method, shape)
    if peft.name == "none":
        return Trained(shape.parameters, 0, note=f"all {shape.parameters:,} parameters train")
    adapted = targets(peft, shape)
    adapters = sum(peft.rank * (x.rows + x.columns) for x in adapted)
    quantized = sum(x.weights for x in shape.linears) if peft.name == "qlora" else 0
    count, said = new_tokens(config)
    rows = count * shape.width * (1 if shape.tied else 2)
    trained = adapters + rows
    beside = f", and {said} x D {'' if shape.tied else 'x 2 embeddings '}= {rows:,} of embedding rows" if rows else ""
    note = (
        f"{peft.name}: rank {peft.rank} x (rows + columns) of {len(adapted)} linear layers = {adapters:,}{beside}; "
        f"{trained:,} trained of {shape.parameters + trained:,} parameters"
    )
    return Trained(
        trained, shape.parameters, quantized, adapters, peft.rank, adapted, token_rows=rows, trains_head=False,
        note=note,
    )  # fmt: skip


def new_tokens(config: TrainConfig) -> tuple[int, str]:
    """Tokens that the method adds, whose embedding rows train beside adapters, and how that is known.

    Where the tokenizer is not here, all that the method may add: the eight tags, or a mask token.
    """
    method = make(config.method, config.train.logits_chunk)
    most = len(method.new_tokens) or int(hasattr(config.method, "mask_token"))
    if not most:
        return 0, ""
    try:
        count = len(method.prepare(load_tokenizer(locate(config.model), config.model)))
    except UserError:
        return most, f"at most {most} new tokens (the tokenizer is not here)"
    return count, f"{count} new tokens"


def with_refinement(method: ChunkRefineConfig, shape: Shape) -> Trained:
    """The refinement head, and the backbone if it trains. A frozen backbone's activations are counted as if kept."""
    settings = HeadSettings(
        hidden_size=shape.width, mask_id=0, mask_token="", chunk_size=method.chunk_size, width=method.width,
        layers=method.layers, heads=method.heads, context=method.context,
    )  # fmt: skip
    head = count_parameters(settings)
    if method.backbone == "trained":
        return Trained(
            shape.parameters + head, 0, note=f"all {shape.parameters:,} parameters and a head of {head:,} train"
        )
    note = f"{method.name}: a head of {head:,} parameters trains, {shape.parameters:,} parameters are frozen"
    return Trained(head, shape.parameters, trains_head=False, note=note)


def targets(peft: PeftConfig, shape: Shape) -> tuple[Linear, ...]:
    """The adapted layers, by peft's rule: a target is a module's name or the end of it behind a dot."""
    if peft.targets == ["auto"]:
        return shape.linears
    found = tuple(x for x in shape.linears if any(x.name == t or x.name.endswith(f".{t}") for t in peft.targets))
    if not found:
        names = sorted({x.name.rsplit(".", 1)[-1] for x in shape.linears})
        raise UserError(f"peft.targets={peft.targets}: no such linear layer in the model; it has {', '.join(names)}")
    return found


def with_scores(method: Any, shape: Shape) -> Trained:
    """Scores of the weights that method.layers and method.modules mean."""
    chosen = layer_numbers(getattr(method, "layers", None), shape.layers)
    kinds = getattr(method, "modules", None) or KINDS
    check_patterns(kinds, [x.name for x in shape.linears], "method.modules")
    scored = tuple(x for x in shape.linears if layer_of(x.name) in chosen and any(matches(x.name, k) for k in kinds))
    scores = sum(x.weights for x in scored)
    if getattr(method, "scores", "learned") != "learned":
        note = (
            f"{method.name}: {method.scores} scores of {scores:,} weights in {len(scored)} linear layers choose what is "
            f"removed; nothing trains, no step is made"
        )
        return Trained(0, shape.parameters + scores, scores=scores, trains_head=False, note=note)
    note = (
        f"{method.name}: a score for each of {scores:,} weights in {len(scored)} linear layers trains, "
        f"{shape.parameters:,} weights are frozen"
    )
    return Trained(scores, shape.parameters, scores=scores, trains_head=False, note=note)
