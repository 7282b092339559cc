"""Draws are a fixed function, uniform, independent of layout, and nest."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from mft_cli.rng import UNIT, Draw, bernoulli, digest64, permutation

MASK = (1 << 64) - 1


def reference(seed: int, stream: str, epoch: int, id: int, position: int) -> int:
    """The same in plain Python integers."""

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    base = digest64("mft", seed, stream, epoch) & MASK
    return mix((mix(mix((id + base) & MASK) ^ position) + base) & MASK) >> 11


int64s = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.integers(0, 1 << 40), int64s, st.integers(0, 1 << 20), st.integers(0, 100))
def test_equals_the_reference(seed, id, position, epoch):
    found = Draw(seed)("s", epoch, torch.tensor([id]), torch.tensor([position]))
    assert int(found) == reference(seed, "s", epoch, id, position)


def test_fixed_values():
    """A change of these numbers changes every run's masks: it must be deliberate."""
    found = Draw(1)("order", 0, torch.tensor([1, 2, 3]), 0).tolist()
    assert found == [7887975306635889, 636093117216378, 4457605385720766]
    assert digest64("mft", 1) == 6953530762408896803


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_masked_sets_nest(seed, p, q):
    draws = Draw(seed)("mask", 0, torch.arange(500), 7)
    low, high = bernoulli(draws, min(p, q)), bernoulli(draws, max(p, q))
    assert bool((low <= high).all())


def test_uniform_and_uncorrelated():
    ids, positions = torch.arange(400)[:, None] * 7919, torch.arange(500)[None]
    unit = Draw(3).unit("mask", 2, ids, positions)
    assert unit.shape == (400, 500)
    assert abs(float(unit.mean()) - 0.5) < 3 * (1 / 12 / unit.numel()) ** 0.5 * 1.5
    counts = torch.histc(unit.float().flatten(), 20, 0, 1)
    expected = unit.numel() / 20
    assert float(((counts - expected) ** 2 / expected).sum()) < 50  # chi-square, 19 degrees of freedom, p ~ 1e-4
    x = unit - 0.5
    for lagged in (x[:, 1:] * x[:, :-1], x[1:] * x[:-1]):
        assert abs(float(lagged.mean())) < 4 / 12 / lagged.numel() ** 0.5


def test_below_ends():
    draws = torch.tensor([0, 1, UNIT - 1])
    assert bernoulli(draws, 0.0).tolist() == [False, False, False]
    assert bernoulli(draws, 1.0).all()
    assert bernoulli(draws, torch.tensor([0.0, 1.0, 1.0])).tolist() == [False, True, True]


def test_permutation_depends_on_seed_and_epoch_only():
    ids = torch.tensor([digest64("row", i) for i in range(100)])
    first = permutation(Draw(1), "order", 0, ids)
    assert sorted(first.tolist()) == list(range(100))
    assert torch.equal(first, permutation(Draw(1), "order", 0, ids))
    assert not torch.equal(first, permutation(Draw(1), "order", 1, ids))
    assert not torch.equal(first, permutation(Draw(2), "order", 0, ids))
