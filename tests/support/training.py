"""Trainings of a second in the test's own process, stopped or broken at a chosen step."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mft_cli.config import load
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.errors import Stopped
from mft_cli.train.loop import Trainer
from mft_cli.train.run import train


def training(model: Path, data: Path, run_dir: Path, /, **sections: dict[str, Any]) -> TrainConfig:
    """A run of five steps on the tiny model; `sections` are laid over it."""
    settings: dict[str, Any] = {
        "run_dir": str(run_dir), "model": {"path": str(model)},
        "data": {"name": "local", "sources": {"local": {"path": str(data), "response": "answer"}}, "max_length": 256},
        "train": {"global_batch_size": 8, "max_steps": 5, "learning_rate": 0.01, "precision": "fp32"},
        "launch": {"threads": 1, "device": "cpu"},
    }  # fmt: skip
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    return load.train_config(settings)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """`action` after optimizer step `step`, before anything is saved."""
    account = Trainer.account

    def acting(self: Trainer, *arguments: Any) -> None:
        account(self, *arguments)
        if self.state.step == step:
            action()

    monkeypatch.setattr(Trainer, "account", acting)


def break_at(config: TrainConfig, step: int, action: Callable[[], object], expected: type[BaseException]) -> str:
    """Trains until `action` after `step` ends it with the exception `expected`; its text."""
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, step, action)
        with pytest.raises(expected) as raised:
            train(config)
    return str(raised.value)


def stop_at(config: TrainConfig, step: int, number: signal.Signals = signal.SIGTERM) -> str:
    return break_at(config, step, lambda: signal.raise_signal(number), Stopped)


def state_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "state.json").read_text()))


def steps_logged(file: Path) -> list[int]:
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]
