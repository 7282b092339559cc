"""Examples dealt to ranks: all of them, once, evenly by tokens; and no number depends on it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mft_cli.config.schema.methods import MaskedThoughtConfig
from mft_cli.data.deal import Balance, Layout, balance, deal, idle_notice
from mft_cli.data.examples import Examples
from mft_cli.data.pack import make_batch, pack_examples
from mft_cli.methods.masked_thought import MaskedThought
from mft_cli.rng import Draw

EXAMPLES = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(EXAMPLES, st.integers(50, 120), st.booleans(), st.integers(1, 4), st.integers(1, 9))
def test_every_example_is_dealt_once_in_equally_many_micro_batches(lengths, row_length, packing, micro, world):
    layout = Layout(row_length, packing, micro, world)
    dealt = deal(np.array(lengths), layout)
    assert len(dealt) == world
    assert len({len(blocks) for blocks in dealt}) == 1
    rows = [row for blocks in dealt for block in blocks for row in block]
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[i] for i in row) <= row_length for row in rows)
    assert all(len(block) <= micro for blocks in dealt for block in blocks)
    assert packing or all(len(row) == 1 for row in rows)


@given(EXAMPLES, st.booleans(), st.integers(1, 4))
def test_one_rank_has_the_rows_as_they_are_laid(lengths, packing, micro):
    (blocks,) = deal(np.array(lengths), Layout(60, packing, micro))
    assert [row for block in blocks for row in block] == pack_examples(np.array(lengths), 60, packing)
    assert [len(b) for b in blocks[:-1]] == [micro] * (len(blocks) - 1)


def test_an_example_longer_than_a_row_is_a_row_of_its_own():
    dealt = deal(np.array([90, 10, 10]), Layout(50, True, 1, 2))
    assert sorted(row for blocks in dealt for block in blocks for row in block) == [[0], [1, 2]]


def word_problems(count: int) -> np.ndarray:
    """Lengths spread as those of GSM8K's training rows: mean 206, deviation 81."""
    lengths = np.random.default_rng(0).lognormal(math.log(192), 0.38, count)
    return lengths.clip(60, 900).astype(np.int64)


@pytest.mark.parametrize("world", [8, 64])
@pytest.mark.parametrize("micro", [1, 2, 4, 8])
@pytest.mark.parametrize(("each", "least"), [(64, 0.95), (8, 0.9)])
def test_no_rank_idles(world, micro, each, least):
    """Whatever the micro-batch: whole micro-batches went to one rank before, 11 % at 8 ranks and 32 examples."""
    steps = np.split(word_problems(4 * each * world), 4)
    b = balance(steps, Layout(1024, True, micro, world))
    assert b.useful >= least
    assert b.idle == 0


@pytest.mark.parametrize("micro", [1, 8])
def test_four_examples_a_rank_leave_no_rank_without_work(micro):
    b = balance(np.split(word_problems(128), 4), Layout(1024, True, micro, 8))
    assert (b.idle, b.passes) == (0, 1)
    assert b.useful > 0.8


def test_ranks_without_an_example_are_counted_and_told():
    layout = Layout(1024, True, 1, 8)
    b = balance([np.array([100] * 6), np.array([100] * 8)], layout)
    assert b == Balance(passes=1.0, useful=14 / 16, idle=2)
    said = idle_notice(b, layout, batch=6)
    assert "2 of 8 ranks have no example in a step" in said
    assert "train.global_batch_size=6" in said
    assert (
        idle_notice(replace(b, idle=0), layout, batch=8) == "8 ranks: 88% of what they compute or wait for are tokens"
    )


def fake(lengths: np.ndarray) -> Examples:
    rng, total = np.random.default_rng(0), int(lengths.sum())
    tokens = rng.integers(3, 99, total).astype(np.int32)
    return Examples.of(np.arange(1, len(lengths) + 1) * 7919, lengths, tokens, rng.random(total) < 0.5)


@pytest.mark.parametrize("granularity", ["token", "span"])
def test_what_is_trained_on_does_not_depend_on_the_ranks(granularity):
    """Every token with its input, mask and label, over all ranks."""
    examples = fake(word_problems(24))
    method = MaskedThought(MaskedThoughtConfig(granularity=granularity, schedule="constant"))
    method.mask_id, method.span_bits = 2, 0

    def trained_on(layout: Layout) -> dict[tuple[int, int], tuple[int, int]]:
        tokens: dict[tuple[int, int], tuple[int, int]] = {}
        for rows in (rows for blocks in deal(examples.lengths, layout) for rows in blocks):
            batch = method.corrupt(make_batch(examples, rows, 0, pad_id=0), 1.0, Draw(5)).batch
            columns = (batch.example, batch.positions, batch.input_ids, batch.labels)
            values = torch.stack([c[batch.real] for c in columns], dim=1).tolist()
            tokens |= {(example, position): (i, label) for example, position, i, label in values}
        return tokens

    alone = trained_on(Layout(1024, True, 2))
    assert len(alone) == examples.lengths.sum()
    for world in (2, 3, 8):
        for packing in (True, False):
            assert trained_on(Layout(1024, packing, 2, world)) == alone
