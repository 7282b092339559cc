"""What can be told about a model's folder and the benchmarks' files before torch is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from mft_cli.data.files import downloaded, is_url, local_files
from mft_cli.errors import UserError
from mft_cli.eval.load_engine import choose_engine
from mft_cli.eval.model_folder import ADAPTER, context_of, download, read_settings, weight_files
from mft_cli.schema import EvalRunConfig, ModelConfig


def preflight(config: EvalRunConfig) -> None:
    """Raises UserError for an engine that is not installed, a folder that is no whole model, a file that is missing."""
    name, _ = choose_engine(config.eval)
    if config.model.path and name != "api":
        check_model(config.model, config.eval.max_model_len)
    for benchmark in config.eval.benchmarks.values():
        source = benchmark.source
        if not source.path.startswith("generated:") and local_files(source) is None and is_url(source.path):
            downloaded(source)


def check_model(model: ModelConfig, wanted: int | None) -> None:
    """Raises UserError for what is no whole model; `wanted`: tokens of context that it must have."""
    if model.path.startswith("package:") or model.path.endswith(".gguf"):
        return  # converted when it is opened
    folder = Path(model.path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"model.path={model.path} is a file; name the folder of an exported model")
    if not folder.is_dir():
        folder = download(model.path, model)
    if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
        return
    if not (folder / "config.json").exists():
        raise UserError(f"model.path={model.path}: a folder without config.json is not a model (unfinished export?)")
    context = context_of(read_settings(folder / "config.json", model))
    weight_files(folder, model)
    check_context(wanted, context)


def check_context(wanted: int | None, context: int | None) -> None:
    """Raises UserError if the model has fewer positions than are asked for."""
    if wanted is not None and context is not None and wanted > context:
        raise UserError(f"eval.max_model_len={wanted}, but the model has {context} positions; set it lower")
