"""docs/tutorial.ipynb, run from its first cell to its last with a tiny model."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny import ROOT

PAGE = ROOT / "docs/tutorial.ipynb"


def notebook(model: Path, folder: Path) -> dict[str, Any]:
    """The page with small settings in the cell tagged `parameters`."""
    page: dict[str, Any] = json.loads(PAGE.read_text())
    (cell,) = [cell for cell in page["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    small = {
        "model.path": str(model), "train.max_steps": 2, "train.global_batch_size": 4, "data.sources.gsm_symbolic.rows": 40,
        "data.max_length": 512, "data.on_long": "drop", "data.validation.rows": 4, "launch.threads": 1,
    }  # fmt: skip
    cell["source"] += [f"\nFOLDER = Path({str(folder)!r})\nSETTINGS = {small!r}\nPROBLEMS = 3\n"]
    return page


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}


def test_the_page_is_a_notebook_without_outputs():
    page = json.loads(PAGE.read_text())
    assert (page["nbformat"], len({cell["id"] for cell in page["cells"]})) == (4, len(page["cells"]))
    assert all(not cell["outputs"] for cell in page["cells"] if cell["cell_type"] == "code")


def test_its_cells_go_from_data_to_a_comparison(tiny_model: Path, tmp_path: Path):
    cells = [c for c in notebook(tiny_model, tmp_path / "out")["cells"] if c["cell_type"] == "code"]
    (tmp_path / "cells.py").write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "did you mean method.mask_ratio?" in done.stdout
    assert "progress 0.00: 0 of" in done.stdout
    assert (tmp_path / "out/compare/report.html").is_file()


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("nbclient", "ipykernel")),
    reason="nbclient and ipykernel are not installed (pip install nbclient ipykernel)",
)
def test_a_kernel_runs_it(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import nbformat
    from nbclient import NotebookClient

    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    page = nbformat.reads(
        json.dumps(notebook(tiny_model, tmp_path / "out")), as_version=4
    )  # joins the lines of a source
    NotebookClient(page, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "out/compare/report.html").is_file()
