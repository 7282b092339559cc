"""Against a real SLURM, started for these tests: submit, array, failure and retry, preemption, time limit, scancel."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.support.slurm_cluster import Cluster, why_not
from tests.support.tiny import ROOT, tiny_overrides

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
WAIT_S = 240.0
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL")
EVALUATION = (
    "eval=gsm_symbolic", "eval.engine=hf", "eval.dtype=float32", "eval.benchmarks.gsm_symbolic.limit=4",
    "eval.benchmarks.gsm_symbolic.max_new_tokens=8",
)  # fmt: skip


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
        self.until(lambda: self.cluster.job(job)["JobState"] in ENDED, lambda: f"job {job} to end: {self.output(job)}")
        return self.cluster.job(job)

    def output(self, job: str) -> str:
        files = [*self.folder.glob(f"slurm-*-{job}.out"), *self.folder.rglob(f"{job}_0_log.out")]
        return "\n".join(f.read_text() for f in files)

    def state(self, run: str = "run") -> dict:
        file = self.folder / run / "state.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def states(self, folder: str) -> list[str]:
        """State of every job of a sweep, as `mft sweep status` tells it."""
        shown = self.mft("sweep", "status", folder).stdout
        return re.findall(
            r" (waiting|queued|running|done|failed|stopped|dead)(?= |$)", shown.split("message", 1)[1], re.M
        )

    def until(self, happened: Callable[[], bool], what: Callable[[], str], seconds: float = WAIT_S) -> None:
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, f"waited in vain for {what()}\n{self.cluster.run('squeue').stdout}"
            time.sleep(0.1)

    @contextlib.contextmanager
    def waiting_queue(self) -> Iterator[None]:
        """Inside, jobs are taken and none begins, so that no processor is too fast for a test."""
        self.cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
        try:
            yield
        finally:
            self.cluster.run("scontrol", "update", "PartitionName=main", "State=UP")

    def hold(self, job: str, run: str = "run", step: int = 50) -> list[psutil.Process]:
        """Wait for the run's checkpoint at a step and stop its processes there, so that no processor is too fast for a test.

        SLURM's own CONT before TERM sets them going again; what gets no CONT is set going by the caller.
        """
        checkpoint = self.folder / run / "checkpoints" / f"step-{step:08d}" / "manifest.json"
        ended = lambda: self.cluster.job(job)["JobState"] in ENDED  # noqa: E731
        self.until(lambda: checkpoint.exists() or ended(), lambda: f"a checkpoint: {self.output(job)}")
        assert not ended(), self.output(job)
        held = [p for p in psutil.process_iter() if self.trains(p, f"run_dir={run}")]
        for process in held:
            process.suspend()
        self.until(lambda: all(p.status() == psutil.STATUS_STOPPED for p in held), lambda: "stopped processes")
        assert held and self.state(run)["state"] == "running"  # noqa: PT018
        return held

    def trains(self, process: psutil.Process, run_dir: str) -> bool:
        with contextlib.suppress(psutil.Error):
            return run_dir in process.cmdline() and Path(process.cwd()) == self.folder
        return False


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


def signalled(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether a stopped process was sent a signal: it is pending, or the process went on with it already."""
    with contextlib.suppress(OSError, psutil.NoSuchProcess):
        pending = re.search(r"ShdPnd:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())[1]
        return bool(int(pending, 16) >> (number - 1) & 1) or process.status() != psutil.STATUS_STOPPED
    return True


def test_train_script_and_words_with_blanks_and_quotes(site, tiny_model, problem_file):
    note = 'two  blanks, a "quote", it\'s $HOME `x` ü'
    quoted = note.replace("\\", "\\\\").replace('"', '\\"')
    job = site.train(*tiny_overrides(tiny_model, problem_file, run_dir="run"), f'note="{quoted}"')
    assert site.ended(job)["JobState"] == "COMPLETED", site.output(job)
    assert site.state()["state"] == "done"
    assert yaml.safe_load((site.folder / "run" / "config.yaml").read_text())["note"] == note


def test_a_run_submits_itself_and_evaluates_in_a_second_job(site, tiny_model, problem_file):
    same = [*tiny_overrides(tiny_model, problem_file, run_dir="run"), *EVALUATION, "launch.slurm.eval_job=true"]
    shown = site.mft("train", "launch=slurm", "launch.dry_run=true", "launch.slurm.memory=1G", *same).stdout
    for line in ("#SBATCH --signal=B:USR1@120", "#SBATCH --mem=1G", "#SBATCH --dependency=afterok:JOBID", "train.json"):
        assert line in shown
    assert not (site.folder / "run").exists()
    done = site.mft("train", "launch=slurm", *same)
    training, evaluation = re.search(r"SLURM job (\d+), then (\d+);", done.stdout).groups()
    assert site.ended(training)["JobState"] == "COMPLETED", site.output(training)
    assert not (site.folder / "run" / "eval").exists()
    assert site.ended(evaluation)["JobState"] == "COMPLETED", site.output(evaluation)
    metrics = json.loads((site.folder / "run" / "eval" / "gsm_symbolic" / "metrics.json").read_text())
    assert metrics["n"] == 4


def test_an_evaluation_waits_in_vain_for_a_training_that_failed(site, tiny_model, problem_file):
    wrong = [*tiny_overrides(tiny_model, problem_file, run_dir="run"), "data.sources.local.response=nothing"]
    done = site.mft("train", "launch=slurm", *wrong, *EVALUATION, "launch.slurm.eval_job=true")
    training, evaluation = re.search(r"SLURM job (\d+), then (\d+);", done.stdout).groups()
    facts = site.ended(training)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "2:0")
    assert site.ended(evaluation)["JobState"] == "CANCELLED"


