"""torchrun, Kubeflow, SageMaker: the place that they give a process is used, and the run is the one that mft starts itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.distributed.placed import drives_node, is_placed, with_place
from mft_cli.distributed.ranks import join
from mft_cli.errors import UserError
from tests.support.tiny import ROOT, mft, tiny_overrides

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node0",
            "MASTER_PORT": "1234"}  # fmt: skip
KUBEFLOW = {"RANK": "2", "WORLD_SIZE": "3", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}


def test_torchs_names_become_launch_settings():
    launch = with_place(LaunchConfig(), TORCHRUN, gpus=0)
    assert (launch.processes, launch.nodes, launch.node_rank) == (4, 2, 1)
    assert (launch.host, launch.port) == ("node0", 1234)
    launch = with_place(LaunchConfig(), KUBEFLOW, gpus=1)
    assert (launch.gpus, launch.processes, launch.nodes, launch.node_rank) == (1, None, 3, 2)
    assert with_place(LaunchConfig(device="cpu"), KUBEFLOW, gpus=1).processes == 1


def test_the_first_process_of_a_node_drives_it():
    assert not drives_node(TORCHRUN)
    assert drives_node({**TORCHRUN, "LOCAL_RANK": "0"})
    assert drives_node(KUBEFLOW)
    assert not is_placed({})
    assert not is_placed({"RANK": "0", "WORLD_SIZE": "1"})


@pytest.mark.parametrize(
    ("launch", "environment", "message"),
    [
        (LaunchConfig(processes=2), TORCHRUN, "launch.processes=2, but RANK and WORLD_SIZE are set"),
        (LaunchConfig(name="slurm"), TORCHRUN, "launch=slurm: RANK and WORLD_SIZE are set"),
        (LaunchConfig(), {**TORCHRUN, "WORLD_SIZE": "7"}, "WORLD_SIZE=7 is no multiple of LOCAL_WORLD_SIZE=4"),
        (LaunchConfig(), {**TORCHRUN, "MASTER_PORT": "x"}, "MASTER_PORT=x: expected a whole number"),
        (LaunchConfig(), {"RANK": "1", "WORLD_SIZE": "2"}, "MASTER_ADDR is not"),
    ],
)
def test_places_that_cannot_be_used(launch: LaunchConfig, environment: dict[str, str], message: str):
    with pytest.raises(UserError, match=message):
        with_place(launch, environment, gpus=0)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "3"}, "WORLD_SIZE=3 is set in the environment, RANK is not"),
        ({"WORLD_SIZE": "three"}, "WORLD_SIZE=three: expected a whole number"),
        ({"WORLD_SIZE": "3", "RANK": "first"}, "RANK=first: expected a whole number"),
    ],
)
def test_what_other_programs_left_in_the_environment_is_told(monkeypatch, environment: dict[str, str], message: str):
    monkeypatch.delenv("RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        join(torch.device("cpu"))


def losses(run: Path) -> list[float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row["kind"] == "train"]


def test_torchrun_trains_one_run_on_its_ranks(tiny_model: Path, problem_file: Path, tmp_path: Path):
    words = tiny_overrides(tiny_model, problem_file, **{"train.max_steps": 2})
    own = mft("train", *words, "launch.processes=2", "run_dir=own", cwd=tmp_path)
    assert own.returncode == 0, own.stderr
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mft_cli", "train", *words,
         "run_dir=placed"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("exported step 2") == 1
    assert losses(tmp_path / "placed") == losses(tmp_path / "own")


def test_a_sweep_is_refused(tmp_path: Path):
    done = mft("train", "-m", "seed=1,2", cwd=tmp_path, env={**KUBEFLOW, "RANK": "0"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "a sweep starts its runs itself" in done.stderr
