"""fp32 masters behind 16-bit weights: accumulation in fp32, clipping, skipped steps, loss scaling."""

import copy
import math

import pytest
import torch
from torch import nn

from mft_cli.config.schema.training import TrainingConfig
from mft_cli.train import checkpoint
from mft_cli.train.engine import LossScale, TorchEngine, norm_of


def make(precision: str, **settings: object) -> TorchEngine:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    groups = [{"params": list(model.named_parameters()), "decay": True, "scale": 1.0}]
    return TorchEngine(model, groups, TrainingConfig(**settings), precision, torch.device("cpu"))


def loss(engine: TorchEngine, seed: int) -> torch.Tensor:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed)).to(engine.dtype)
    return (engine.model(x).float() ** 2).sum() / 32


def test_masters_accumulate_in_fp32():
    engine = make("bf16")
    plain = copy.deepcopy(engine.model)
    expected = [torch.zeros_like(p, dtype=torch.float32) for p in plain.parameters()]
    for seed in range(5):
        for p, total, g in zip(
            plain.parameters(),
            expected,
            torch.autograd.grad(loss_of(plain, seed), list(plain.parameters())),
            strict=True,
        ):
            total += g.float()
            assert p.grad is None
        engine.backward(loss(engine, seed), last=True)
    for name, total in zip(engine.named, expected, strict=True):
        assert torch.equal(engine.master(name).grad, total)
        assert engine.named[name].grad is None
        assert engine.master(name).dtype == torch.float32
        assert engine.named[name].dtype == torch.bfloat16


def loss_of(model: nn.Module, seed: int) -> torch.Tensor:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed)).to(next(model.parameters()).dtype)
    return (model(x).float() ** 2).sum() / 32


def test_small_updates_are_not_lost_in_bf16():
    engine = make("bf16", learning_rate=1e-6, warmup_fraction=0.0)
    before = {n: engine.master(n).clone() for n in engine.named}
    for seed in range(20):
        engine.backward(loss(engine, seed), last=True)
        engine.step(1e-6, 1.0)
    for name in engine.named:
        moved = (engine.master(name) - before[name]).abs()
        assert float(moved.max()) > 5e-6  # each alone is far below bf16's spacing
        assert torch.equal(engine.named[name], engine.master(name).bfloat16())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_clipping_is_torchs(precision: str):
    engine = make(precision, max_grad_norm=0.01, learning_rate=0.1)
    engine.backward(loss(engine, 1), last=True)
    gradients = [engine.master(n).grad.clone() for n in engine.named]
    norm = engine.gradient_norm()
    expected = torch.nn.utils.get_total_norm(gradients)
    assert norm == pytest.approx(float(expected), rel=1e-6)
    kept: list[torch.Tensor] = []
    engine.optimizer.step = lambda: kept.extend(engine.master(n).grad.clone() for n in engine.named)  # type: ignore[method-assign]
    assert engine.step(0.1, 1.0).norm == norm
    for g, k in zip(gradients, kept, strict=True):
        torch.testing.assert_close(k, g * 0.01 / (norm + 1e-6))


def test_the_norm_of_a_large_gradient_is_exact():
    """torch's own sum over so many elements in fp32 is off by some 1e-4 on processors."""
    drawn = torch.randn(4_000_037, generator=torch.Generator().manual_seed(1))
    gradients = [drawn[:3_999_000].exp().view(31, 129_000).t(), drawn[3_999_000:], torch.ones(()), torch.ones(1024)]
    expected = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    assert norm_of(gradients) == pytest.approx(expected, rel=1e-7)
    assert float(torch.stack(torch._foreach_norm(gradients)).norm()) != pytest.approx(expected, rel=1e-5)
    assert math.isnan(norm_of([*gradients, torch.tensor([math.nan])]))


def test_skip_leaves_weights_and_moments_alone():
    engine = make("fp32")
    before = copy.deepcopy(engine.model.state_dict())
    engine.backward(loss(engine, 1) * float("nan"), last=True)
    outcome = engine.step(0.1, 1.0)
    assert outcome.norm != outcome.norm
    assert not outcome.applied
    assert not outcome.finding_loss_scale
    assert all(torch.equal(before[k], v) for k, v in engine.model.state_dict().items())
    assert not engine.optimizer.state


def test_loss_scale():
    scale = LossScale()
    assert scale.bad()
    assert scale.scale == 2.0**15
    for _ in range(2000):
        scale.good()
    assert scale.scale == 2.0**16
    for _ in range(16):
        assert scale.bad()
    assert not scale.bad()  # below 1: the fault is not the scale


def test_state_round_trip(tmp_path):
    first = make("bf16", learning_rate=0.01)
    for seed in range(3):
        first.backward(loss(first, seed), last=True)
        first.step(0.01, 1.0)
    second = make("bf16", learning_rate=0.01)
    stored = checkpoint.Stored(checkpoint.save(tmp_path, 3, first.shards(), {"engine": first.state()}))
    second.load(stored.read, stored.read, stored.trainer["engine"])
    for engine in (first, second):
        engine.backward(loss(engine, 9), last=True)
        engine.step(0.01, 1.0)
    for name in first.named:
        assert torch.equal(first.master(name), second.master(name))
        assert torch.equal(first.named[name], second.named[name])
