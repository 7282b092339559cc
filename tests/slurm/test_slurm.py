"""Against a real SLURM, started for these tests: submit, array, failure and retry, preemption, time limit, scancel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from slurm_cluster import Cluster, why_not
from tiny import ROOT, tiny_overrides

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
WAIT_S = 100.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(cpus=2, kill_wait_s=20) as running:
        yield running


class Site:
    """A folder on the cluster from which jobs are submitted."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder = cluster, folder
        path = f"{Path(sys.executable).parent}:{cluster.env['PATH']}"
        offline = {k: os.environ[k] for k in ("MFT_CACHE_DIR", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")}
        self.env = {"PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1", **offline}

    def run(self, *command: str, check: bool = True):
        return self.cluster.run(*command, cwd=self.folder, env=self.env, check=check)

    def mft(self, *arguments: str, check: bool = True):
        return self.run(sys.executable, "-m", "mft_cli", *arguments, check=check)

    def train(self, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Submit slurm/train.sbatch; the job's id."""
        done = self.run("sbatch", "--parsable", *options, str(ROOT / "slurm" / "train.sbatch"), *arguments)
        return done.stdout.strip()

    def ended(self, job: str) -> dict[str, str]:
        """Wait until the job has left the queue; what SLURM says of it."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL")
        self.until(lambda: self.cluster.job(job)["JobState"] in over, lambda: f"job {job} to end: {self.output(job)}")
        return self.cluster.job(job)

    def output(self, job: str) -> str:
        files = [*self.folder.glob(f"slurm-*-{job}.out"), *self.folder.rglob(f"{job}_0_log.out")]
        return "\n".join(f.read_text() for f in files)

    def state(self, run: str = "run") -> dict:
        file = self.folder / run / "state.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def until(self, happened: Callable[[], bool], what: Callable[[], str]) -> None:
        end = time.monotonic() + WAIT_S
        while not happened():
            assert time.monotonic() < end, f"waited in vain for {what()}\n{self.cluster.run('squeue').stdout}"
            time.sleep(0.1)

    def until_saved(self, job: str, run: str = "run") -> None:
        """Wait until the run has a checkpoint and is still on its way."""
        self.until(lambda: self.state(run).get("step", 0) > 0, lambda: f"a checkpoint: {self.output(job)}")
        assert self.state(run)["state"] == "running"


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Iterator[Site]:
    here = Site(cluster, tmp_path)
    yield here
    cluster.run("scancel", "--user=root", check=False)
    here.until(lambda: not cluster.run("squeue", "--noheader").stdout.strip(), lambda: "an empty queue")


def steps(count: int) -> dict[str, int]:
    """60 steps take about a second."""
    return {"train.max_steps": count, "checkpoint.every_steps": 50}


def weights(run: Path) -> bytes:
    return (run / "export" / "model.safetensors").read_bytes()


class Undisturbed:
    """The same run without SLURM, at the same time on the other core."""

    def __init__(self, site: Site, *arguments: str):
        self.run = site.folder / "undisturbed"
        command = [sys.executable, "-m", "mft_cli", "train", *arguments, f"run_dir={self.run}"]
        self.process = subprocess.Popen(
            command, cwd=site.folder, env={**site.cluster.env, **site.env}, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def weights(self) -> bytes:
        output, _ = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 0, output
        return weights(self.run)


def test_train_script_and_words_with_blanks_and_quotes(site, tiny_model, problem_file):
    note = 'two  blanks, a "quote", it\'s $HOME `x` ü'
    quoted = note.replace("\\", "\\\\").replace('"', '\\"')
    job = site.train(*tiny_overrides(tiny_model, problem_file, run_dir="run"), f'note="{quoted}"')
    assert site.ended(job)["JobState"] == "COMPLETED", site.output(job)
    assert site.state()["state"] == "done"
    assert yaml.safe_load((site.folder / "run" / "config.yaml").read_text())["note"] == note


def test_a_run_submits_itself_and_evaluates_in_a_second_job(site, tiny_model, problem_file):
    small = {"eval": "local_benchmark"}
    del small
    done = site.mft("train", "launch=slurm", *tiny_overrides(tiny_model, problem_file, run_dir="run"))
    job = re.search(r"SLURM job (\d+);", done.stdout)[1]
    assert site.ended(job)["JobState"] == "COMPLETED", site.output(job)
    assert site.state()["state"] == "done"


def test_preemption(site, tiny_model, problem_file):
    same = tiny_overrides(tiny_model, problem_file, **steps(700))
    job = site.train(*same, "run_dir=run")
    undisturbed = Undisturbed(site, *same)
    site.until_saved(job)
    urgent = site.run("sbatch", "--parsable", "--partition=urgent", "--exclusive", "--wrap=sleep 1").stdout.strip()
    site.ended(urgent)
    facts = site.ended(job)
    output = site.output(job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), output
    assert "is requeued by SLURM" in output
    assert "stopped by SIGTERM after step" in output
    assert weights(site.folder / "run") == undisturbed.weights()


def test_time_limit(site, tiny_model, problem_file):
    """SLURM looks at its limits every 30 s, and sends the signal up to a minute early: here within 30 s of the start."""
    same = tiny_overrides(tiny_model, problem_file, **steps(1800))
    job = site.train(*same, "run_dir=run", options=("--time=1", "--signal=B:USR1@1"))
    undisturbed = Undisturbed(site, *same)
    site.until(lambda: site.cluster.job(job)["Restarts"] == "1", lambda: f"the requeue: {site.output(job)}")
    site.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    facts = site.ended(job)
    output = site.output(job)
    assert facts["JobState"] == "COMPLETED", output
    assert "stopped by SIGUSR1" in output
    assert "goes back into the queue" in output
    assert weights(site.folder / "run") == undisturbed.weights()


def test_scancel(site, tiny_model, problem_file):
    job = site.train(*tiny_overrides(tiny_model, problem_file, run_dir="run", **steps(700)))
    site.until_saved(job)
    site.run("scancel", job)
    facts = site.ended(job)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    site.until(lambda: site.state()["state"] == "stopped", lambda: site.output(job))
    site.until(lambda: "was cancelled: not requeued" in site.output(job), lambda: site.output(job))
