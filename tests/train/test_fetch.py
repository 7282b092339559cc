"""One process brings what a run needs; its ranks ask nobody, which a guard on their sockets holds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mft_cli.config.schema.inputs import ModelConfig, SourceConfig
from mft_cli.errors import UserError
from mft_cli.train import fetch
from tests.support.tiny import ROOT, mft, tiny_overrides

# imported by every Python at its start: notes whom a rank would ask, and lets it not
GUARD = """
import os, socket
if "RANK" in os.environ:
    look_up, connect = socket.getaddrinfo, socket.socket.connect
    HERE = ("127.0.0.1", "localhost", "::1", socket.gethostname())
    def refuse(host):
        with open(os.environ["ASKED"], "a") as file: file.write(f"{host}\\n")
        raise OSError(f"{host}: no network for ranks")
    def guarded_look_up(host, *rest, **more):
        return look_up(host, *rest, **more) if host in (*HERE, None, "") else refuse(host)
    def guarded_connect(self, address):
        outside = isinstance(address, tuple) and address[0] not in HERE
        return refuse(address[0]) if outside else connect(self, address)
    socket.getaddrinfo, socket.socket.connect = guarded_look_up, guarded_connect
"""
REVISION = "0" * 40


@pytest.fixture
def hub_cache(tiny_model: Path, tmp_path: Path) -> Path:
    """HF_HOME of a machine to which somebody/tiny was downloaded."""
    repository = tmp_path / "hf" / "hub" / "models--somebody--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / REVISION)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    return tmp_path / "hf"


def test_ranks_ask_nobody(hub_cache: Path, problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A model of the hub that is in its cache; nothing in the environment says that there is no network."""
    guard, asked = tmp_path / "guard", tmp_path / "asked"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    env = {"HF_HOME": str(hub_cache), "ASKED": str(asked), "PYTHONPATH": f"{guard}{os.pathsep}{ROOT}"}
    words = tiny_overrides(Path("somebody/tiny"), problem_file, run_dir=tmp_path / "run")
    done = mft("train", *words, "launch.processes=2", "train.max_steps=2", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not asked.exists(), asked.read_text()


def test_fetch_says_where_things_lie(
    hub_cache: Path, problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    words = tiny_overrides(Path("somebody/tiny"), problem_file)
    done = mft("fetch", *words, "eval=gsm_symbolic", cwd=tmp_path, env={"HF_HOME": str(hub_cache)})
    assert done.returncode == 0, done.stderr
    assert f"model      somebody/tiny: {hub_cache}" in done.stdout
    assert f"data       local: {problem_file}" in done.stdout
    assert "benchmark  gsm_symbolic: generated:gsm_symbolic" in done.stdout
    assert "HF_HUB_OFFLINE=1" in done.stdout


def test_what_is_not_whole_is_downloaded(hub_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    folder = hub_cache / "hub" / "models--somebody--tiny" / "snapshots" / REVISION
    monkeypatch.setattr(fetch, "cached_snapshot", lambda name, revision: folder)
    monkeypatch.setattr(fetch, "download", lambda name, config: tmp_path / "downloaded")
    tiny = ModelConfig(path="somebody/tiny")
    assert fetch.fetch_model(tiny, print) == folder
    (folder / "model.safetensors").unlink()
    assert fetch.fetch_model(tiny, print) == tmp_path / "downloaded"
    monkeypatch.setattr(fetch, "cached_snapshot", lambda name, revision: None)
    assert fetch.fetch_model(tiny, print) == tmp_path / "downloaded"


def test_a_source_that_is_nowhere_is_refused():
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        fetch.fetch_source(SourceConfig(path="https://host.invalid/rows.jsonl"))
