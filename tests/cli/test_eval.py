"""`mft eval`: what is run here and what is handed to SLURM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mft_cli.cli import eval as verb
from tests.support.tiny import mft

WORDS = ["eval=gsm_symbolic", "eval.engine=hf", "launch=slurm", "launch.slurm.time=01:00:00"]


def test_a_dry_run_prints_the_script_and_makes_nothing(tiny_model: Path, tmp_path: Path):
    shown = mft("eval", f"model.path={tiny_model}", *WORDS, "launch.dry_run=true", "run_dir=out", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "#SBATCH --job-name=mft-eval" in shown.stdout
    assert "-m mft_cli eval --frozen=out/slurm/eval.json" in shown.stdout
    assert not (tmp_path / "out").exists()


def test_a_frozen_evaluation_is_run(monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path):
    from mft_cli.config.validate import to_plain
    from mft_cli.files import write_json

    configs: list[Any] = []
    monkeypatch.setattr(verb, "evaluate_or_submit", configs.append)
    from mft_cli import load_config

    config = load_config("eval=gsm_symbolic", verb="eval", settings={"model.path": tiny_model})
    write_json(tmp_path / "eval.json", to_plain(config))
    verb.main([f"--frozen={tmp_path / 'eval.json'}"])
    assert configs == [config]
