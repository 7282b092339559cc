"""An export as a GGUF file, written by llama.cpp's own converter (convert_hf_to_gguf.py), which no package holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from mft_cli.config.model_path import kind_of, model_path
from mft_cli.errors import UserError
from mft_cli.files import replacing

SCRIPT = "convert_hf_to_gguf.py"
MAGIC = b"GGUF"
TYPES = Literal["auto", "f32", "f16", "bf16", "q8_0"]
BESIDES = ("head", "masks.mft")  # what an export has besides a model, and a GGUF file has no room for


def find_converter(given: Path | None) -> Path:
    """convert_hf_to_gguf.py: named, under MFT_LLAMA_CPP, or in PATH. Raises UserError."""
    named = given or (Path(os.environ["MFT_LLAMA_CPP"]) if os.environ.get("MFT_LLAMA_CPP") else None)
    if named is None:
        in_path = shutil.which(SCRIPT)
        if in_path is None:
            raise UserError(
                "a GGUF file is written by llama.cpp's converter, which no package holds: git clone --depth 1 "
                "https://github.com/ggml-org/llama.cpp, then converter=llama.cpp"
            )
        return Path(in_path)
    named = named.expanduser()
    script = named / SCRIPT if named.is_dir() else named
    if not script.is_file():
        raise UserError(f"converter={named}: expected a checkout of llama.cpp, or its {SCRIPT}")
    return script


def write_gguf(export: Path, target: Path, converter: Path | None, kind: TYPES) -> int:
    """Converts an exported model; whole or not at all. Returns the file's bytes. Raises UserError with what the converter said."""
    export = Path(model_path(str(export), "export"))
    if kind_of(export) != "model":
        raise UserError(f"{export} is not an exported model: name outputs/<run>/export")
    if target.suffix != ".gguf":
        raise UserError(f"gguf={target}: expected a name that ends in .gguf")
    script = find_converter(converter)
    for name in BESIDES:
        if (export / name).exists():
            print(f"warning: {export / name} does not go into the file, which holds the model alone", flush=True)
    with replacing(target) as partial:
        command = [sys.executable, str(script), str(export), "--outfile", str(partial), "--outtype", kind]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not is_gguf(partial):
            raise UserError(f"{script} could not convert {export}: {last_line(done.stderr or done.stdout)}")
    return target.stat().st_size


def is_gguf(file: Path) -> bool:
    if not file.is_file():
        return False
    with open(file, "rb") as opened:
        return opened.read(4) == MAGIC


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
