"""GGUF files as ordinary model folders, converted once and cached by digest."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from mft_cli.console import Logger, quiet_transformers
from mft_cli.errors import UserError
from mft_cli.files import cache_folder, digest_of, file_digest, replacing, write_json
from mft_cli.models.pretrained import read_model, read_tokenizer

CONVERTER_VERSION = 2  # part of the cache's key: a change in what conversion writes makes a new folder


def convert_gguf(file: Path, log: Logger) -> Path:
    """The GGUF file as an ordinary folder (fp32 safetensors, tokenizer), made once and kept in the cache."""
    if not file.exists():
        raise UserError(f"model.path={file}: no such file")
    facts = file.stat()
    known = cache_folder() / "models" / f"{file.stem}.digest"
    stamp = [str(file.resolve()), facts.st_size, facts.st_mtime_ns]
    known.parent.mkdir(parents=True, exist_ok=True)
    with open(known.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs that start together convert once
        digest = cached_digest(known, stamp) or file_digest(file)
        write_json(known, [stamp, digest])
        folder = cache_folder() / "models" / f"{file.stem}-{digest_of([digest, CONVERTER_VERSION])[:12]}"
        if not (folder / "config.json").exists():
            log(f"converting {file.name} (once; kept in {folder})")
            with replacing(folder) as temporary:
                write_converted(file, temporary)
    return folder


def cached_digest(known: Path, stamp: list[object]) -> str | None:
    try:
        old, digest = json.loads(known.read_text())
    except (OSError, ValueError):
        return None
    return str(digest) if old == stamp else None


def write_converted(file: Path, folder: Path) -> None:
    """Dequantize to fp32. The loaded model says that it is quantized and refuses to be saved: a plain one is built."""
    from transformers import AutoModelForCausalLM

    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):  # the reader's own progress bar
        loaded = read_model(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = read_tokenizer(str(file.parent), gguf_file=file.name)
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(loaded.state_dict())
        plain.tie_weights()
        restore_digit_splitting(file, tokenizer)
        plain.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))


def restore_digit_splitting(file: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """The GGUF reader forgets that SmolLM's tokenizer cuts every digit off before byte-level BPE.

    Without it, runs of blanks before a digit become other ids than those that the model was trained on.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    entry = GGUFReader(str(file)).fields.get("tokenizer.ggml.pre")
    if entry is not None and bytes(entry.parts[entry.data[0]]).decode() == "smollm":
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
