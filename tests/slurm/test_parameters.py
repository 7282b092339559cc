"""launch.slurm.* as what submitit and srun are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mft_cli.config.schema.launching import LaunchConfig, SlurmConfig
from mft_cli.slurm import srun
from mft_cli.slurm.requeue import decide
from mft_cli.slurm.submit import job_parameters

SLURM = SlurmConfig(
    partition="gpu", account="me", qos="high", time="12:00:00", cpus_per_task=4, memory="200G", constraint="a100",
    container="image.sqsh", container_mounts=["/data:/data", "/home:/home"], max_requeues=2, extra={"exclusive": ""},
)  # fmt: skip
LAUNCH = LaunchConfig(name="slurm", gpus=8, nodes=2, slurm=SLURM, host="node0", port=2000)


def test_a_job_asks_for_what_is_set_and_for_nothing_else():
    asked = job_parameters(LAUNCH, "mft-sft")
    expected = {"partition": "gpu", "account": "me", "qos": "high", "time": "12:00:00", "nodes": 2, "ntasks_per_node": 8,
                "cpus_per_task": 4, "gpus_per_node": 8, "constraint": "a100", "array_parallelism": 256}  # fmt: skip
    assert {key: asked[key] for key in expected} == expected
    assert asked["additional_parameters"] == {"signal": "B:USR1@120", "requeue": True, "mem": "200G", "exclusive": True}
    assert job_parameters(LaunchConfig(slurm=SlurmConfig(gpus_per_node=3), gpus=2), "x")["gpus_per_node"] == 3
    bare = job_parameters(LaunchConfig(), "x")
    assert all(bare[key] is None for key in ("partition", "qos", "constraint", "cpus_per_task", "gpus_per_node"))


def test_ranks_run_in_the_container_with_their_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(srun.shutil, "which", lambda name: f"/usr/bin/{name}")
    command, environment = srun.srun_call(["mft", "rank"], LAUNCH, 8, tmp_path)
    assert {"--nodes=2", "--ntasks=16", "--cpus-per-task=4", "--container-image=image.sqsh"} < set(command)
    assert "--container-mounts=/data:/data,/home:/home" in command
    assert command[-2:] == ["mft", "rank"]
    assert (environment["WORLD_SIZE"], environment["MASTER_ADDR"], environment["MASTER_PORT"]) == (
        "16",
        "node0",
        "2000",
    )


def test_a_job_is_requeued_so_often_and_no_more(monkeypatch: pytest.MonkeyPatch):
    facts = {"JobState": "RUNNING", "BatchFlag": "1"}
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert decide(SLURM, "SIGUSR1", facts) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert "launch.slurm.max_requeues" in (decide(SLURM, "SIGUSR1", facts) or "")


def test_an_evaluation_is_one_task_with_all_the_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from mft_cli.config.schema.runs import EvalRunConfig
    from mft_cli.slurm import submit

    asked = {}

    def remember(drivers, folder, parameters, dry_run):
        asked.update(parameters)
        assert drivers[0].arguments == ("eval", f"--frozen={tmp_path / 'eval.json'}")
        return ["7"]

    monkeypatch.setattr(submit, "submit", remember)
    assert submit.submit_evaluation(EvalRunConfig(launch=LAUNCH), tmp_path) == ["7"]
    assert (asked["job_name"], asked["ntasks_per_node"], asked["gpus_per_node"]) == ("mft-eval", 1, 8)
    assert (tmp_path / "eval.json").is_file()
