"""Fixtures that all tests share: a tiny model, a few problems, and a cache of the tests' own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny import problems
from tests.support.tiny_model import write_tiny_model

# Read when huggingface_hub is imported: set later, a name that is no folder is asked for again and again for a minute.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"


# Files whose tests start processes, train or compile: seconds to minutes each. scripts/test.sh --fast leaves them out.
SLOW = {
    "analysis", "cli/test_lab.py", "critique", "distributed", "export", "scripts", "slurm", "eval/engines", "eval/grading/test_sandbox.py",
    "eval/test_run.py", "eval/test_generate.py", "eval/test_second_pass.py", "eval/test_structure.py", "methods/test_contract.py",
    "answers/test_values.py", "models/test_adapters.py", "plan/test_plan.py", "sweep/test_sweep.py", "sweep/test_eval_sweep.py",
    "train/test_train.py", "train/test_beside.py",
    "train/test_nvme.py", "train/test_own_attention.py", "train/test_teardown.py", "train/test_loading.py", "train/test_waits.py",
    "train/test_fp16_deepspeed.py", "train/test_recovery.py", "train/test_live.py", "train/test_wandb.py", "methods/test_mask_finetune.py",
    "methods/test_noise.py", "methods/test_masked_critique.py", "methods/test_collators.py", "methods/test_weight_masks.py",
    "config/test_experiments.py", "config/test_secrets.py", "eval/test_benchmarks.py", "eval/grading/test_golds.py",
    "report/read/test_damage.py", "api/test_public.py", "test_signals.py", "test_docs.py", "cli/test_init.py",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        file = item.path.relative_to(Path(__file__).parent)
        if SLOW & {file.as_posix(), *(folder.as_posix() for folder in file.parents)}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `write_tiny_model`."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture
def tokenizer(tiny_model: Path):
    from mft_cli.config.schema.inputs import ModelConfig
    from mft_cli.models.loading import load_tokenizer

    return load_tokenizer(str(tiny_model), ModelConfig(path=str(tiny_model)))


@pytest.fixture(scope="session")
def problem_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "problems.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in problems(40)))
    return file


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither read nor fill the user's cache."""
    if "MFT_TEST_CACHE" not in os.environ:
        os.environ["MFT_TEST_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    monkeypatch.setenv("MFT_CACHE_DIR", os.environ["MFT_TEST_CACHE"])


@pytest.fixture(autouse=True)
def hang_ups_are_heard() -> Iterator[None]:
    """Under nohup SIGHUP is ignored, by what a test starts as well, and a run leaves it so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
