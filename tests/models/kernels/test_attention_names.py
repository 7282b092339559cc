"""transformers claims every attention name that it takes for one of its own: ours must be none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.tiny import ROOT

PROGRAM = """
import sys, torch
from transformers.utils import is_flash_attn_2_available
from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.models.kernels.backends import IMPLEMENTATIONS, register
from mft_cli.models.loading import load_model
import importlib.util
assert importlib.util.find_spec("flash_attn") is not None
path = sys.argv[1]
for backend in IMPLEMENTATIONS:
    model = load_model(path, ModelConfig(path=path), dtype=torch.float32, attention=register(backend))
    assert model.config._attn_implementation == IMPLEMENTATIONS[backend][0]
    print(backend)
"""


def test_models_load_where_flash_attn_is_installed(tmp_path: Path, tiny_model: Path):
    """An installation of flash_attn, as most training images have it: enough of it to be believed in."""
    package, facts = tmp_path / "flash_attn", tmp_path / "flash_attn-2.8.3.dist-info"
    package.mkdir()
    facts.mkdir()
    names = "flash_attn_func flash_attn_varlen_func flash_attn_with_kvcache"
    code = "\n".join(f"def {name}(*a, **k): raise AssertionError" for name in names.split())
    (package / "__init__.py").write_text(f"__version__ = '2.8.3'\n{code}\n")
    (package / "bert_padding.py").write_text("def pad_input(*a): ...\ndef unpad_input(*a): ...\n")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: flash_attn\nVersion: 2.8.3\n")
    (facts / "top_level.txt").write_text("flash_attn\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_model)], capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["sdpa", "varlen", "flex", "flash_attention_2"]
