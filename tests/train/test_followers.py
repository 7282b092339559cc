"""MLflow and trackio: which run there a folder belongs to, what it is told, and that a failing one ends no run."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from mft_cli.train.follower_threads import telling_of_threads
from mft_cli.train.run import train
from tests.support.training import state_of, stop_at, training

LOG = {"mlflow": True, "trackio": True, "project": "p"}


class Client:
    """Stands for mlflow.MlflowClient."""

    experiments: dict[str, str] = {}  # noqa: RUF012
    runs: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    def get_experiment_by_name(self, name: str) -> Any:
        return types.SimpleNamespace(experiment_id=name) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = name
        return name

    def search_runs(self, experiments: list[str], query: str) -> list[Any]:
        return [self.info(i) for i, run in self.runs.items() if query == f"tags.mft_id = '{run['tags']['mft_id']}'"]

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
        self.runs[f"run{len(self.runs)}"] = {"tags": tags, "name": run_name, "params": {}, "metrics": [], "ended": 0}
        return self.info(list(self.runs)[-1])

    def info(self, run: str) -> Any:
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run))

    def log_param(self, run: str, name: str, value: str) -> None:
        assert len(value) <= 500
        self.runs[run]["params"][name] = value

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.runs[run]["metrics"].append((step, name, value))

    def set_terminated(self, run: str) -> None:
        self.runs[run]["ended"] += 1


class Tracked:
    """Stands for what trackio.init returns."""

    opened: list[Tracked] = []  # noqa: RUF012

    def __init__(self, **settings: Any):
        self.settings, self.rows, self.ended = settings, [], False
        self.opened.append(self)

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.rows.append((step, numbers))

    def finish(self) -> None:
        self.ended = True


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    Client.experiments, Client.runs, Tracked.opened = {}, {}, []
    mlflow, trackio = types.ModuleType("mlflow"), types.ModuleType("trackio")
    mlflow.MlflowClient, trackio.init = Client, Tracked  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "trackio", trackio)


@pytest.mark.usefixtures("fakes")
def test_both_have_the_rows_of_metrics_jsonl_and_a_resume_goes_on(tiny_model: Path, problem_file: Path, tmp_path: Path):
    stop_at(training(tiny_model, problem_file, tmp_path / "run", log=LOG), 3)
    train(training(tiny_model, problem_file, tmp_path / "run", log=LOG))
    (run,) = Client.runs.values()
    losses = [
        (row["step"], row["loss"]) for row in map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    ]
    assert [(step, value) for step, name, value in run["metrics"] if name == "train/loss"] == losses
    assert "train/loss.ce" in {name for _, name, _ in run["metrics"]}
    assert (run["name"], run["params"]["train.learning_rate"], list(Client.experiments)) == ("run", "0.01", ["p"])
    first, second = Tracked.opened
    assert first.settings["name"] == second.settings["name"]
    assert first.settings["name"].startswith("run-")
    assert (second.settings["resume"], second.settings["project"], second.ended) == ("allow", "p", True)
    assert [(step, numbers["train/loss"]) for step, numbers in first.rows + second.rows] == losses


@pytest.mark.usefixtures("fakes")
def test_one_that_fails_ends_no_run(
    tiny_model: Path, problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: Any, **settings: Any) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(Client, "log_metric", fail)
    monkeypatch.setattr(sys.modules["trackio"], "init", fail)
    train(training(tiny_model, problem_file, tmp_path / "run", log=LOG, train={"max_steps": 2}))
    assert state_of(tmp_path / "run")["state"] == "done"
    log = (tmp_path / "run/train.log").read_text()
    assert "TrackioFollower cannot start and is left out: the server is gone" in log
    assert "a metrics follower failed and is off from here on: the server is gone" in log


def test_a_file_that_the_disk_refuses_to_tensorboard_is_a_line(
    tiny_model: Path,
    problem_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """TensorBoard writes in a thread of its own, whose exceptions Python prints."""
    pytest.importorskip("tensorboard")
    from tensorboard.summary.writer.record_writer import RecordWriter

    written: list[int] = []

    def refuse(self: Any, data: bytes) -> None:
        written.append(len(data))
        if len(written) > 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(RecordWriter, "write", refuse)
    train(training(tiny_model, problem_file, tmp_path / "run", log={"tensorboard": True}, train={"max_steps": 2}))
    assert state_of(tmp_path / "run")["state"] == "done"
    printed = capsys.readouterr()
    assert "tensorboard has failed; its last numbers may be missing there: [Errno 5]" in printed.out
    assert "a metrics follower failed and is off from here on: [Errno 5]" in printed.out
    assert "Traceback" not in printed.out + printed.err


def test_a_thread_of_anybody_else_still_tells_its_traceback(monkeypatch: pytest.MonkeyPatch):
    failed: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda told: failed.append(told.exc_type))
    lines: list[str] = []
    with telling_of_threads(lines.append):
        thread = threading.Thread(target=lambda: 1 // 0)
        thread.start()
        thread.join()
    assert not lines
    assert failed == [ZeroDivisionError]


def test_a_stopped_run_has_told_tensorboard_every_step(tiny_model: Path, problem_file: Path, tmp_path: Path):
    """The steps before the checkpoint do not come again."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stop_at(training(tiny_model, problem_file, tmp_path / "run", log={"tensorboard": True}), 3)
    told = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    told.Reload()
    assert [event.step for event in told.Scalars("train/loss")] == [1, 2, 3]


@pytest.mark.parametrize("package", ["mlflow", "trackio"])
def test_the_installed_package_takes_a_run(
    package: str, tiny_model: Path, problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install {package})")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlflow'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    train(training(tiny_model, problem_file, tmp_path / "run", log={package: True}, train={"max_steps": 2}))
    assert "follower" not in (tmp_path / "run/train.log").read_text().lower()
    assert list((tmp_path / package).rglob("*"))
