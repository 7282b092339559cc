"""What can be told about a model's folder and the benchmarks' files before torch is imported, which takes seconds.

`mft train` asks for the benchmarks' files, too: an evaluation at its end would tell it only after the training.
"""

from __future__ import annotations

from pathlib import Path

from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.data.files import downloaded, is_url, local_files, local_hint, offline, read_files
from mft_cli.errors import UserError
from mft_cli.eval.engines.load import choose_engine
from mft_cli.eval.listing import location
from mft_cli.models.folder import ADAPTER, check_context, context_of, download, read_settings, weight_files

MOST_COUNTED = 32 << 20  # bytes of files whose rows are counted: larger ones take as long as torch


def preflight(config: EvalRunConfig) -> None:
    """Raises UserError for an engine that is not installed, a folder that is not a whole model, a file that is missing."""
    name, _ = choose_engine(config.eval)
    if config.model.path and name != "api":
        check_model(config.model, config.eval.max_model_len)
    check_data(config.eval)


def check_data(config: EvalConfig) -> None:
    """Raises UserError for what `check_benchmark` finds, of all benchmarks."""
    for name, benchmark in config.benchmarks.items():
        check_benchmark(name, benchmark)


def check_benchmark(name: str, benchmark: BenchmarkConfig) -> None:
    """Raises UserError for a missing file, data that an offline machine lacks, or a limit above the number of rows."""
    source, rows = benchmark.source, None
    generated = source.path.startswith("generated:")
    files = None if generated else local_files(source)
    if files is None and is_url(source.path):
        files = downloaded(source)
    if generated:
        rows = source.rows
    elif files is not None and benchmark.limit is not None and sum(f.stat().st_size for f in files) <= MOST_COUNTED:
        rows = sum(1 for _ in read_files(files, source.format))
    elif files is None and offline() and location(source) == "hub":
        raise UserError(
            f"{source.path}: is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it{local_hint(source)}"
        )
    check_limit(name, benchmark, rows)


def check_limit(name: str, benchmark: BenchmarkConfig, rows: int | None) -> None:
    """Raises UserError for a limit above the rows that a file holds; how many a filter leaves is seen later."""
    if rows is not None and benchmark.limit is not None and benchmark.limit > rows:
        raise UserError(
            f"eval.benchmarks.{name}.limit={benchmark.limit}: there are only {rows} problems; set it lower or to null"
        )


def check_model(model: ModelConfig, max_model_len: int | None) -> None:
    """Raises UserError for what is not a whole model, or has fewer positions than `max_model_len`."""
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
    check_context(max_model_len, context)
