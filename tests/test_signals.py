"""Signals at moments when nobody used to listen: between training and evaluation, in start-up, while a child is started."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mft_cli import signals
from mft_cli.cli import job as driver
from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.errors import STOP_SIGNALS, Stopped
from mft_cli.signals import StopSignal
from mft_cli.slurm import requeue as slurm
from mft_cli.sweep import local
from tests.support.tiny import ROOT


@pytest.fixture(autouse=True)
def handlers():
    before = {s: signal.getsignal(s) for s in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_after_the_training_a_signal_goes_to_who_listened_before():
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    stop = StopSignal()
    signal.raise_signal(signal.SIGUSR1)
    stop.release()
    signal.raise_signal(signal.SIGTERM)
    assert (stop.name, heard) == ("SIGUSR1", [signal.SIGTERM])


def test_a_library_that_swallows_exceptions_does_not_swallow_a_stop(monkeypatch):
    """`try: import x; except Exception: pass` is all over the imports of a start-up."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    asked: list[str] = []
    monkeypatch.setattr(driver, "requeue_if_due", lambda settings, stopped: asked.append(stopped.by))

    @driver.requeueing(LaunchConfig())
    def start_up() -> None:
        with contextlib.suppress(Exception):
            signal.raise_signal(signal.SIGUSR1)
        raise AssertionError("went on")

    with pytest.raises(Stopped, match="stopped by SIGUSR1 before the first step"):
        start_up()
    assert asked == ["SIGUSR1"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_second_signal_does_not_keep_a_job_from_being_requeued(monkeypatch, number):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    asked: list[tuple[str, ...]] = []

    def ask(*words: str) -> str:
        signal.raise_signal(number)
        asked.append(words)
        return "JobState=RUNNING BatchFlag=1"

    monkeypatch.setattr(slurm, "ask", ask)
    slurm.mind_early_signals()
    assert slurm.requeue_if_due(LaunchConfig().slurm, Stopped("saved", "SIGUSR1"))
    assert asked[-1] == ("requeue", "1")


class Signalled(subprocess.Popen):  # type: ignore[type-arg]
    """A signal comes while the child is being started."""

    def __init__(self, *arguments: object, **more: object):
        super().__init__(*arguments, **more)  # type: ignore[call-overload]
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_while_the_evaluation_is_started_ends_it(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Signalled)
    with pytest.raises(Stopped, match="SIGTERM"):
        signals.run_forwarding([sys.executable, "-c", "import time; time.sleep(100)"])


def test_a_signal_while_a_sweeps_job_is_started_reaches_it(monkeypatch, tmp_path):
    from mft_cli.files import write_json
    from mft_cli.sweep.ledger import Ledger

    ledger = Ledger(tmp_path)
    write_json(ledger.facts, {})
    ledger.add(["seed=1"])
    ledger.add(["seed=2"])

    def start(ledger: Ledger, number: int, slot: int, slots: int, gpus: int) -> local.Child:
        process = Signalled([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
        return local.Child(ledger, ledger.update(number, state="running"), slot, process.pid, process)

    monkeypatch.setattr(local, "start", start)
    with pytest.raises(Stopped, match="SIGTERM"):
        local.in_parallel(ledger, [0, 1], 1)
    assert [job.state for job in ledger.all()] == ["stopped", "waiting"]


def test_there_is_one_piece_that_installs_handlers_of_stop_signals():
    root = Path(signals.__file__).parent
    users = [path.relative_to(root) for path in root.rglob("*.py") if "signal.signal(" in path.read_text()]
    # they set system actions
    exceptions = [
        "eval/engines/replica_worker.py",
        "eval/grading/workers.py",
        "slurm/requeue.py",
    ]
    assert sorted(map(str, users)) == sorted([*exceptions, "signals.py"])


def test_nohup_is_obeyed_and_a_closed_terminal_stops(monkeypatch):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopSignal()
    signal.raise_signal(signal.SIGHUP)
    assert stop.name is None
    stop.release()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stop = StopSignal()
    signal.raise_signal(signal.SIGHUP)
    assert stop.name == "SIGHUP"


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_every_stop_signal_keeps_an_evaluations_completions(number):
    with pytest.raises(Stopped, match=f"{number.name} during the evaluation; the completions"), signals.stoppable():
        signal.raise_signal(number)


def test_a_second_interrupt_ends_an_evaluation():
    @signals.stoppable()
    def interrupted_twice() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()


@pytest.mark.skipif(sys.platform != "linux", reason="a process that dies with its parent is Linux's")
def test_a_killed_driver_leaves_no_evaluator_behind():
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    driver = (
        f"import sys; from mft_cli.signals import run_forwarding; run_forwarding([sys.executable, '-c', {child!r}])"
    )
    process = subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    evaluator = int(process.stdout.readline())
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while is_running(evaluator) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_running(evaluator)


def is_running(pid: int) -> bool:
    """Whether there is such a process that is not waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
