"""The host waits for the device twice an optimizer step: for what is logged, and for the gradient's norm."""

from __future__ import annotations

import pytest
import torch

from mft_cli.methods import selection
from mft_cli.train.loop import Trainer
from tests.methods.test_contract import CASES, make_trainer, settings
from tests.support.waits import counting_waits

MOST = 2


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_a_step_waits_twice(tiny_model, problem_file, tmp_path, monkeypatch, method, variant):
    """Whatever the method and the number of micro-batches. Rows are laid out and corrupted by the processor: not counted."""
    trainer = make_trainer(settings(tiny_model, problem_file, method, variant, tmp_path, micro_batch_size=1))
    if trainer.method.hides_positions:
        pytest.skip("on processors attention asks which documents hide something; GPUs do not")
    monkeypatch.setattr(selection, "sorts", lambda scores: True)  # as GPUs select
    trainer.step(0)
    with counting_waits() as waits:
        batches_of_step = Trainer.batches_of_step

        def uncounted(self: Trainer, k: int) -> object:
            with waits.paused():
                return batches_of_step(self, k)

        monkeypatch.setattr(Trainer, "batches_of_step", uncounted)
        result = trainer.step(1)
    assert result.applied
    assert sum(waits.counts.values()) <= MOST, waits.counts


def test_what_waits_is_counted():
    x = torch.arange(6.0)
    for wait in (lambda: float(x.sum()), lambda: x[x > 2], lambda: x.tolist(), lambda: bool(x.any()), x.nonzero):
        with counting_waits() as waits:
            wait()
        assert sum(waits.counts.values()) == 1, wait
    with counting_waits() as waits:
        x[torch.tensor([1, 2])]
    assert not waits.counts
