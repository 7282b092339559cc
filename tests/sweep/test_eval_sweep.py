"""`mft eval -m`: sweeps of evaluations, by the launchers and the ledger of training sweeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mft_cli.errors import UserError
from mft_cli.sweep.ledger import Ledger
from mft_cli.sweep.results import results
from mft_cli.sweep.start import sweep_folder
from tests.support.tiny import mft

WORDS = ("eval=gsm_symbolic", "eval.limit=2", "eval.engine=hf", "eval.dtype=float32", "launch.device=cpu",
         "eval.benchmarks.gsm_symbolic.max_new_tokens=2", "eval.gold_logprob=false", "prompt=raw")  # fmt: skip


@pytest.fixture
def models(tiny_model: Path, tmp_path: Path) -> str:
    for name in ("a", "b"):
        shutil.copytree(tiny_model, tmp_path / name)
    return f"model.path={tmp_path}/a,{tmp_path}/b"


def test_evaluations_of_two_models_side_by_side(models: str, tmp_path: Path):
    words = ("eval", "-m", models, *WORDS, "hydra/launcher=mft_local")
    done = mft(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (root,) = (tmp_path / "outputs/sweeps").iterdir()
    assert root.name.startswith("eval-path-")
    ledger = Ledger.open(root)
    assert (ledger.verb, [job.state for job in ledger.truths()]) == ("eval", ["done", "done"])
    folders = [ledger.run_folder(job) for job in ledger.all()]
    metrics = [json.loads((folder / "eval/gsm_symbolic/metrics.json").read_text()) for folder in folders if folder]
    assert [m["n"] for m in metrics] == [2, 2]
    found = results(ledger, None)
    assert (found.keys, found.selected_by, found.metrics) == (["model.path"], "gsm_symbolic", ["gsm_symbolic"])


def test_what_it_would_submit(models: str, tmp_path: Path):
    pytest.importorskip("submitit")
    done = mft(
        "eval", "-m", models, *WORDS, "hydra/launcher=mft_slurm", "launch.gpus=4", "launch.dry_run=true", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --ntasks-per-node=1\n" in done.stdout
    assert "#SBATCH --gpus-per-node=4\n" in done.stdout
    assert done.stdout.count("mft_cli sweep run") == 2
    assert "nothing submitted; 2 jobs composed" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("launch=slurm",), "launch=slurm in a sweep: use hydra/launcher=mft_slurm"),
        (("hydra/sweeper=optuna", "eval.seed=interval(0,9)"), "a sweeper that searches needs mft train"),
        (("eval.limitt=2",), "so in all 2 jobs; none was started"),
    ],
)
def test_mistakes(words: tuple[str, ...], told: str, models: str, tmp_path: Path):
    done = mft("eval", "-m", models, *WORDS, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr


def test_a_sweep_of_evaluations_is_no_sweep_of_trainings():
    words = ["-m", "model.path=a,b", "eval=gsm8k"]
    assert sweep_folder(words, "eval").name == f"eval-{sweep_folder(words).name}"


def test_a_ledger_of_before_repeats_trainings(tmp_path: Path):
    assert Ledger(tmp_path).verb == "train"
    (tmp_path / "sweep.json").write_text("{damaged")
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        _ = Ledger(tmp_path).verb
