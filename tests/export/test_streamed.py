"""Shards of an export that no rank holds whole: their names, sizes and index are those that transformers reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mft_cli.export import streamed as export_streamed
from mft_cli.export.streamed import exported, verify, verify_tensors, write_shards
from tests.support.tiny import ROOT


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
    assert index["metadata"]["total_size"] == sum(size for size, _ in sizes.values())
    held = {name: file.name for file in files for name in load_file(file)}
    assert index["weight_map"] == held
    assert "lm_head.weight" not in held  # tied: once
    largest = max(sum(v.nbytes for v in load_file(file).values()) for file in files)
    assert largest <= max(40_000, *(size for size, _ in sizes.values()))
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
        verify(tmp_path, {**sizes, "lost": (4, None)}, probe, expected, range(0), torch.float32, False)


def test_a_changed_value_is_noticed_without_logits(model, tiny_model, tmp_path):
    """Of an earlier step's export the logits are not known: the digests of what was gathered are."""
    rows = model.get_input_embeddings().weight.shape[0]
    sizes = write_shards(tmp_path, exported(model, model.state_dict().__getitem__, rows, torch.bfloat16))
    verify_tensors(tmp_path, sizes)
    held = load_file(tmp_path / "model.safetensors")
    held["model.norm.weight"][3] += 1
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"model.norm.weight is not what was written"):
        verify_tensors(tmp_path, sizes)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells a process's own memory")
def test_the_check_needs_no_memory_for_the_model(tiny_model, tmp_path):
    """The files are mapped, not read: else rank 0 would need a 70B model's 140 GB after all."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=4096, num_hidden_layers=8, num_attention_heads=4
    )
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in LlamaForCausalLM(config).state_dict().items()}
    pieces = ((n, torch.zeros(shape, dtype=torch.bfloat16)) for n, shape in shapes.items())
    written = write_shards(tmp_path, pieces)
    program = (
        "import json, sys, torch; from pathlib import Path; import transformers.models.llama.modeling_llama\n"
        "from mft_cli.export.streamed import verify\n"
        "own = lambda: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon')) * 1024\n"
        "folder, written = Path(sys.argv[1]), {n: tuple(v) for n, v in json.loads(sys.argv[2]).items()}\n"
        "peak, before = [], own()\n"
        "from torch.nn import Linear; old = Linear.forward\n"
        "Linear.forward = lambda self, x: peak.append(own()) or old(self, x)\n"
        "logits = torch.zeros(1, 8, 1000)\n"
        "verify(folder, written, torch.arange(8)[None], logits, range(0), torch.bfloat16, False)\n"
        "print(max(peak) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), json.dumps(written)], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    size = sum(n for n, _ in written.values())
    assert size > 100e6
    assert int(done.stdout) < size / 4, (int(done.stdout), size)
