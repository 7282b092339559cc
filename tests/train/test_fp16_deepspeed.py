"""fp16 under DeepSpeed: loss scaling, skipped steps and a resume, on a CPU whose accelerator is said to multiply fp16.

DeepSpeed refuses fp16 on processors without fp16 products; torch computes it on every one. So its answer to that one question
is changed, and all the arithmetic is DeepSpeed's own.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from tests.support.tiny import ROOT

PROGRAM = """
import json, sys, torch, yaml
from torch import nn
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
CPU_Accelerator.is_fp16_supported = lambda self: True
from mft_cli.config import compose, deepspeed, load
from mft_cli.distributed.ranks import Ranks
from mft_cli.methods.base import Losses
from mft_cli.train import engine_deepspeed
engine_deepspeed.make_head_loss = lambda model: None

def make(stage):
    preset = yaml.safe_load((compose.CONF / f"deepspeed/{stage}.yaml").read_text())
    asked = load.train_config({"model": {"path": "x"}, "data": {"sources": {"x": {"path": "x"}}}, "deepspeed": preset,
                                 "train": {"precision": "fp16", "learning_rate": 0.01}})
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    groups = [{"params": list(model.named_parameters()), "decay": True, "scale": 1.0}]
    document = deepspeed.ds_config(asked.deepspeed, asked.train, None, "fp16", 1)
    return engine_deepspeed.DeepSpeedEngine(model, groups, asked.train, "fp16", document, torch.device("cpu"), Ranks())

def step(engine, k, factor=1.0):
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(k)).half()
    losses = engine.run(lambda model, x: Losses({"ce": (model(x).float() ** 2).sum() / 32}), x)
    loss = losses.sums["ce"] * factor
    engine.backward(loss, last=True)
    outcome = engine.step(0.01, float(loss.detach()))
    weights = [engine.master(n).double().sum().item() for n in engine.named]
    return {**vars(outcome), "loss": float(loss.detach()), "scale": float(engine.zero.loss_scale), "weights": weights}

found = {}
for stage in sys.argv[1:]:
    engine = make(stage)
    rows = [step(engine, k) for k in range(3)] + [step(engine, 3, 1e6), step(engine, 4, 1e6)] + [step(engine, 5)]
    parts = {}
    for f in engine.shards():
        parts[f.name] = f.weight.clone().reshape(-1)
        parts |= {f"{f.name}::{k}": v.clone().reshape(-1) for k, v in f.moments.items()}
    small = engine.state()
    rows += [step(engine, 6)]
    again = make(stage)
    read = lambda name, start, count: parts[name][:count]
    again.load(read, read, small)
    resumed = step(again, 6)
    bad = [step(again, 7, float("nan")) for _ in range(22)]
    found[stage] = {"rows": rows, "resumed": resumed, "bad": bad}
print(json.dumps(found))
"""
STAGES = ("zero1", "zero2", "zero3")


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *STAGES], capture_output=True, text=True, timeout=300, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if "needs" in done.stderr and "compiler" in done.stderr:
        pytest.skip("no C++ compiler: fp16 under DeepSpeed is NOT tested")
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("stage", STAGES)
def test_overflow_lowers_the_scale_and_leaves_the_weights(found, stage):
    rows = found[stage]["rows"]
    assert [r["applied"] for r in rows] == [True, True, True, False, False, True, True]
    assert [r["finding_loss_scale"] for r in rows] == [False, False, False, True, True, False, False]
    assert rows[4]["weights"] == rows[2]["weights"] != rows[5]["weights"]
    assert rows[4]["scale"] < rows[2]["scale"] == 2**16
    for row, same in zip(rows, found["zero1"]["rows"], strict=True):
        assert row["loss"] == pytest.approx(same["loss"], rel=1e-3)
        if row["applied"]:
            assert 0 < row["norm"] == pytest.approx(same["norm"], rel=1e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_a_resume_goes_on_with_the_scale_that_was_found(found, stage):
    assert found[stage]["resumed"] == found[stage]["rows"][-1]


@pytest.mark.parametrize("stage", STAGES)
def test_bad_steps_at_the_lowest_scale_are_counted_and_not_raised(found, stage):
    """DeepSpeed would raise a bare exception there; train.max_bad_steps is to stop the run in one sentence."""
    bad = found[stage]["bad"]
    assert not any(r["applied"] for r in bad)
    assert all(math.isnan(r["loss"]) for r in bad)
    assert bad[-1]["scale"] == 1.0
    assert [r["finding_loss_scale"] for r in bad] == sorted((r["finding_loss_scale"] for r in bad), reverse=True)
    assert not bad[-1]["finding_loss_scale"]
