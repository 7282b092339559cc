"""Shards of an export that no rank holds whole: their names, sizes and index are those that transformers reads."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from mft_cli import export_streamed
from mft_cli.export_streamed import exported, verify, write_shards


@pytest.fixture
def model(tiny_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


def test_shards_are_loaded_as_one_model(model, tiny_model, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    state = model.state_dict()
    rows = model.get_input_embeddings().weight.shape[0]
    monkeypatch.setattr(export_streamed, "SHARD_BYTES", 40_000)
    sizes = write_shards(tmp_path, exported(model, state.__getitem__, rows - 3, torch.float32))
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes.values())
    held = {name: file.name for file in files for name in load_file(file)}
    assert index["weight_map"] == held
    assert "lm_head.weight" not in held  # tied: once
    largest = max(sum(v.nbytes for v in load_file(file).values()) for file in files)
    assert largest <= max(40_000, *sizes.values())
    shutil.copy(tiny_model / "config.json", tmp_path)
    model.config.vocab_size = rows - 3
    model.config.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    probe = torch.arange(8)[None]
    with torch.no_grad():
        expected = model(probe).logits[..., : rows - 3]
        torch.testing.assert_close(again(probe).logits, expected)
    verify(tmp_path, sizes, probe, expected, range(0), torch.float32, False)


def test_a_lost_tensor_and_other_logits_are_noticed(model, tiny_model, tmp_path):
    rows = model.get_input_embeddings().weight.shape[0]
    sizes = write_shards(tmp_path, exported(model, model.state_dict().__getitem__, rows, torch.float32))
    shutil.copy(tiny_model / "config.json", tmp_path)
    probe = torch.arange(8)[None]
    with torch.no_grad():
        expected = model(probe).logits
    verify(tmp_path, sizes, probe, expected, range(0), torch.float32, False)
    other = expected.clone()
    other[..., 7] += 1
    with pytest.raises(RuntimeError, match="logits differ"):
        verify(tmp_path, sizes, probe, other, range(0), torch.float32, False)
    verify(tmp_path, sizes, probe, other, range(7, 8), torch.float32, False)  # a row that was restored on purpose
    with pytest.raises(RuntimeError, match="tensors on the disk"):
        verify(tmp_path, {**sizes, "lost": 4}, probe, expected, range(0), torch.float32, False)
