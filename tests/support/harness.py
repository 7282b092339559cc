"""lm-evaluation-harness over rows of a test, as the reference of log-likelihoods. Skips where it is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SPLITS = ("dataset_name", "tag", "task_alias", "fewshot_split", "fewshot_config", "group")


def write_jsonl(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def harness(model: Path, name: str, task: Path | dict[str, Any], files: dict[str, Path], **more: Any) -> Any:
    """Results of one task, a file of the harness' own (relative to its tasks) or a dictionary, on a CPU in fp32.

    `files`: splits, of which test is asked and train holds examples; `max_length`, or keys of the task in `more`.
    """
    lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed (pip install lm_eval)")
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks._yaml_loader import load_yaml

    max_length = more.pop("max_length", None)
    if isinstance(task, Path):
        task = {k: v for k, v in load_yaml(Path(lm_eval.__file__).parent / "tasks" / task).items() if k not in SPLITS}
    task = {
        **task, "task": name, "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(file) for split, file in files.items()}},
        "test_split": "test", "training_split": None, "validation_split": None, "num_fewshot": 0, **more,
    }  # fmt: skip
    asked = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=1, max_length=max_length)
    results = lm_eval.simple_evaluate(model=asked, tasks=[ConfigurableTask(config=task)], bootstrap_iters=0)
    results["samples"][name].sort(key=lambda sample: sample["doc_id"])
    return results
