"""A rank that stands still is named while the others wait, and as the cause when they give up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.tiny import ROOT, tiny_overrides


def test_a_stopped_rank_is_named_and_ends_the_run(tiny_model: Path, problem_file: Path, tmp_path: Path):
    """It is stopped (SIGSTOP), as by a node that hangs; 12 seconds are waited for it, not hours."""
    words = [*tiny_overrides(tiny_model, problem_file, run_dir=tmp_path / "run"), "launch.timeout_minutes=0.2"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "mft_cli", "train", *words, "launch.processes=2", "train.max_steps=100000"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert driver.stdout is not None
    for line in driver.stdout:
        if "steps to go" in line:
            break
    ranks = {p.environ()["RANK"]: p for p in psutil.Process(driver.pid).children() if "rank" in p.cmdline()}
    ranks["1"].suspend()
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert said.count("rank 1 is behind: the others have waited ") == 1
    cause = "rank 0 gave up waiting for another rank after 0.2 minutes (launch.timeout_minutes); rank 1 is behind"
    assert f"mft: {cause}" in said
    assert "Traceback" not in said
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["state"] == "failed"
    assert state["message"] == f"rank 0 failed: {cause}"
