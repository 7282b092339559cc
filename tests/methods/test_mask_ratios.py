"""A source's own mask_ratio takes precedence over the method's, to the last bit."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from mft_cli.methods.base import mask_ratios


def test_a_sources_ratio_comes_before_the_methods():
    batch = SimpleNamespace(ratio=torch.tensor([[float("nan"), 0.25, 0.1]]))
    expected = torch.tensor([[0.4, 0.25, float(torch.tensor(0.1))]], dtype=torch.float64)  # 0.1 is stored in fp32
    assert torch.equal(mask_ratios(batch, 0.4), expected)
