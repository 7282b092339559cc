"""How much there is to do: tokens, steps, operations, time, and disk."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.data.deal import Balance, Layout, balance, balance_of
from mft_cli.data.load import load, validation_size
from mft_cli.data.pack import Order
from mft_cli.data.prompts import Renderer
from mft_cli.data.sources import load_rows
from mft_cli.errors import UserError
from mft_cli.methods import make
from mft_cli.methods.cost import ExtraPass
from mft_cli.models.loading import load_tokenizer, locate
from mft_cli.plan.settings import Settings
from mft_cli.plan.shape import Shape
from mft_cli.plan.trained import Trained
from mft_cli.train.optimizer import total_steps


@dataclass(frozen=True)
class DataFacts:
    """The training rows. `missing` says in a sentence why a number is not known."""

    rows: int | None = None
    mean_tokens: float | None = None
    document: float | None = None  # length of the example that a token stands in, on average
    label_share: float | None = None
    longest: int | None = None
    origin: str = ""
    missing: str = ""
    order: Order | None = None  # of the rows, where they were counted

    @property
    def known(self) -> bool:
        return self.rows is not None and self.mean_tokens is not None


def read_data(config: TrainConfig, settings: Settings) -> DataFacts:
    """What was stated with rows= and mean_tokens=, else counted in the data where it and the tokenizer are here."""
    if settings.rows is not None and settings.mean_tokens is not None:
        return stated(settings.rows, settings.mean_tokens, settings.label_share, "stated with rows= and mean_tokens=")
    try:
        return counted(config, settings)
    except UserError as error:
        reason = str(error).splitlines()[0]
    rows, origin = settings.rows, "stated with rows="
    if rows is None:
        rows = rows_without_tokenizer(config)
        origin = "counted, not tokenized"
    if rows is not None and settings.mean_tokens is not None:
        return stated(rows, settings.mean_tokens, settings.label_share, f"{origin}; mean_tokens= stated")
    lacking = " and ".join(n for n, v in (("rows=", rows), ("mean_tokens=", settings.mean_tokens)) if v is None)
    return DataFacts(
        rows, settings.mean_tokens, settings.mean_tokens, settings.label_share,
        missing=f"tokens   not known: give {lacking} (training examples; tokens of one on average). Reason: {reason}",
    )  # fmt: skip


def stated(rows: int, mean: float, labels: float | None, origin: str) -> DataFacts:
    return DataFacts(rows, mean, mean, labels, None, origin)


def counted(config: TrainConfig, settings: Settings) -> DataFacts:
    """Reads and tokenizes (or takes from the cache) the training rows. Raises UserError where something is not here."""
    tokenizer = load_tokenizer(locate(config.model), config.model)
    method = make(config.method, config.train.logits_chunk)
    method.prepare(tokenizer)
    train = load(config.data, Renderer(tokenizer, config.prompt, tuple(method.new_tokens)), config.seed).train
    lengths = train.lengths.astype("float64")
    tokens = float(lengths.sum())
    mean = settings.mean_tokens or tokens / len(train)
    return DataFacts(
        settings.rows or len(train), mean, float((lengths**2).sum()) / tokens,
        settings.label_share or float(train.labels.sum()) / tokens, int(lengths.max()),
        f"counted in {', '.join(config.data.sources)}", order=Order(train, config.seed, config.train.global_batch_size),
    )  # fmt: skip


def rows_without_tokenizer(config: TrainConfig) -> int | None:
    """Training rows of the sources alone, before anything is dropped for its length; None if they are not here."""
    data = config.data
    try:
        rows = sum(
            len(load_rows(s, name=n, seed=config.seed, on_bad_row=data.on_bad_row).rows)
            for n, s in data.sources.items()
        )
    except UserError:
        return None
    if data.validation.source is None:
        rows -= data.validation.rows or validation_size(data.validation.fraction, rows)
    return max(1, round(data.fraction * rows)) if rows > 0 else None


def extra_passes(config: TrainConfig, data: DataFacts) -> tuple[ExtraPass, ...]:
    """What the method computes before the training's own forward pass."""
    ratios = [source.mask_ratio for source in config.data.sources.values()]
    return make(config.method, config.train.logits_chunk).extra_passes(data.label_share or 1.0, ratios)


@dataclass(frozen=True)
class PassWork:
    """A method's pass before the training's own, and its FLOPs for a token, on average."""

    name: str
    products: int
    share: float
    flops_per_token: float


