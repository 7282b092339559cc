"""An export as a GGUF file: which converter, what it is asked, and that nothing half written stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mft_cli.cli.export import main
from mft_cli.errors import UserError
from mft_cli.export.gguf import find_converter, write_gguf

WRITES = """import sys
from pathlib import Path
words = sys.argv[1:]
Path(words[words.index("--outfile") + 1]).write_bytes(b"GGUF" + " ".join([Path(words[0]).name, *words[-2:]]).encode())
"""
FAILS = """import sys
from pathlib import Path
Path(sys.argv[3]).write_bytes(b"GG")
sys.exit("Model LabForCausalLM is not supported")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / "convert_hf_to_gguf.py").write_text(WRITES)
    return folder


def test_the_converter_writes_the_file(
    tiny_model: Path, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    target = tmp_path / "made/model.gguf"
    main([str(tiny_model), f"gguf={target}", f"converter={checkout}", "type=q8_0"])
    assert target.read_bytes() == f"GGUF{tiny_model.name} --outtype q8_0".encode()
    assert f"wrote {target}" in capsys.readouterr().out
    assert [file.name for file in target.parent.iterdir()] == ["model.gguf"]


def test_the_converter_is_named_or_in_the_environment(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = checkout / "convert_hf_to_gguf.py"
    monkeypatch.delenv("MFT_LLAMA_CPP", raising=False)
    assert find_converter(checkout) == find_converter(script) == script
    with pytest.raises(UserError, match=r"git clone --depth 1 https://github\.com/ggml-org/llama\.cpp"):
        find_converter(None)
    monkeypatch.setenv("MFT_LLAMA_CPP", str(checkout))
    assert find_converter(None) == script
    with pytest.raises(UserError, match=r"converter=.*empty: expected a checkout of llama\.cpp"):
        find_converter(tmp_path / "empty")


def test_what_the_converter_refuses_is_said_and_leaves_nothing(tiny_model: Path, checkout: Path, tmp_path: Path):
    (checkout / "convert_hf_to_gguf.py").write_text(FAILS)
    with pytest.raises(UserError, match=r"could not convert .*: Model LabForCausalLM is not supported"):
        write_gguf(tiny_model, tmp_path / "out/model.gguf", checkout, "auto")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gguf=model.gguf"], "mft export takes an export"),
        (["missing", "gguf=model.gguf"], "missing is not an exported model"),
        (["missing"], "mft export needs gguf="),
        (["missing", "gguf=model.gguf", "type=q4"], "type=q4"),
    ],
)
def test_mistakes(words: list[str], told: str):
    with pytest.raises(UserError, match=told):
        main(words)
