"""The script of faults, a few of each: nothing is lost, and its list of files is that of what a run writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.fault_injection.damage import DAMAGES, kind_of
from scripts.fault_injection.table import Table, traceback_in
from scripts.fault_injection.values import wrong_values
from tests.support.tiny import ROOT


def faults(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("MFT_CACHE_DIR", "MFT_TEST_CACHE")}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/faults.py"), "--folder", str(folder), *words],
        capture_output=True, text=True, timeout=500, env=environment, cwd=folder,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("group", "n", "scenarios"),
    [("kills", 4, "plain,evaluated"), ("signals", 3, "evaluation,lora"), ("disks", 3, "plain,again"), ("files", 6, "evaluated"),
     ("values", 1, "")],
)  # fmt: skip
def test_a_few_faults_are_borne(tmp_path: Path, group: str, n: int, scenarios: str):
    done = faults(tmp_path, "--only", group, "--n", str(n), "--scenarios", scenarios)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| 0 | 0 | 0 |" in done.stdout
    assert not list(tmp_path.iterdir())


def test_every_file_that_a_run_writes_is_of_a_kind(tmp_path: Path):
    """And every kind is written: the script refuses to start else."""
    done = faults(tmp_path, "--only", "files", "--n", "0")
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_file_that_nobody_thought_of_is_of_no_kind():
    assert kind_of(Path("run/notes.txt")) is None
    assert kind_of(Path("run/export/deep/er/model.safetensors")) is None
    kind = kind_of(Path("run/checkpoints/step-00000002/manifest.json"))
    assert kind is not None
    assert kind.pattern == "run/checkpoints/*/*"


def test_all_damages_change_a_file():
    import random

    for way, damage in DAMAGES.items():
        assert damage(b"some text", random.Random(0)) != b"some text", way


def test_there_are_as_many_wrong_values_as_were_asked_for():
    assert len(list(wrong_values())) > 1400


def test_a_fault_that_is_not_borne_is_counted_and_told(capsys):
    table = Table()
    for _ in table.untried(["plain"], "kills"):
        table.count("kill -9", 2)
        table.blame("kill -9", "lost", "plain: step 3")
    assert "| kill -9 | 2 | 1 | 0 | 0 |" in table.render()
    assert not table.clean
    assert "lost: kill -9: plain: step 3" in capsys.readouterr().err
    assert traceback_in("a\nTraceback (most recent call last):\n  File\nValueError: x\nb") == "ValueError: x"
    assert traceback_in("all is well") == ""


def test_a_stopped_script_goes_on_and_tries_again_what_was_not_borne(tmp_path: Path):
    def attempt(cases: list[int], stop_at: int = -1) -> Table:
        table = Table(tmp_path / "journal.jsonl")
        for case in table.untried(cases, "kills"):
            if case == stop_at:
                break
            table.count("kill -9")
            if case == 1 and stop_at >= 0:
                table.blame("kill -9", "lost", "once")
            tried.append(case)
        return table

    tried: list[int] = []
    attempt([0, 1, 2, 3], stop_at=3)
    assert tried == [0, 1, 2]
    table = attempt([0, 1, 2, 3])
    assert tried == [0, 1, 2, 1, 3]
    assert (table.clean, table.faults("kill")) == (True, 4)


def test_what_was_not_borne_stays_in_the_table_until_it_is_tried_again(tmp_path: Path):
    journal = tmp_path / "journal.jsonl"
    for _ in (table := Table(journal)).untried([5], "kills"):
        table.count("kill -9: plain", 3)
        table.blame("kill -9: plain", "traceback", "left a process")
    again = Table(journal)
    assert not again.clean
    assert "| kill -9: plain | 3 | 0 | 1 | 0 |" in again.render()
    for _ in again.untried([5], "kills"):
        assert (again.retrying, again.faults("kill")) == (True, 0)
        again.count("kill -9: plain", 2)
    assert again.clean
    assert "| kill -9: plain | 2 | 0 | 0 | 0 |" in again.render()
