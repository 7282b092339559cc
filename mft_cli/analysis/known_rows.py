"""Rows whose answer, and perhaps whose graph, is known: a seeded draw, the same for every model."""

from __future__ import annotations

from random import Random

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.data.sources import Row, load_rows
from mft_cli.errors import UserError
from mft_cli.rng import digest64


def known_rows(config: TrainConfig, count: int, with_steps: bool) -> list[Row]:
    """Of the first source. Raises UserError for rows without a short answer, or without steps where they are needed."""
    name, source = next(iter(config.data.sources.items()))
    rows = load_rows(source, name=name, seed=config.seed, on_bad_row=config.data.on_bad_row).rows
    chosen = sorted(rows, key=lambda row: digest64("analysis", config.seed, row.id))[:count]
    if with_steps and not all(row.meta.get("steps") for row in chosen):
        raise UserError(f"data.sources.{name}: its rows carry no steps; take a generated world, data=chains")
    if not all(row.answer for row in chosen):
        raise UserError(f"data.sources.{name}.answer: expected the field with the short final answer")
    return chosen


def random_of(row: Row, stream: str, seed: int) -> Random:
    """Draws that depend on the row and nothing else."""
    return Random(digest64(stream, seed, row.id))


def other_number(rng: Random, number: str) -> str:
    """Another number with as many digits."""
    low = 10 ** (len(number) - 1) if len(number) > 1 else 0
    return str(rng.choice([n for n in range(low, min(10 ** len(number), low + 1000)) if n != int(number)]))
