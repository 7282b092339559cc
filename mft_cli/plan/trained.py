"""Which parameters a run trains: those that its method names, or adapters and the rows of new tokens (LoRA)."""

from __future__ import annotations

from dataclasses import dataclass

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.config.schema.launching import PeftConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.errors import UserError
from mft_cli.methods import make
from mft_cli.methods.base import Method
from mft_cli.models.loading import load_tokenizer, locate
from mft_cli.plan.shape import Linear, Shape

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
    token_rows: int = 0  # parameters of new tokens' embedding rows, which train with adapters
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
    method = make(config.method, config.train.logits_chunk)
    method.check_peft(peft.name)
    if peft.name == "none":
        return Trained(**vars(method.trained_parameters(shape)))
    adapted = targets(peft, shape)
    adapters = sum(peft.rank * (x.rows + x.columns) for x in adapted)
    quantized = sum(x.weights for x in shape.linears) if peft.name == "qlora" else 0
    count, known = new_tokens(config.model, method)
    rows = count * shape.width * (1 if shape.tied else 2)
    trained = adapters + rows
    embeddings = (
        f", and {known} x D {'' if shape.tied else 'x 2 embeddings '}= {rows:,} of embedding rows" if rows else ""
    )
    note = (
        f"{peft.name}: rank {peft.rank} x (rows + columns) of {len(adapted)} linear layers = {adapters:,}{embeddings}; "
        f"{trained:,} trained of {shape.parameters + trained:,} parameters"
    )
    return Trained(
        trained, shape.parameters, quantized, adapters, peft.rank, adapted, token_rows=rows, trains_head=False,
        note=note,
    )  # fmt: skip


def new_tokens(model: ModelConfig, method: Method) -> tuple[int, str]:
    """Tokens that the method adds, whose embedding rows train with adapters, and how that is known.

    Where the tokenizer is not here, all that the method may add: the eight tags, or a mask token.
    """
    most = method.most_new_tokens()
    if not most:
        return 0, ""
    try:
        count = len(method.prepare(load_tokenizer(locate(model), model)))
    except UserError:
        return most, f"at most {most} new tokens (the tokenizer is not here)"
    return count, f"{count} new tokens"


def targets(peft: PeftConfig, shape: Shape) -> tuple[Linear, ...]:
    """The adapted layers, by peft's rule: a target is a module's name or the end of it after a dot."""
    if peft.targets == ["auto"]:
        return shape.linears
    adapted = tuple(x for x in shape.linears if any(x.name == t or x.name.endswith(f".{t}") for t in peft.targets))
    if not adapted:
        names = sorted({x.name.rsplit(".", 1)[-1] for x in shape.linears})
        raise UserError(f"peft.targets={peft.targets}: no such linear layer in the model; it has {', '.join(names)}")
    return adapted
