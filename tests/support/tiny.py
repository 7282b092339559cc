"""What tests share: paths, tiny problems, and the command line run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def data_dir() -> Path | None:
    """Folder with real benchmark files: MFT_DATA_DIR."""
    named = os.environ.get("MFT_DATA_DIR")
    return Path(named) if named and Path(named).is_dir() else None


needs_data = pytest.mark.skipif(data_dir() is None, reason="MFT_DATA_DIR names no folder with the real data files")


def problems(n: int, first: int = 0) -> list[dict[str, str]]:
    """Small addition problems with worked answers of differing length."""
    rows = []
    for i in range(first, first + n):
        a, b = 3 + i % 17, 2 + (7 * i) % 23
        steps = "\n".join(f"Step {k + 1}: we look at {a} and {b}." for k in range(i % 3))
        answer = f"{steps}\nThat makes {a} + {b} = {a + b}.\n#### {a + b}".strip()
        rows.append({"question": f"Problem {i}: what is {a} plus {b}?", "answer": answer})
    return rows


def mft(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mft_cli", *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )  # fmt: skip


def tiny_overrides(model: Path, data: Path, **more: object) -> list[str]:
    """Overrides of a training run that takes a second or two."""
    settings = {
        "model.path": model, "data": "local", "data.sources.local.path": data, "data.sources.local.response": "answer",
        "train.global_batch_size": 8, "train.epochs": 1, "train.learning_rate": 0.01, "train.precision": "fp32",
        "launch.threads": 1, "data.max_length": 256, **more,
    }  # fmt: skip
    return [f"{k}={v}" for k, v in settings.items()]


def critiques(n: int) -> list[dict[str, str]]:
    """Rows in the form of masked critique: a prompt with a wrong or right solution, a tagged response, a verdict."""
    rows = []
    for i, row in enumerate(problems(n)):
        right = row["answer"].rpartition("#### ")[2]
        critique = " ".join(f"Step {k} of the solution adds the two numbers as it should." for k in range(1 + i % 3))
        response = (
            f"<think><critique>{critique} The answer is {'right' if i % 2 else 'wrong'}.</critique>"
            f"<reasoning>{row['answer'].splitlines()[-2]}</reasoning></think><ans>\\boxed{{{right}}}</ans>"
        )
        rows.append({"prompt": row["question"], "critique": response, "answer_match": str(i % 5 != 4)})
    return rows


def data_of(method: str, problem_file: Path) -> dict[str, object]:
    """A data source that a method can train on: masked critique needs its tags."""
    if method.startswith("masked_critique"):
        file = problem_file.with_name("critiques.jsonl")
        if not file.exists():
            file.write_text("".join(json.dumps(row) + "\n" for row in critiques(40)))
        return {"path": str(file), "question": "prompt", "response": "critique", "keep_if": {"answer_match": True}}
    return {"path": str(problem_file), "response": "answer"}
