"""A run that has ended holds nothing: the evaluation after it and the next job of a sweep have the device to themselves."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mft_cli.config.compose import CONF
from mft_cli.train.run import train
from tests.support.training import training


def alive_bytes() -> int:
    """Of all tensors in this process, every storage once; what other tests compiled leaves fake tensors, which have none."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter) and o.device.type == "cpu"]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("engine", ["none", "zero1", "zero2", "zero3"])
def test_nothing_of_a_run_stays(engine: str, tiny_model: Path, problem_file: Path, tmp_path: Path) -> None:
    deepspeed: dict[str, Any] = yaml.safe_load((CONF / "deepspeed" / f"{engine}.yaml").read_text())
    sections = {"deepspeed": deepspeed, "train": {"max_steps": 2, "precision": "bf16"}}
    train(training(tiny_model, problem_file, tmp_path / "warm", **sections))  # what a library keeps once and for all
    before = alive_bytes()
    train(training(tiny_model, problem_file, tmp_path / "run", **sections))
    assert alive_bytes() - before < 20_000  # one copy of the weights alone has 56,000
