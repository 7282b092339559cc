"""Sweeps as a user runs them: failing jobs, killed sweeps, stops, retries, difficult values."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from mft_cli.sweep.ledger import Job, Ledger, here, told_apart, varied
from mft_cli.sweep.local import announcement, progress_line
from mft_cli.sweep.start import sweep_folder
from tests.support.tiny import ROOT, mft, tiny_overrides

PARALLEL = ("hydra/launcher=mft_local", "hydra.launcher.jobs=2")


def ledger_in(folder: Path) -> Ledger:
    (root,) = (folder / "outputs/sweeps").iterdir()
    return Ledger.open(root)


def states(ledger: Ledger) -> list[str]:
    return [job.state for job in ledger.truths()]


def started(ledger: Ledger) -> dict[int, str]:
    """When each job's training was last started, as its run folder knows it."""
    found = {}
    for job in ledger.all():
        folder = ledger.run_folder(job)
        if folder and (folder / "run.json").exists():
            found[job.number] = (folder / "run.json").stat().st_mtime_ns
    return found


def until(check: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mft_cli", *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def three_jobs(folder: Path) -> Ledger:
    """The ledger, once it holds its three jobs."""
    until(lambda: len(list((folder / "outputs/sweeps").glob("*/jobs/????.json"))) == 3)
    return ledger_in(folder)


def saved_steps(ledger: Ledger, number: int) -> int:
    folder = ledger.run_folder(ledger.get(number))
    return len(list(folder.glob("checkpoints/step-*/manifest.json"))) if folder else 0


def test_a_failing_job_costs_the_others_nothing_and_a_rerun_repeats_nothing(tiny_model, problem_file, tmp_path):
    command = [
        "train", "-m", "method=masked_thought", "method.mask_ratio=0.1,2", "seed=1,2",
        *tiny_overrides(tiny_model, problem_file, **{"data.validation.rows": 8}),
    ]  # fmt: skip
    first = mft(*command, cwd=tmp_path)
    assert first.returncode == 2
    assert "2 of 4 jobs done, 2 not" in first.stderr
    assert "job 2 (mask_ratio=2 seed=1) failed: method.mask_ratio=2" in first.stderr
    ledger = ledger_in(tmp_path)
    assert states(ledger) == ["done", "done", "failed", "failed"]
    assert [job.exit_code for job in ledger.all()] == [0, 0, 2, 2]
    rows = [json.loads(line) for line in (ledger.run_folder(ledger.get(0)) / "metrics.jsonl").read_text().splitlines()]
    assert ledger.get(0).objective == [r["loss"] for r in rows if r["kind"] == "validation"][-1]
    before = started(ledger)
    assert mft(*command, cwd=tmp_path).returncode == 2
    assert started(ledger) == before
    assert len(ledger.all()) == 4
    shown = mft("sweep", "status", str(ledger.root), cwd=tmp_path).stdout
    assert "4 jobs, 2 done, 2 failed" in shown
    assert "4/4" in shown.splitlines()[4]


def test_difficult_values_reach_a_job_in_a_process_of_its_own(tiny_model, problem_file, tmp_path):
    note = """a b  'c' "d" \\ $HOME [1,2] {x: y} ünï 数, ; & | > < `e` #f %"""
    quoted = "note='" + note.replace("'", "\\'") + "'"
    done = mft(
        "train", "-m", *PARALLEL, quoted, "seed=1,2", "train.betas=[0.9,0.99],[0.8,0.95]",
        *tiny_overrides(tiny_model, problem_file), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ledger = ledger_in(tmp_path)
    assert states(ledger) == ["done"] * 4
    from mft_cli.config.schema.runs import TrainConfig
    from mft_cli.config.validate import read_yaml

    configs = [read_yaml(TrainConfig, ledger.run_folder(job) / "config.yaml") for job in ledger.all()]
    assert {c.note for c in configs} == {note}
    assert [(c.seed, c.train.betas) for c in configs] == [(s, b) for s in (1, 2) for b in ([0.9, 0.99], [0.8, 0.95])]
    assert len({job.where["pid"] for job in ledger.all()}) == 4
    times = [(job.started, job.ended) for job in ledger.all()]
    assert times[1][0] < times[0][1], "two at a time"
    assert all("exported step" in ledger.log(job.number).read_text() for job in ledger.all())
    assert "4 of 4 jobs done" in done.stdout


def long_run(tiny_model: Path, problem_file: Path, epochs: int) -> list[str]:
    return [
        "train", "-m", *PARALLEL, "seed=1,2,3",
        *tiny_overrides(
            tiny_model, problem_file, **{"train.epochs": epochs, "checkpoint.every_steps": 20, "train.learning_rate": 0.001}
        ),
    ]  # fmt: skip


def test_a_killed_sweep_tells_the_truth_and_goes_on(tiny_model, problem_file, tmp_path):
    command = long_run(tiny_model, problem_file, 80)
    sweep = start(*command, cwd=tmp_path)
    ledger = three_jobs(tmp_path)
    refused = mft(*command, cwd=tmp_path)
    assert refused.returncode == 2
    assert "another mft process is running this sweep" in refused.stderr
    until(lambda: saved_steps(ledger, 0) > 0 and saved_steps(ledger, 1) > 0)
    sweep.kill()
    sweep.wait()
    os.kill(ledger.get(0).where["pid"], signal.SIGKILL)  # its process, too; that of job 1 goes on alone
    until(lambda: states(ledger)[0] == "dead")
    assert states(ledger)[1] in ("running", "done")
    assert states(ledger)[2] == "waiting"
    assert "killed" in ledger.truth(ledger.get(0)).message
    shown = mft("sweep", "status", str(ledger.root), cwd=tmp_path).stdout
    assert "1 dead" in shown
    before = started(ledger)
    again = mft(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert states(ledger) == ["done"] * 3
    assert started(ledger)[1] == before[1], "the job that outlived its sweep is waited for, not repeated"
    assert "going on from" in ledger.log(0).read_text()


def test_a_stopped_sweep_saves_and_retry_finishes_it(tiny_model, problem_file, tmp_path):
    sweep = start(*long_run(tiny_model, problem_file, 80), cwd=tmp_path)
    ledger = three_jobs(tmp_path)
    until(lambda: saved_steps(ledger, 0) > 0 and saved_steps(ledger, 1) > 0)
    sweep.send_signal(signal.SIGTERM)
    assert sweep.wait(60) == 75, sweep.stdout.read()
    assert states(ledger) == ["stopped", "stopped", "waiting"]
    assert [job.exit_code for job in ledger.all()] == [75, 75, None]
    assert not [c for c in psutil.process_iter(["cmdline"]) if str(ledger.root) in " ".join(c.info["cmdline"] or [])]
    again = mft("sweep", "retry", str(ledger.root), "jobs=3", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert states(ledger) == ["done"] * 3
    assert "going on from" in ledger.log(0).read_text()
    assert "nothing to do" in mft("sweep", "retry", str(ledger.root), cwd=tmp_path).stdout


def test_a_job_killed_from_outside_is_failed_and_its_sweep_goes_on(tiny_model, problem_file, tmp_path):
    sweep = start(*long_run(tiny_model, problem_file, 10), cwd=tmp_path)
    ledger = three_jobs(tmp_path)
    until(lambda: ledger.get(1).state == "running")
    os.kill(ledger.get(1).where["pid"], signal.SIGKILL)
    output, _ = sweep.communicate(timeout=180)
    assert sweep.returncode == 2, output
    assert "2 of 3 jobs done, 1 not" in output
    assert states(ledger) == ["done", "failed", "done"]
    assert "killed by SIGKILL" in ledger.get(1).message


def test_a_retry_counts_the_jobs_that_outlived_their_sweep(tiny_model, problem_file, tmp_path):
    """The sweep is killed, job 1 goes on alone; with one place a retry waits for it before it starts another."""
    sweep = start(*long_run(tiny_model, problem_file, 80), cwd=tmp_path)
    ledger = three_jobs(tmp_path)
    until(lambda: saved_steps(ledger, 0) > 0 and saved_steps(ledger, 1) > 0)
    sweep.kill()
    sweep.wait()
    os.kill(ledger.get(0).where["pid"], signal.SIGKILL)
    until(lambda: states(ledger)[0] == "dead")
    assert states(ledger)[1:] == ["running", "waiting"]
    again = mft("sweep", "retry", str(ledger.root), "jobs=1", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 job of a sweep that was killed still runs here" in again.stdout
    assert states(ledger) == ["done"] * 3
    spans = sorted((job.started, job.ended) for job in ledger.all())
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)), spans


# ---- pieces ---------------------------------------------------------------------------------------------------------


def test_the_same_sweep_finds_its_folder_whatever_the_launcher():
    base = ["-m", "method=masked_thought", "method.mask_ratio=0.1,0.2", "seed=range(1,4)"]
    folder = sweep_folder(base)
    assert folder.name.startswith("mask_ratio+seed-")
    assert sweep_folder(["--multirun", *PARALLEL, *base[1:]]) == folder
    assert sweep_folder([*base, "train.epochs=2"]) != folder


def test_a_given_folder_can_grow(tiny_model, problem_file, tmp_path):
    command = ["train", "-m", "hydra.sweep.dir='my sweep'", *tiny_overrides(tiny_model, problem_file)]
    assert mft(*command, "seed=1,2", cwd=tmp_path).returncode == 0
    ledger = Ledger.open(tmp_path / "my sweep")
    before = started(ledger)
    done = mft(*command, "seed=1,2,3", cwd=tmp_path)
    assert done.returncode == 0
    assert "2 of 3 jobs are done already" in done.stdout
    assert [told_apart(job, varied(ledger.all())) for job in ledger.all()] == ["seed=1", "seed=2", "seed=3"]
    assert started(ledger).items() >= before.items()


def test_a_record_of_a_dead_process_is_not_believed(tmp_path):
    ledger = Ledger(tmp_path)
    job = ledger.add(["++seed=1"])
    assert ledger.add(["++seed=1"]) == job
    living = ledger.update(0, state="running", where=here())
    assert ledger.truth(living).state == "running"
    reused = {**here(), "created": here()["created"] - 100}  # the number belongs to another process by now
    assert ledger.truth(ledger.update(0, where=reused)).state == "dead"
    elsewhere = {**reused, "host": "another"}
    assert ledger.truth(ledger.update(0, where=elsewhere)).state == "running"
    run = tmp_path / "run"
    run.mkdir()
    (run / "state.json").write_text('{"state": "stopped", "message": "stopped by SIGUSR1"}')
    told = ledger.truth(ledger.update(0, where=reused, run="run"))
    assert (told.state, told.message) == ("stopped", "stopped by SIGUSR1")


def test_progress_line():
    jobs = [Job(i, [], state=s) for i, s in enumerate(["done", "done", "failed", "running", "waiting", "waiting"])]
    line = progress_line(jobs, [100.0, 140.0], at_a_time=2)
    assert line == "2 of 6 jobs done, 1 failed, 1 running, 2 waiting; about 2 min left"  # (2 + 1/2) / 2 x 120 s


def test_a_job_in_sequence_is_announced_with_the_time_left():
    job = Job(4, ["seed=1", "method.mask_ratio=0.4"])
    assert announcement(job, ["method.mask_ratio"], 5, 6, [100.0] * 4) == (
        "job 4 (5 of 6): mask_ratio=0.4; about 3 min left"  # this one and another, 200 s
    )
    assert announcement(job, ["seed"], 1, 6, []) == "job 4 (1 of 6): seed=1"
    assert announcement(job, [], 1, 1, []) == "job 4"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep"], "commands status, retry and report"),
        (["sweep", "status"], "takes one sweep's folder"),
        (["sweep", "status", "nowhere"], "is not a sweep's folder"),
        (["train", "-m", "hydra/launcher=mft_locl", "seed=1,2"], "mft_locl"),
        (["train", "-m", "hydra/launcher=mft_local", "hydra.launcher.jobs=0", "seed=1,2"], "hydra.launcher.jobs=0"),
        (["train", "-m", "hydra/launcher=mft_local", "launch.dry_run=true", "seed=1,2"], "launch.dry_run=true prints"),
        (["train", "-m", "train.epoch=2", "seed=1,2"], "unknown key train.epoch (value 2)"),
        (["train", "-m", "train.epoch=2", "seed=1,2"], "so in all 2 jobs; none was started"),
        (["train", "launch.dry_run=true"], "launch.dry_run=true prints what launch=slurm"),
    ],
)
def test_mistakes(words, message, tmp_path):
    done = mft(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# ---- Optuna ---------------------------------------------------------------------------------------------------------

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None,
    reason="OPTUNA IS NOT INSTALLED (pip install 'hydra-optuna-sweeper>=1.3,<1.4')",
)
OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=1", "hydra.sweeper.n_jobs=1")
SPACE = "train.learning_rate=tag(log,interval(1e-4,1e-1))"


@needs_optuna
def test_optuna_searches_and_goes_on_where_it_was(tiny_model, problem_file, tmp_path):
    more = tiny_overrides(tiny_model, problem_file, **{"data.validation.rows": 8})
    command = ["train", "-m", *OPTUNA, *[o for o in more if "learning_rate" not in o], SPACE]
    done = mft(*command, "hydra.sweeper.n_trials=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ledger = ledger_in(tmp_path)
    before = started(ledger)
    losses = [job.objective for job in ledger.all()]
    again = mft(*command, "hydra.sweeper.n_trials=3", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [job.objective for job in ledger.all()][:2] == losses
    assert len(ledger.all()) == 3, "the same sampler seed proposes the same trials, which are done"
    assert started(ledger).items() >= before.items()
    best = (ledger.root / "optimization_results.yaml").read_text()
    assert str(min(job.objective for job in ledger.all()))[:8] in best


@needs_optuna
def test_optuna_needs_a_number_and_the_right_way(tiny_model, problem_file, tmp_path):
    more = [o for o in tiny_overrides(tiny_model, problem_file) if "learning_rate" not in o]
    done = mft("train", "-m", *OPTUNA, SPACE, *more, cwd=tmp_path)
    assert done.returncode == 2
    assert "data.validation.rows=N" in done.stderr
    done = mft(
        "train", "-m", *OPTUNA, "hydra.sweeper.direction=maximize", SPACE, "data.validation.rows=8", *more, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "hydra.sweeper.direction=minimize" in done.stderr
