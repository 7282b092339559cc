"""Schedules against transformers' own and against their definition."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

from mft_cli.config.schema.training import TrainingConfig
from mft_cli.train.optimizer import learning_rate_factor, make_adamw, set_learning_rate, warmup_steps


def factors(total: int, **settings: object) -> list[float]:
    config = TrainingConfig(**settings)
    return [learning_rate_factor(k, total, config) for k in range(total)]


@pytest.mark.parametrize("warm", [0, 1, 7])
@pytest.mark.parametrize("total", [8, 50])
def test_equals_transformers(warm: int, total: int):
    makers = {
        "linear": (get_linear_schedule_with_warmup, {}),
        "cosine": (get_cosine_schedule_with_warmup, {}),
        "cosine_min": (get_cosine_with_min_lr_schedule_with_warmup, {"min_lr_rate": 0.1}),
    }
    for name, (maker, more) in makers.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = maker(optimizer, num_warmup_steps=warm, num_training_steps=total, **more)
        expected = []
        for _ in range(total):
            expected.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        ours = factors(total, schedule=name.split("_")[0], warmup_steps=warm, min_ratio=0.1 if more else 0.0)
        assert ours == pytest.approx(expected, abs=1e-12)


def test_metamath_recipe():
    """Cosine to 5 % at 60 % of training, then linear to 0."""
    found = factors(1000, schedule="cosine", warmup_steps=0, min_ratio=0.05, decay_fraction=0.6, tail="linear")
    assert found[0] == 1
    assert found[600] == pytest.approx(0.05)
    assert found[800] == pytest.approx(0.025)
    assert found[999] == pytest.approx(0.05 / 400)
    constant = factors(1000, schedule="cosine", warmup_steps=0, min_ratio=0.05, decay_fraction=0.6)
    assert constant[800] == constant[999] == 0.05


@given(
    st.integers(1, 300),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0.01, 1),
    st.sampled_from(["constant", "linear", "cosine"]),
    st.sampled_from(["constant", "linear"]),
)
def test_always_between_zero_and_one_and_never_rising_after_warmup(total, warm, low, end, schedule, tail):
    settings = {"schedule": schedule, "warmup_fraction": warm, "min_ratio": low, "decay_fraction": end, "tail": tail}
    found = factors(total, **settings)
    assert all(0 <= f <= 1 for f in found)
    start = warmup_steps(TrainingConfig(**settings), total)
    falling = found[start:]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(falling))


def test_decay_on_matrices_only_and_scaled_rates():
    matrix, vector = torch.ones(2, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    groups = [{"params": [matrix], "decay": True, "scale": 1.0}, {"params": [vector], "decay": False, "scale": 10.0}]
    optimizer = make_adamw(groups, TrainingConfig(weight_decay=0.1))
    set_learning_rate(optimizer, 0.01)
    assert [g["lr"] for g in optimizer.param_groups] == [0.01, 0.1]
    matrix.grad, vector.grad = torch.zeros_like(matrix), torch.zeros_like(vector)
    optimizer.step()
    assert torch.allclose(matrix, torch.full((2, 2), 1 - 0.01 * 0.1))
    assert torch.equal(vector, torch.ones(2))
