"""The folder that is evaluated: checked to be whole, and its digests, which say which model a score belongs to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mft_cli.config.model_path import ADAPTER, kind_of
from mft_cli.config.schema.evaluation import ApiConfig
from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.errors import UserError, first_line
from mft_cli.files import digest_of, file_digest, read_json
from mft_cli.models.checksums import check_sums, digest
from mft_cli.models.weight_files import read_settings, weight_files

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
WEIGHT_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py")


@dataclass(frozen=True)
class ModelFolder:
    """`context`: positions that the model has, None if it does not say. `facts`: what an mft export says of itself.

    `adapter` is a LoRA folder that is served next to the weights in `path`, its base; `weights_digest` covers both.
    `tokenizer` is the folder that holds the tokenizer.
    """

    path: Path
    weights_digest: str
    tokenizer_digest: str
    end_ids: tuple[int, ...]
    context: int | None
    facts: dict[str, Any]
    adapter: Path | None
    tokenizer: Path


def open_model(config: ModelConfig) -> ModelFolder:
    """Find, check and digest a model. Raises UserError for what is not a whole model, in one sentence."""
    folder = find_folder(config)
    check_sums(folder, config.path)
    if kind_of(folder) == "adapter":
        return open_adapter(folder, config)
    settings = read_settings(folder / "config.json", config)
    weights = weights_digest(weight_files(folder, config), settings, digest)
    return whole_model(folder, config, settings, weights, tokenizer_digest(folder))


def whole_model(
    folder: Path, config: ModelConfig, settings: Mapping[str, object], weights: str, tokenizer: str
) -> ModelFolder:
    """A folder that is no adapter, with the digests of its weights and its tokenizer."""
    ends, facts = _end_ids(folder, config), read_export_facts(folder)
    return ModelFolder(folder, weights, tokenizer, ends, context_of(settings), facts, None, folder)


def weights_digest(
    files: list[Path], settings: Mapping[str, object], digest_of_file: Callable[[Path], str] = file_digest
) -> str:
    """The digest that scores are kept with: of the weight files and config.json."""
    return digest_of([(f.name, digest_of_file(f)) for f in files] + [settings])


def weights_now(folder: Path) -> str | None:
    """The `weights_digest` of a folder as it is now; None where it holds no whole model, such as an adapter alone."""
    config = ModelConfig(path=str(folder))
    if not (folder / "config.json").is_file():
        return None
    try:
        return weights_digest(weight_files(folder, config), read_settings(folder / "config.json", config), digest)
    except UserError:
        return None


FileStamps = list[tuple[str, int, int, int]]


def file_stamps(folder: Path) -> FileStamps:
    """(name, inode, bytes, time of change in ns) of what a model is loaded from: tells a folder that was replaced meanwhile."""
    paths = {
        path for pattern in (*WEIGHT_FILES, "*.bin") for path in folder.glob(pattern) if not path.name.startswith(".")
    }
    facts = {path.name: path.stat() for path in sorted(paths)}
    return [(name, f.st_ino, f.st_size, f.st_mtime_ns) for name, f in facts.items()]


def context_of(settings: Mapping[str, object]) -> int | None:
    """Positions that a model has by its config.json; None if it does not say."""
    inner = settings.get("text_config")
    text: Mapping[str, object] = inner if isinstance(inner, dict) else settings
    context = next((text[n] for n in ("max_position_embeddings", "n_positions", "max_seq_len") if text.get(n)), None)
    return context if isinstance(context, int) else None


def find_folder(config: ModelConfig) -> Path:
    """The folder of model.path, from the hub if it must be. Raises UserError."""
    given = Path(config.path).expanduser()
    if kind_of(given) == "adapter":
        return given  # locate() would miss config.json
    from mft_cli.models.loading import locate

    located = locate(config)
    folder = Path(located)
    return folder if folder.is_dir() else download(located, config)


def open_endpoint(config: ModelConfig, api: ApiConfig) -> ModelFolder:
    """What stands for a model behind an endpoint: the digest is that of its address, its name and `version`.

    With model.path, the folder's tokenizer, context and facts are used; its weights are neither read nor digested.
    """
    served = digest_of(["endpoint", api.base_url.rstrip("/"), api.model, api.version])
    if not config.path:
        return ModelFolder(Path(), served, "", (), None, {}, None, Path())
    folder = find_folder(config)
    settings = read_settings(folder / "config.json", config) if (folder / "config.json").is_file() else {}
    tokenizer = tokenizer_digest(folder) if api.send == "tokens" else ""
    return whole_model(folder, config, settings, served, tokenizer)


def open_adapter(folder: Path, config: ModelConfig) -> ModelFolder:
    """A LoRA adapter in peft's format, and the base model that it names. Raises UserError."""
    settings = read_settings(folder / ADAPTER, config)
    if settings.get("peft_type") != "LORA":
        raise UserError(
            f"model.path={config.path}: an adapter of type {settings.get('peft_type')}; only LORA is served unmerged"
        )
    said = read_export_facts(folder).get("adapter_of") or {}  # mft's own words win: peft's may name a cache's folder
    named = said.get("path") or settings.get("base_model_name_or_path")
    if not named:
        raise UserError(f"model.path={config.path}: {ADAPTER} does not say base_model_name_or_path; add it there")
    sibling = folder / named
    base_path = str(sibling) if not Path(named).exists() and sibling.is_dir() else named
    try:
        base = open_model(replace(config, path=base_path, revision=said.get("revision") or settings.get("revision")))
    except UserError as error:
        raise UserError(f"model.path={config.path}: its base model: {error}") from None
    own_tokenizer = (folder / "tokenizer.json").is_file()
    rank = {k: v for k, v in settings.items() if k != "base_model_name_or_path"}
    weights = [(f.name, digest(f)) for f in weight_files(folder, config)]
    return replace(
        base,
        weights_digest=digest_of([base.weights_digest, rank, weights]),
        tokenizer_digest=tokenizer_digest(folder) if own_tokenizer else base.tokenizer_digest,
        facts=read_export_facts(folder),
        adapter=folder,
        tokenizer=folder if own_tokenizer else base.tokenizer,
    )


