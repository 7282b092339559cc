"""`mft export`: its help, its options and what it calls."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from mft_cli.cli.options import read_options
from mft_cli.config.schema.base import STRICT, key
from mft_cli.errors import UserError
from mft_cli.export.gguf import TYPES


@dataclass(config=STRICT, frozen=True)
class Options:
    """The options of `mft export`."""

    gguf: Path = key(..., "The file to write, ending in .gguf.")
    converter: Path | None = key(
        None, "A checkout of llama.cpp, or its convert_hf_to_gguf.py; null: MFT_LLAMA_CPP, or what stands in PATH."
    )
    type: TYPES = key("auto", "Type of the numbers; auto: 16 bits, the kind that is nearest to the export's.")


def main(arguments: list[str]) -> None:
    options, rest = read_options(Options, "export", arguments)
    if len(rest) != 1:
        raise UserError(
            "mft export takes an export: mft export outputs/<run>/export gguf=model.gguf converter=llama.cpp"
        )
    from mft_cli.export.gguf import write_gguf

    size = write_gguf(Path(rest[0]), options.gguf, options.converter, options.type)
    print(f"wrote {options.gguf} ({size / 1e6:,.1f} MB); try it with mft eval model.path={options.gguf} eval=...")


HELP = """mft export: an export as a GGUF file, for llama.cpp, Ollama, LM Studio

  git clone --depth 1 https://github.com/ggml-org/llama.cpp          once: no package on PyPI holds its converter
  mft export outputs/<run>/export gguf=model.gguf converter=llama.cpp
  mft export outputs/<run>/export gguf=model.gguf converter=llama.cpp type=q8_0

llama.cpp's own converter writes the file; nothing is fetched. A folder in MFT_LLAMA_CPP need not be named. What mft reads of GGUF:
mft eval model.path=model.gguf. Smaller types (q4_k_m ...) are made of the file by llama.cpp's llama-quantize.
Options: gguf=FILE converter=null type=auto
"""
