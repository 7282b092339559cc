"""The script of the table of all methods, on a tiny model and made-up problems: every kind of row, and going on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.tiny import ROOT, problems

ROWS = ("sft", "masked_critique", "chunk_refine")


def script(folder: Path, model: Path, *words: str) -> str:
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "scripts/all_methods.py"), "--model", "model=local", f"model.path={model}", "--layers", "0-1",
            "--engine", "hf", "--examples", "8", "--problems", "3", "--tokens", "8", "--batch", "4",
            "--out", str(folder / "out"), "--page", str(folder / "page.md"), *words,
        ],
        cwd=folder, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MFT_DATA_DIR": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_table(tmp_path, tiny_model):
    (tmp_path / "gsm8k").mkdir()
    for split, first in (("train", 0), ("test", 100)):
        lines = (json.dumps(row) + "\n" for row in problems(60, first))
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("".join(lines))
    first = script(tmp_path, tiny_model, "--rows", *ROWS)
    page = (tmp_path / "page.md").read_text()
    for row in ROWS:
        assert f"\n| {row} | " in page
    assert "| masked_critique, gsm8k_critique | " in page
    assert "Holm's correction over these 2:" in page
    assert "| chunk_refine − sft | " in page
    assert first.count("2 of 2 steps to go") == 3
    again = script(tmp_path, tiny_model, "--rows", *ROWS[:2])
    assert "steps to go" not in again, "nothing is done twice"
    assert again.count("is done") == 2
