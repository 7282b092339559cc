"""A folder is a model, an adapter or a run; a run folder is a model for every verb that takes model.path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mft_cli.config.load import critique_config, eval_config, generate_config, train_config
from mft_cli.config.model_path import kind_of, model_path
from mft_cli.errors import UserError

BENCHMARKS = {"a": {"source": {"path": "generated:arithmetic"}}}
BOTH = {"template": "{question}{solution}"}
DATA = {"sources": {"a": {"path": "generated:arithmetic"}}}


def folder_with(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def test_kinds(tmp_path: Path):
    for kind, names in {
        "model": ["config.json", "adapter_config.json"], "adapter": ["adapter_config.json"],
        "run": ["state.json", "config.yaml"], "other": ["state.json"],
    }.items():  # fmt: skip
        assert kind_of(folder_with(tmp_path / kind, *names)) == kind
    assert kind_of(folder_with(tmp_path / "moved", "export/config.json")) == "run"
    assert kind_of(tmp_path / "missing") == "other"


def test_a_run_folder_is_a_model_for_every_verb(tmp_path: Path):
    run = folder_with(tmp_path / "run", "state.json", "config.yaml", "export/config.json")
    model = {"path": str(run)}
    configs = [
        train_config({"model": model, "data": DATA}),
        eval_config({"model": model, "eval": {"benchmarks": BENCHMARKS}}),
        generate_config({"model": model}, None),
        critique_config(
            {"model": model, "data": DATA, "row_prompt": BOTH, "teacher": {"model": model, "prompt": BOTH}}
        ),
    ]
    assert {c.model.path for c in configs} == {str(run / "export")}
    assert configs[-1].teacher.model.path == str(run / "export")
    assert model_path("org/name") == "org/name"
    assert model_path("") == ""


def test_a_run_without_an_export(tmp_path: Path):
    run = folder_with(tmp_path / "run", "state.json", "config.yaml")
    with pytest.raises(UserError, match=r"^teacher\.model\.path=.* is a run folder without an export"):
        critique_config({"model": {"path": "a/b"}, "data": DATA, "teacher": {"model": {"path": str(run)}}})


def test_folders_are_told_apart_in_one_module():
    package = Path(__file__).parents[2] / "mft_cli"
    users = [p for p in package.rglob("*.py") if "adapter_config.json" in p.read_text()]
    assert [p.name for p in users] == ["model_path.py"], json.dumps([str(p) for p in users])


def test_one_module_reads_models_from_folders():
    package = Path(__file__).parents[2] / "mft_cli"
    users = [p.name for p in package.rglob("*.py") if ".from_pretrained(" in p.read_text()]
    assert users == ["pretrained.py"]