def tokenizer_digest(folder: Path) -> str:
    return digest_of([(n, digest(folder / n)) for n in TOKENIZER_FILES if (folder / n).is_file()])


def download(name: str, config: ModelConfig) -> Path:
    """A hub model's folder in the hub's cache. Raises UserError."""
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise UserError(f"model.path={config.path} is not a folder; check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=config.revision, allow_patterns=list(WEIGHT_FILES)))
    except LocalEntryNotFoundError:
        raise UserError(
            f"model.path={config.path} is not a folder, and no model of that name is in the hub's cache or can be fetched "
            "(no network, or HF_HUB_OFFLINE is set); check the path"
        ) from None
    except Exception as error:  # many kinds: offline, gated, no such repository, malformed name
        raise UserError(
            f"model.path={config.path} is not a folder and is unavailable from the hub ({first_line(error, 200)}); check the path"
        ) from None


def _end_ids(folder: Path, config: ModelConfig) -> tuple[int, ...]:
    """End tokens that generation_config.json names (some models list several)."""
    path = folder / "generation_config.json"
    ids = read_settings(path, config).get("eos_token_id") if path.is_file() else None
    return tuple(ids) if isinstance(ids, list) else (ids,) if isinstance(ids, int) else ()


FACTS = "mft.json"  # written next to the weights by the export


def read_export_facts(folder: Path) -> dict[str, Any]:
    """What the export says of itself: `derived_from`, `prompt` and more; empty for a model that mft did not export."""
    path = folder / FACTS
    if not path.is_file():
        return {}
    try:
        facts = read_json(path)
    except ValueError:
        raise UserError(f"{path}: not valid JSON (a half-written export?); export the model again") from None
    return facts if isinstance(facts, dict) else {}


def check_context(max_model_len: int | None, context: int | None) -> None:
    """Raises UserError if the model has fewer positions than are asked for."""
    if max_model_len is not None and context is not None and max_model_len > context:
        raise UserError(f"eval.max_model_len={max_model_len}, but the model has {context} positions; set it lower")


@dataclass
class Source:
    """The model that a run starts from, and the folder of the adapter that it goes on from, if model.path names one."""

    base: ModelConfig
    adapter: Path | None = None

    def tokenizer_path(self, base: str) -> str:
        """The adapter's folder if it has a tokenizer (with the tokens that the adapter has rows for), else the base."""
        has_tokenizer = self.adapter is not None and (self.adapter / "tokenizer_config.json").is_file()
        return str(self.adapter) if has_tokenizer else base


def find_source(config: ModelConfig) -> Source:
    """Raises UserError for an adapter that does not say which model it belongs to."""
    folder = Path(config.path).expanduser()
    if kind_of(folder) != "adapter":
        return Source(config)
    facts = folder / "mft.json"
    said = read_json(facts).get("adapter_of", {}) if facts.is_file() else {}
    path = said.get("path") or read_json(folder / ADAPTER).get("base_model_name_or_path")
    if not path:
        raise UserError(
            f"model.path={config.path}: {ADAPTER} names no base model; write it there as base_model_name_or_path"
        )
    revision = said.get("revision") if said else read_json(folder / ADAPTER).get("revision")
    return Source(dataclasses.replace(config, path=path, revision=revision), folder)


def adapter_rows(folder: Path | None) -> list[int]:
    """Token ids that an adapter holds rows for. Raises UserError for rows that differ between input and output."""
    indices = read_json(folder / ADAPTER).get("trainable_token_indices") if folder else None
    kinds = list(indices.values()) if isinstance(indices, dict) else [indices or []]
    if any(kind != kinds[0] for kind in kinds):
        raise UserError(f"model.path={folder}: input and output rows of different tokens cannot be trained on")
    return list(kinds[0]) if kinds else []
