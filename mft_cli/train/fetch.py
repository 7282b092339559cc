"""What a run needs of the hub and the web, brought by one process before its ranks start: they ask nobody."""

from __future__ import annotations

from pathlib import Path

from mft_cli.config.schema.inputs import ModelConfig, SourceConfig
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.console import Logger
from mft_cli.data.files import downloaded, is_url, local_files
from mft_cli.data.sources import open_hub
from mft_cli.errors import UserError
from mft_cli.models.folder import download, find_source
from mft_cli.models.loading import cached_snapshot, locate
from mft_cli.models.weight_files import weight_files


def fetch_model(config: ModelConfig, log: Logger) -> Path:
    """The folder of the weights and the tokenizer, of an adapter those of its base. Raises UserError."""
    base = find_source(config).base
    located = locate(base, log)
    if Path(located).is_dir():
        return Path(located)
    cached = cached_snapshot(located, base.revision)
    try:
        if cached is not None:
            weight_files(cached, base)
            return cached
    except UserError:
        pass  # a download was broken off
    return download(located, base)


def fetch_source(source: SourceConfig) -> str:
    """Where rows lie afterwards. Raises UserError."""
    if source.path.startswith("generated:"):
        return source.path
    files = local_files(source)
    if files is None and is_url(source.path):
        files = downloaded(source)
    return open_hub(source)[0] if files is None else " + ".join(map(str, files))


def fetch_for_ranks(config: TrainConfig, log: Logger) -> None:
    """The model and the rows that ranks will read. Raises UserError."""
    fetch_model(config.model, log)
    for source in (*config.data.sources.values(), *config.data.sources_validation.values()):
        fetch_source(source)
