"""What stands before a problem whose options are ranked: a preamble, and rows with their right option. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from string import ascii_uppercase

from mft_cli.config.schema.inputs import SourceConfig
from mft_cli.config.schema.likelihood import LikelihoodConfig
from mft_cli.data.files import BadRow
from mft_cli.data.options import options_of, rendered, right_letters
from mft_cli.data.sources import Row, get, load_rows
from mft_cli.rng import digest64

SEPARATOR = "\n\n"


def source_of(rule: LikelihoodConfig, source: SourceConfig) -> SourceConfig:
    """Where the examples of a benchmark with this source come from."""
    return replace(
        source, path=rule.shots_path or source.path, split=rule.shots_split or source.split, local=rule.shots_local,
        rows=None, fraction=1.0,
    )  # fmt: skip


class Shots:
    """The worked examples of one benchmark. Raises UserError where their source cannot be read."""

    def __init__(self, rule: LikelihoodConfig, source: SourceConfig, name: str, seed: int):
        self.rule, self.seed = rule, seed
        self.groups: dict[str, list[Row]] = {}
        if rule.shots:
            for row in load_rows(source_of(rule, source), name=name, seed=seed).rows:
                self.groups.setdefault(self.group(row), []).append(row)

    def group(self, row: Row) -> str:
        return str(get(row.meta, self.rule.shots_same, row.key)) if self.rule.shots_same else ""

    def before(self, row: Row, id: str) -> str:
        """The text before a problem's contexts; `id` is the problem's, which the draw depends on. Raises BadRow."""
        examples = [worked(example, self.rule) + SEPARATOR for example in self.examples(row, id)]
        return rendered(self.rule.preamble, row.meta, row.key) + "".join(examples)

    def examples(self, row: Row, id: str) -> list[Row]:
        if not self.rule.shots:
            return []
        group = self.group(row)
        rows = self.groups.get(group, [])
        order = iter(rows) if self.rule.shots_order == "first" else drawn(rows, self.seed, id)
        chosen = list(itertools.islice((e for e in order if e.meta != row.meta), self.rule.shots))
        if len(chosen) < self.rule.shots:
            where = f" with {self.rule.shots_same}={group}" if group else ""
            raise BadRow(f"{row.key}: likelihood.shots={self.rule.shots}, but only {len(chosen)} rows{where} are there")
        return chosen


def drawn(rows: list[Row], seed: int, id: str) -> Iterator[Row]:
    """All rows in an order of the problem's own: counter-based draws without replacement (a shuffle from the left)."""
    moved: dict[int, int] = {}
    for place in range(len(rows)):
        other = place + digest64("shots", seed, id, place) % (len(rows) - place)
        yield rows[moved.get(other, other)]
        moved[other] = moved.get(place, place)


def worked(row: Row, rule: LikelihoodConfig) -> str:
    """A row's context with its (first) right option. Raises BadRow."""
    right = right_letters(row.meta, rule, row.key)[0]
    option = options_of(row.meta, rule, row.key)[ascii_uppercase.index(right)]
    return option.context + option.continuation
