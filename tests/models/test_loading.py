"""Models that bring Python code of their own: it runs only where it is trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.errors import UserError
from mft_cli.models.loading import held_dtype, load_model

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class HomeMadeConfig(LlamaConfig):
    model_type = "home_made"

class HomeMade(LlamaForCausalLM):
    config_class = HomeMadeConfig
"""


@pytest.fixture
def home_made(tiny_model: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny_model, tmp_path / "home_made")
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "home.HomeMadeConfig", "AutoModelForCausalLM": "home.HomeMade"}
    changed = config | {"model_type": "home_made", "architectures": ["HomeMade"], "auto_map": names}
    (folder / "config.json").write_text(json.dumps(changed))
    (folder / "home.py").write_text(CODE)
    return folder


def load(folder: Path, trust: bool) -> torch.nn.Module:
    config = ModelConfig(path=str(folder), trust_remote_code=trust)
    return load_model(str(folder), config, dtype=torch.float32, attention="sdpa")


def test_code_of_a_model_runs_only_if_it_is_trusted(home_made: Path):
    with pytest.raises(UserError, match=r"model\.path=.*code of its own.*model\.trust_remote_code=true"):
        load(home_made, trust=False)
    assert type(load(home_made, trust=True)).__name__ == "HomeMade"


def test_a_damaged_generation_config_is_a_sentence(tiny_model: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_model, tmp_path / "damaged")
    (folder / "generation_config.json").write_text('{"eos_token_id": [1,')
    with pytest.raises(UserError, match=r"model\.path=.*generation_config\.json is missing or not valid JSON"):
        load(folder, trust=False)


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"[1]", lambda whole: b""])
def test_weights_that_are_not_whole_are_a_sentence(tiny_model: Path, tmp_path: Path, damage):
    folder = shutil.copytree(tiny_model, tmp_path / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(UserError, match=r"model\.path=.*model\.safetensors is cut off or damaged"):
        load(folder, trust=False)
    with pytest.raises(UserError, match=r"model\.path=.*model\.safetensors is cut off or damaged"):
        held_dtype(str(folder), ModelConfig(path=str(folder)), torch.bfloat16)
