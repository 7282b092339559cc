"""The digest of the weights that a folder holds now: that of the evaluation, and another one once they change."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.models.folder import open_model, weights_now


def model(folder: Path, value: float) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 8}))
    save_file({"w": torch.full((2, 2), value)}, folder / "model.safetensors")
    return folder


def test_it_is_the_digest_of_an_evaluation_and_changes_with_the_weights(tmp_path: Path) -> None:
    folder = model(tmp_path / "export", 1.0)
    before = weights_now(folder)
    assert before == open_model(ModelConfig(path=str(folder))).weights_digest
    model(folder, 2.0)
    assert weights_now(folder) not in (None, before)


def test_no_whole_model_has_none(tmp_path: Path) -> None:
    assert weights_now(tmp_path / "nowhere") is None
    folder = model(tmp_path / "export", 1.0)
    (folder / "model.safetensors").write_bytes(b"cut")
    assert weights_now(folder) is None
