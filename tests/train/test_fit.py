"""train.micro_batch_size=auto: from the plan, then a trial; a GPU without memory is played by the engine."""

from __future__ import annotations

import pytest
import torch

from mft_cli.config.load import train_config
from mft_cli.data.deal import Layout
from mft_cli.plan.rows import rows_that_fit
from mft_cli.run_dir import RunDir
from mft_cli.train import fit
from mft_cli.train.loop import Trainer
from mft_cli.train.settings import changed_keys, settings_digest
from tests.methods.test_contract import make_trainer, settings
from tests.plan.test_plan import make_config

GB = 1e9


@pytest.fixture
def trainer(tiny_model, problem_file, tmp_path) -> Trainer:
    """Rows of one example, so that a row is as wide as its longest."""
    return make_trainer(settings(tiny_model, problem_file, "masked_thought", {}, tmp_path, packing=False))


def room_for(trainer: Trainer, rows: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU that has memory for so many rows; the numbers of rows that were tried."""
    run, tried = trainer.engine.run, []

    def limited(loss, batch):
        tried.append(len(batch.input_ids))
        if len(batch.input_ids) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(loss, batch)

    monkeypatch.setattr(trainer.engine, "run", limited)
    return tried


def test_rows_are_halved_until_they_fit(trainer, monkeypatch):
    tried = room_for(trainer, 2, monkeypatch)
    lines: list[str] = []
    assert fit.rows_by_trial(trainer, 8, lines.append) == 2
    assert tried == [8, 4, 2]
    assert lines[0] == "8 rows in one forward pass do not fit this GPU's memory: 4 are tried"
    assert all(trainer.engine.master(n).grad is None for n in trainer.engine.named)
    assert fit.rows_by_trial(trainer, 1, lines.append) == 1  # less there is not: the step itself tells it


def test_the_choice_is_of_the_plan_the_step_and_the_run_before(trainer, monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0, 80 * GB))
    room_for(trainer, 1000, monkeypatch)
    most = fit.rows_of_a_step(trainer)
    assert most == 8  # examples of a step, each a row
    asked: list[tuple[object, ...]] = []
    for should, expected in ((4, 4), (64, 8)):
        rows = fit.choose_rows(
            trainer, "bf16", lambda *facts, n=should: asked.append(facts[1:]) or n, lambda line: None
        )
        assert rows == trainer.layout.micro_batch_size == expected
    assert asked[0] == ("bf16", 1, 1, 80 * GB)
    trainer.state.step = 3
    monkeypatch.setattr(RunDir, "get_provenance", lambda run: {"micro_batch_size": 2, "ranks": 1})
    assert fit.choose_rows(trainer, "bf16", lambda *facts: 64, lambda line: None) == 2


def test_no_number_depends_on_the_trial(tiny_model, problem_file, tmp_path):
    losses = []
    for name in ("tried", "not"):
        made = make_trainer(settings(tiny_model, problem_file, "masked_thought", {}, tmp_path / name))
        if name == "tried":
            assert fit.fits(made, 2)
        losses.append([(r.loss, r.norm) for r in (made.step(0), made.step(1))])
    assert losses[0] == losses[1]


def test_the_longest_examples_are_tried(trainer):
    lengths = trainer.train.lengths
    layout = Layout(row_length=2 * int(lengths.max()), packing=True, micro_batch_size=2)
    rows = fit.longest_rows(trainer.train, layout)
    assert len(rows) == 2
    assert int(lengths[rows[0]].max()) == int(lengths.max())


def test_memory_of_the_plan_decides():
    """Llama-2-7B on eight GPUs: 126.9 GB without ZeRO, 33.4 under zero2 with a row of 1,024 tokens."""
    from mft_cli.config.schema.launching import DeepspeedConfig

    zero2 = make_config(deepspeed=DeepspeedConfig(name="zero2", config={"zero_optimization": {"stage": 2}}))
    counts = [rows_that_fit(zero2, "bf16", 8, 8, memory * GB) for memory in (24, 80, 192)]
    assert counts[0] == 1
    assert counts[0] < counts[1] < counts[2]
    assert rows_that_fit(make_config(), "bf16", 8, 8, 80 * GB) == 1
    assert rows_that_fit(make_config("nobody/knows"), "bf16", 8, 8, 80 * GB) == 1


def test_auto_is_one_row_on_processors_and_no_other_run(tiny_model, problem_file, tmp_path, monkeypatch):
    """Names of run folders and resumes are those of micro_batch_size=1."""
    values = {
        "model": {"path": str(tiny_model)},
        "data": {"sources": {"x": {"path": str(problem_file), "response": "answer"}}},
    }
    auto, one, two = (
        train_config({**values, "train": train}) for train in ({}, {"micro_batch_size": 1}, {"micro_batch_size": 2})
    )
    assert auto.train.micro_batch_size == "auto"
    assert auto.train.rows_at_once == 1
    assert settings_digest(auto) == settings_digest(one) != settings_digest(two)
    monkeypatch.setattr("mft_cli.train.settings.stored_config", lambda run: one)
    assert changed_keys(RunDir(tmp_path), auto) == {}
    assert changed_keys(RunDir(tmp_path), two) == {"train.micro_batch_size": (1, 2)}
