"""A data configuration to examples: every source read, tokenized, mixed, split and thinned."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from mft_cli.config.schema.inputs import DataConfig, SourceConfig, ValidationConfig
from mft_cli.data.examples import Examples
from mft_cli.data.prompts import Renderer
from mft_cli.data.sources import all_derived_from
from mft_cli.data.tokenized import Asked, Source, encode_source, mixture
from mft_cli.errors import UserError
from mft_cli.rng import digest64


@dataclass
class Loaded:
    """Training and validation examples, what to print, and what to record."""

    train: Examples
    validation: Examples | None
    lines: list[str] = field(default_factory=list)
    digests: dict[str, Any] = field(default_factory=dict)
    derived_from: list[str] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def training_questions(self) -> np.ndarray:
        """Digests (uint64) of the questions that are trained on."""
        kept = [digests[np.isin(ids, self.train.ids)] for ids, digests in self.asked]
        return np.concatenate(kept) if kept else np.zeros(0, np.uint64)


def load(data: DataConfig, renderer: Renderer, seed: int) -> Loaded:
    """Read and tokenize everything that `data` names. Raises UserError."""
    result = Loaded(None, None, derived_from=all_derived_from(data.sources.values()))  # type: ignore[arg-type]
    train = read_sources(data.sources, data, renderer, seed, result)
    if data.validation.source is not None:
        name = data.validation.source
        result.validation = read_sources({name: data.sources_validation[name]}, data, renderer, seed, result)
    elif data.validation.wanted:
        train, result.validation = split(train, data.validation, seed)
        result.lines.append(f"validation: {len(result.validation):,} rows taken from the training rows")
    if data.fraction < 1:
        kept = max(1, round(data.fraction * len(train)))
        train = train.take(draw(train, kept, "fraction", seed))
        result.lines.append(f"data.fraction={data.fraction}: {len(train):,} training examples kept")
    result.train = train
    return result


def read_sources(
    sources: dict[str, SourceConfig], data: DataConfig, renderer: Renderer, seed: int, result: Loaded
) -> Examples:
    read: list[Source] = []
    for name, source in sources.items():
        encoded = encode_source(name, source, renderer, data, seed)
        result.lines.extend(encoded.lines)
        if sources is data.sources:  # not those of validation only
            result.asked.append(encoded.asked)
        where = {"where": encoded.location, "digest": encoded.digest}
        result.digests[name] = {**where, "rows": len(encoded.examples)}
        read.append(encoded)
    return mixture(read, data.cache)


def draw(examples: Examples, count: int, stream: str, seed: int) -> np.ndarray:
    """Positions of `count` examples by a seeded draw, in their order; a smaller draw is a subset of a larger."""
    ranked = sorted(range(len(examples)), key=lambda i: digest64(stream, seed, int(examples.ids[i])))
    return np.array(sorted(ranked[:count]), dtype=np.int64)


def split(train: Examples, asked: ValidationConfig, seed: int) -> tuple[Examples, Examples]:
    """(training, validation). Raises UserError where one of them would be empty."""
    rows = asked.rows or validation_size(asked.fraction, len(train))
    if rows >= len(train) and asked.rows:
        raise UserError(f"data.validation.rows={rows}, but there are only {len(train)} training rows; set it lower")
    if not 0 < rows < len(train):
        raise UserError(
            f"data.validation.fraction={asked.fraction}: of {len(train)} training rows {rows} would validate and "
            f"{len(train) - rows} train; expected at least one of each, so take more rows or another share"
        )
    chosen = draw(train, rows, "validation", seed)
    others = ~np.isin(train.ids, train.ids[chosen])  # a conversation may be several examples: none of them trains, too
    if not others.any():
        raise UserError(
            f"data.validation: the {rows} examples that would validate are of all rows; take fewer, or more rows"
        )
    return train.take(np.flatnonzero(others)), train.take(chosen)


def validation_size(fraction: float, rows: int) -> int:
    """fraction x rows, halves rounded up; of the decimal number as it is written, so that 0.15 of 10 rows is 1.5, so 2."""
    return math.floor(Fraction(str(fraction)) * rows + Fraction(1, 2))
