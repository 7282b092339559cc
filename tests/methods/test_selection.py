"""The exact selection against its definition: a stable sort of the magnitudes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mft_cli.methods import selection
from mft_cli.methods.selection import CHUNK, keep_above, keep_largest, removed_count


def by_definition(scores: Tensor, removed: int) -> Tensor:
    """Of equal |s| the lower row-major index goes first: what a stable ascending sort puts in front."""
    flat = scores.reshape(-1)
    mask = torch.ones(flat.numel(), dtype=torch.bool)
    mask[torch.sort(flat.abs(), stable=True).indices[:removed]] = False
    return mask.view(scores.shape)


def random_scores(kind: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Normal scores, few distinct values, one value, wide exponents, signed zeros and denormals, infinities."""
    normal = torch.randn(shape, generator=generator)
    if kind == 1:
        return torch.randint(-3, 4, shape, generator=generator).float() * 0.5
    if kind == 2:
        return torch.full(shape, float(normal.flatten()[0]))
    if kind == 3:
        return normal * 10.0 ** torch.randint(-30, 30, shape, generator=generator)
    if kind == 4:
        return torch.where(normal > 0, normal * 1e-40, torch.where(normal > -1, torch.tensor(-0.0), normal))
    if kind == 5:
        return torch.where(normal.abs() > 1.5, normal / 0.0, normal).to(torch.bfloat16).float()
    return normal * 0.02


def test_a_thousand_matrices_are_selected_as_defined():
    generator = torch.Generator().manual_seed(1)
    for i in range(1000):
        rows, columns = (int(torch.randint(1, 7 if i % 3 else 60, (1,), generator=generator)) for _ in range(2))
        scores = random_scores(i % 6, (rows, columns), generator)
        ratio = (0.0, 1.0, 0.1, 0.5, float(torch.rand(1, generator=generator)))[i % 5]
        removed = removed_count(ratio, scores.numel())
        found = keep_largest(scores, removed)
        assert torch.equal(found, by_definition(scores, removed)), (i, scores, ratio)
        assert int((~found).sum()) == removed


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_matrices_larger_than_a_chunk(kind):
    scores = random_scores(kind, (3, CHUNK // 2 + 5), torch.Generator().manual_seed(kind))
    removed = removed_count(0.1, scores.numel())
    assert torch.equal(keep_largest(scores, removed), by_definition(scores, removed))


def test_views_that_are_not_contiguous_are_read_in_row_major_order():
    scores = random_scores(1, (17, 31), torch.Generator().manual_seed(5)).t()
    assert torch.equal(keep_largest(scores, 100), by_definition(scores, 100))


def test_what_a_gpu_does_instead_selects_the_same(monkeypatch):
    """It sorts, so that nothing is waited for; here on a processor."""
    monkeypatch.setattr(selection, "sorts", lambda scores: True)
    generator = torch.Generator().manual_seed(2)
    for kind in range(6):
        scores = random_scores(kind, (30, 70), generator)
        for removed in (0, 1, 700, 2099, 2100):
            assert torch.equal(keep_largest(scores, removed), by_definition(scores, removed)), (kind, removed)
    with pytest.raises(RuntimeError):
        keep_largest(torch.tensor([1.0, torch.nan, 2.0]), 1)


def test_on_a_gpu_too():
    if not torch.cuda.is_available():
        pytest.skip("no GPU: the selection on a GPU was not tested")
    generator = torch.Generator().manual_seed(2)
    for kind in range(6):
        scores = random_scores(kind, (300, 700), generator)
        assert torch.equal(keep_largest(scores.cuda(), 21_000).cpu(), by_definition(scores, 21_000))


def test_what_is_no_number_is_refused():
    for bad in (torch.nan, -torch.nan):
        scores = torch.tensor([[1.0, bad], [0.5, torch.inf]])
        with pytest.raises(ValueError, match="NaN"):
            keep_largest(scores, 1)
        with pytest.raises(ValueError, match="NaN"):
            keep_largest(scores, 0)
        with pytest.raises(ValueError, match="NaN"):
            keep_above(scores, 0.0)
    with pytest.raises(ValueError, match="5 of 4"):
        keep_largest(torch.ones(2, 2), 5)
    with pytest.raises(ValueError, match="float32"):
        keep_largest(torch.ones(2, 2, dtype=torch.bfloat16), 1)


def test_threshold_keeps_what_equals_it():
    scores = torch.tensor([[-0.035, -0.0350001], [0.0, -1.0]])
    assert keep_above(scores, -0.035).tolist() == [[True, False], [True, False]]


def test_the_papers_threshold_removes_four_percent_of_normal_scores():
    scores = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(3)) * 0.02
    assert float((~keep_above(scores, -0.035)).float().mean()) == pytest.approx(0.0401, abs=0.001)
