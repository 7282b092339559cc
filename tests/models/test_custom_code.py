"""A model that brings code of its own is refused with the key that allows it and the files that it would run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.errors import UserError
from mft_cli.eval.engines import hf
from mft_cli.models import loading


@pytest.fixture
def foreign(tiny_model: Path, tmp_path: Path) -> Path:
    """A model folder whose code writes a file when it is run."""
    folder = shutil.copytree(tiny_model, tmp_path / "foreign")
    settings = json.loads((folder / "config.json").read_text())
    named = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "own", "auto_map": named}))
    for name in ("configuration_own", "modeling_own"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    return folder


def test_the_files_and_the_key_are_named_and_nothing_is_run(foreign: Path, tmp_path: Path):
    said = r"runs Python code of its own \(configuration_own.py, modeling_own.py\).* set model\.trust_remote_code=true$"
    with pytest.raises(UserError, match=said):
        loading.load_model(str(foreign), ModelConfig(path=str(foreign)), dtype="float32", attention="sdpa")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=said):
        hf.load_model(foreign, "float32", "cpu", trust=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "named", [["me/repo--tokenization_own.OwnTokenizer", None], {"AutoTokenizer": ["tokenization_own.A", None]}]
)
def test_a_tokenizers_code_is_named_too(foreign: Path, named: object):
    (foreign / "config.json").write_text("{}")
    (foreign / "tokenizer_config.json").write_text(json.dumps({"auto_map": named}))
    assert "(tokenization_own.py)" in loading.custom_code_refusal(str(foreign))


def test_of_a_hub_model_the_repository_is_named():
    assert "see the Python files of its repository" in loading.custom_code_refusal("somebody/model")