def pass_work(extra: ExtraPass, shape: Shape, length: float) -> PassWork:
    """Its head (2VD) is applied to a share of the tokens only."""
    flops = body_forward(shape, length) + extra.share * extra.products * 2 * shape.head
    return PassWork(extra.name, extra.products, extra.share, flops)


def body_forward(shape: Shape, length: float) -> float:
    """FLOPs of a token in a forward pass without the head: a third of forward and backward, less the head's 2VD."""
    return shape.flops_per_token(length) / 3 - 2 * shape.head


def trained_flops(shape: Shape, trained: Trained, length: float) -> float:
    """Of a token, forward and backward. As training logs them: 4 for a weight that is frozen under adapters, which make
    no product for its gradient, and 6 for an adapter's."""
    every = shape.flops_per_token(length)
    if not trained.adapters:
        return every
    frozen = shape.parameters - (0 if shape.tied else shape.head)
    return every - 2.0 * frozen + 6.0 * trained.adapters


@dataclass(frozen=True)
class Work:
    """Work of the whole run. `seconds` is None where the peak is not stated."""

    tokens_per_epoch: float
    steps_per_epoch: int
    steps: int
    tokens: float
    balance: Balance  # of the GPUs' work in a step
    flops_per_token: float
    extra: tuple[PassWork, ...]
    recomputed: float  # FLOPs of a token that gradient checkpointing adds
    flops: float
    seconds: float | None


def make_work(
    config: TrainConfig, settings: Settings, shape: Shape, trained: Trained, data: DataFacts
) -> Work:  # fmt: skip
    """`data` must be known. Where nothing trains no step is made."""
    assert data.rows is not None
    assert data.mean_tokens is not None
    t = config.train
    per_epoch = math.ceil(data.rows / t.global_batch_size)
    steps = total_steps(config.train, data.rows) if trained.trained else 0
    tokens_per_epoch = data.rows * data.mean_tokens
    tokens = (
        tokens_per_epoch * steps / per_epoch if steps % per_epoch == 0 else tokens_of(steps, per_epoch, config, data)
    )
    length = data.document or data.mean_tokens
    per_token = trained_flops(shape, trained, length)
    extra = tuple(pass_work(e, shape, length) for e in extra_passes(config, data))
    recomputed = body_forward(shape, length)
    flops = tokens * (per_token + sum(e.flops_per_token for e in extra))
    peak = settings.peak_tflops
    seconds = None if peak is None else flops / (settings.gpus * peak * 1e12 * settings.mfu)
    return Work(
        tokens_per_epoch,
        per_epoch,
        steps,
        tokens,
        work_of_gpus(config, settings, data),
        per_token,
        extra,
        recomputed,
        flops,
        seconds,
    )


def work_of_gpus(config: TrainConfig, settings: Settings, data: DataFacts) -> Balance:
    """As training deals the examples to ranks; where they are not here, as if all were of the mean length."""
    assert data.mean_tokens is not None
    layout = Layout.of(config.train, config.data.max_length, settings.gpus)
    if data.order is not None:
        return balance_of(data.order, layout)
    return balance([np.full(config.train.global_batch_size, round(data.mean_tokens))], layout)


def tokens_of(steps: int, per_epoch: int, config: TrainConfig, data: DataFacts) -> float:
    """Whole epochs and the full steps of a last, partial one."""
    assert data.rows is not None
    assert data.mean_tokens is not None
    epochs, rest = divmod(steps, per_epoch)
    return (epochs * data.rows + rest * config.train.global_batch_size) * data.mean_tokens


@dataclass(frozen=True)
class Disk:
    """Bytes on the disk."""

    checkpoint: float
    checkpoints: int
    export: float
    exports: int

    @property
    def total(self) -> float:
        return self.checkpoint * self.checkpoints + self.export * self.exports


def make_disk(config: TrainConfig, shape: Shape, trained: Trained, compute: int) -> Disk:
    """A checkpoint has the trained parameters in fp32 (4) and two moments (8), untrained scores in fp32, and masks of one
    byte; one more is being written."""
    c = config.checkpoint
    kept = c.keep_last + 1 + (1 if c.keep_best else 0)
    exports = 1 + (1 if c.keep_best else 0)
    checkpoint = 12.0 * trained.trained + 4.0 * trained.untrained_scores + trained.scores
    return Disk(checkpoint, kept, float(compute * shape.parameters), exports)