def test_sweep_with_a_failure_and_its_retry(site, tiny_model, problem_file):
    """Four jobs, two of them on data that is no good yet: the others are done, and a retry runs those two alone."""
    later = site.folder / "later.jsonl"
    later.write_text('{"question": "?"}\n')
    same = [o for o in tiny_overrides(tiny_model, problem_file) if not o.startswith("data.sources.local.path=")]
    words = [
        "train",
        "-m",
        "hydra/launcher=mft_slurm",
        *same,
        "seed=1,2",
        f"data.sources.local.path={problem_file},{later}",
    ]
    shown = site.mft(*words, "launch.dry_run=true").stdout
    assert "#SBATCH --array=0-3%4" in shown
    assert "nothing submitted; 4 jobs composed" in shown
    folder = re.search(r"sweep (\S+)", shown)[1]
    assert site.states(folder) == ["waiting"] * 4
    refused = site.mft(*words, "launch.slurm.partition=nowhere", check=False)
    assert refused.returncode == 2
    assert "sbatch refused the job" in refused.stderr
    with site.waiting_queue():  # a job that has failed would be submitted again, one that is done would not be counted
        done = site.mft(*words)
        again = site.mft(*words, check=False)
    assert re.search(r"submitted 4 jobs as SLURM job \d+", done.stdout)
    assert f"sweep {folder}\n" in done.stdout
    assert "4 jobs queued or running already" in again.stdout
    site.until(lambda: not {"queued", "running"} & set(site.states(folder)), lambda: "the sweep's end")
    assert site.states(folder) == ["done", "failed", "done", "failed"], site.mft("sweep", "status", folder).stdout
    later.write_bytes(problem_file.read_bytes())
    retried = site.mft("sweep", "retry", folder)
    assert "submitted 2 jobs" in retried.stdout
    site.until(lambda: not {"queued", "running"} & set(site.states(folder)), lambda: "the retry's end")
    assert site.states(folder) == ["done"] * 4, site.mft("sweep", "status", folder).stdout


def test_a_cancelled_task_leaves_the_others(site, tiny_model, problem_file):
    words = ["train", "-m", "hydra/launcher=mft_slurm", *tiny_overrides(tiny_model, problem_file), "seed=1,2"]
    with site.waiting_queue():
        done = site.mft(*words, "launch.slurm.max_parallel=1")
        job, folder = re.search(r"SLURM job (\d+)", done.stdout)[1], re.search(r"sweep (\S+)", done.stdout)[1]
        site.run("scancel", f"{job}_1")
    site.until(lambda: not {"queued", "running"} & set(site.states(folder)), lambda: "the sweep's end")
    assert site.states(folder) == ["done", "dead"], site.mft("sweep", "status", folder).stdout


def test_preemption(site, tiny_model, problem_file):
    same = tiny_overrides(tiny_model, problem_file, **steps(300))
    job = site.train(*same, "run_dir=run")
    undisturbed = Undisturbed(site, *same)
    site.hold(job)
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
    same = tiny_overrides(tiny_model, problem_file, **steps(300))
    job = site.train(*same, "run_dir=run", options=("--time=1", "--signal=B:USR1@1"))
    undisturbed = Undisturbed(site, *same)
    [trainer] = site.hold(job)
    site.until(lambda: signalled(trainer, signal.SIGUSR1), lambda: f"the time limit's signal: {site.output(job)}")
    with contextlib.suppress(psutil.NoSuchProcess):
        trainer.resume()
    site.until(lambda: site.cluster.job(job)["Restarts"] == "1", lambda: f"the requeue: {site.output(job)}")
    site.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    facts = site.ended(job)
    output = site.output(job)
    assert facts["JobState"] == "COMPLETED", output
    assert "stopped by SIGUSR1" in output
    assert "goes back into the queue" in output
    assert weights(site.folder / "run") == undisturbed.weights()


def test_scancel(site, tiny_model, problem_file):
    job = site.train(*tiny_overrides(tiny_model, problem_file, run_dir="run", **steps(300)))
    site.hold(job)
    site.run("scancel", job)
    facts = site.ended(job)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
    site.until(lambda: site.state()["state"] == "stopped", lambda: site.output(job))
    site.until(lambda: "was cancelled: not requeued" in site.output(job), lambda: site.output(job))


