"""The check of a first GPU runs here on the processor, so that it is not broken on the day when there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.tiny import ROOT

PARTS = ("versions", "numbers", "attention", "rows", "resume", "zero", "liger", "speed")


def gpu_check(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/gpu_check.py"), *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_every_part_passes_on_a_processor(tmp_path: Path) -> None:
    done = gpu_check("--out", str(tmp_path / "out"), "--device", "cpu", "--tiny")
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    failed = [row for row in rows if row["passed"] is False]
    assert done.returncode == 0, (failed, done.stderr[-3000:])
    assert {row["part"] for row in rows} == set(PARTS)
    assert sum(row["passed"] is True for row in rows) >= 30
    table = (tmp_path / "out" / "table.txt").read_text()
    assert len(table.splitlines()) == len(rows)


def test_what_does_not_fit_into_the_minutes_is_told(tmp_path: Path) -> None:
    done = gpu_check("--out", str(tmp_path / "out"), "--device", "cpu", "--minutes", "0", "--parts", "numbers", "speed")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("left out:") == 2
