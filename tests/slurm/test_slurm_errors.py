"""What is said when SLURM is not to be reached, or says no. No SLURM is needed: the texts are those of 22.05."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mft_cli.errors import UserError
from mft_cli.slurm import requeue as slurm
from mft_cli.slurm.submit import refusal
from mft_cli.sweep.ledger import Ledger
from tests.support.tiny import mft, tiny_overrides

NO_CONFIGURATION = """sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
sbatch: error: fetch_config: DNS SRV lookup failed
sbatch: error: _establish_config_source: failed to fetch config
sbatch: fatal: Could not establish a configuration source"""
NO_CONTROLLER = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"
NO_PARTITION = """sbatch: error: invalid partition specified: nowhere
sbatch: error: Batch job submission failed: Invalid partition name specified"""


def test_a_refusal_is_one_sentence():
    nothing = "launch=slurm: nothing was submitted, SLURM does not answer"
    again = "; try again when sinfo does"
    assert refusal(NO_CONFIGURATION) == f"{nothing} (Could not establish a configuration source){again}"
    assert refusal(NO_CONTROLLER) == f"{nothing} (Unable to contact slurm controller (connect failure)){again}"
    words = "invalid partition specified: nowhere; Invalid partition name specified"
    assert refusal(NO_PARTITION) == f"sbatch refused the job: {words}; see launch.slurm.*"
    assert slurm.in_short("slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n") == (
        "Unable to contact slurm controller (connect failure)"
    )


def test_an_unreachable_controller(tiny_model: Path, problem_file: Path, tmp_path: Path):
    """A program named sbatch that fails as SLURM's does without a controller; SLURM itself waits for seconds first."""
    pytest.importorskip("submitit", reason="submitit is not installed: nothing can be submitted")
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{NO_CONTROLLER}' >&2\nexit 1\n")
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = mft("train", *tiny_overrides(tiny_model, problem_file), "launch=slurm", cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert done.stderr == f"mft: {refusal(NO_CONTROLLER)}\n"


def test_a_sweep_whose_controller_is_silent_says_so_and_starts_nothing_twice(tmp_path: Path, monkeypatch):
    """squeue is asked once, not once a job."""
    asked = tmp_path / "asked"
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho x >> '{asked}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.path.dirname(shutil.which('sh') or '/bin/sh')}")
    ledger = Ledger(tmp_path / "sweep")
    for number in range(3):
        ledger.add([f"seed={number}"])
        ledger.update(number, state="queued")
        ledger.set_cluster_id(number, f"7_{number}")
    jobs = ledger.truths()
    assert [job.state for job in jobs] == ["queued"] * 3
    assert all("SLURM does not answer" in job.message for job in jobs)
    assert asked.read_text().count("x") == 1
    with pytest.raises(UserError, match="SLURM does not answer"):
        ledger.known_truths()