def test_two_ranks_are_preempted(site, tiny_model, problem_file):
    """srun starts the ranks; SLURM tells srun, the ranks and the driver to end, all at once."""
    same = tiny_overrides(tiny_model, problem_file, **steps(300))
    job = site.train(*same, "run_dir=run", options=("--ntasks-per-node=2",))
    site.hold(job)
    urgent = site.run("sbatch", "--parsable", "--partition=urgent", "--exclusive", "--wrap=sleep 1").stdout.strip()
    site.ended(urgent)
    facts = site.ended(job)
    output = site.output(job)
    print(output)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), output
    assert "going on from run/checkpoints/step-" in output
    assert site.state()["step"] == 300


def test_the_first_cause_of_a_failed_job_is_kept(site, tiny_model, problem_file):
    """Of two tasks one is killed, as for want of memory; the other then misses it."""
    words = tiny_overrides(tiny_model, problem_file, run_dir="run", **steps(100000))
    job = site.train(*words, options=("--ntasks-per-node=2",))
    trained = site.folder / "run" / "checkpoints" / "step-00000050"
    site.until(trained.exists, lambda: f"a checkpoint: {site.output(job)}")
    ranks = [p for p in psutil.process_iter() if site.trains(p, "--run=run")]
    (victim,) = [p for p in ranks if p.environ().get("RANK", p.environ().get("SLURM_PROCID")) == "1"]
    victim.kill()
    assert site.ended(job)["JobState"] == "FAILED", site.output(job)
    assert re.fullmatch(r"rank 1 on \w+: Killed", site.state()["message"]), site.output(job)


def test_a_preempted_sweep_of_zero3_ranks_ends_in_the_same_numbers(site, tiny_model, problem_file):
    """An array over mask ratios, two ZeRO-3 ranks a job: the first is put back into the queue, nothing else changes."""
    same = [
        *tiny_overrides(tiny_model, problem_file, **steps(150)), "method=masked_thought", "deepspeed=zero3",
        "launch.processes=2", "method.mask_ratio=0.1,0.4",
    ]  # fmt: skip
    done = site.mft("train", "-m", "hydra/launcher=mft_slurm", *same, "hydra.sweep.dir=preempted")
    job = re.search(r"SLURM job (\d+)", done.stdout)[1]
    runs = site.folder / "outputs"
    site.until(lambda: any(runs.rglob("step-00000050/manifest.json")), lambda: f"a checkpoint: {site.output(job)}")
    urgent = site.run("sbatch", "--parsable", "--partition=urgent", "--exclusive", "--wrap=sleep 1").stdout.strip()
    site.ended(urgent)
    site.until(lambda: not {"queued", "running"} & set(site.states("preempted")), lambda: "the sweep's end", 2 * WAIT_S)
    assert site.states("preempted") == ["done", "done"], site.mft("sweep", "status", "preempted").stdout
    logs = "".join(f.read_text() for f in (site.folder / "preempted" / "slurm").glob("*.out"))
    assert "is requeued by SLURM" in logs
    assert "going on from" in logs
    found = {run.name: run for run in runs.iterdir() if (run / "export").is_dir()}
    undisturbed = site.folder / "undisturbed"
    undisturbed.mkdir()
    Site(site.cluster, undisturbed).mft("train", "-m", *same)
    expected = {run.name: run for run in (undisturbed / "outputs").iterdir() if (run / "export").is_dir()}
    assert len(expected) == 2
    assert found.keys() == expected.keys()
    for name, run in expected.items():
        assert weights(found[name]) == weights(run)
        assert numbers(found[name]) == numbers(run)


def numbers(run: Path) -> list[dict]:
    """What a run logged of its steps, without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k in ("step", "loss", "grad_norm", "learning_rate", "tokens")} for r in rows]


def test_scripts_for_evaluations_and_sweeps(site, tiny_model, problem_file):
    """slurm/sweep.sbatch runs a sweep that was only composed; slurm/eval.sbatch evaluates one of its exports."""
    words = ["train", "-m", "hydra/launcher=mft_slurm", *tiny_overrides(tiny_model, problem_file), "seed=1,2"]
    site.mft(*words, "launch.dry_run=true", "hydra.sweep.dir=composed")
    script = str(ROOT / "slurm" / "sweep.sbatch")
    site.run("sbatch", "--parsable", "--array=0-1", script, "composed")
    site.until(lambda: site.states("composed") == ["done", "done"], lambda: str(site.states("composed")))
    export = next((site.folder / "outputs").glob("*/export"))
    job = site.run("sbatch", "--parsable", str(ROOT / "slurm" / "eval.sbatch"), f"model.path={export}", *EVALUATION,
                   "run_dir=evaluated").stdout.strip()  # fmt: skip
    assert site.ended(job)["JobState"] == "COMPLETED", site.output(job)
    metrics = json.loads((site.folder / "evaluated" / "eval" / "gsm_symbolic" / "metrics.json").read_text())
    assert metrics["n"] == 4
