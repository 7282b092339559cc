"""What can be told about an evaluation before it is paid for: model, engine, data, prompts.

`mft eval` asks before torch is imported, which takes seconds; `mft train` asks before the first step: the evaluation
at its end would tell it only after the training.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mft_cli.config.model_path import kind_of, no_model
from mft_cli.config.schema.evaluation import BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import ModelConfig, PromptConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.data.files import downloaded, is_url, local_files, local_hint, offline, read_files
from mft_cli.errors import UserError
from mft_cli.eval.engines.load import choose_engine
from mft_cli.eval.listing import location
from mft_cli.files import JsonObject
from mft_cli.models.folder import check_context, context_of, download
from mft_cli.models.weight_files import read_settings, weight_files

VLLM_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # CPUAttentionBackend of vllm 0.32
MOST_COUNTED = 32 << 20  # bytes of files whose rows are counted: larger ones take as long as torch


def preflight(config: EvalRunConfig) -> None:
    """Raises UserError for an engine that is not installed, a folder that is not a whole model, a file that is missing."""
    name, _ = choose_engine(config.eval)
    if config.model.path and name != "api":
        check_model(config.model, config.eval.max_model_len)
    check_data(config.eval)


def check_planned(config: EvalConfig, decoders: Collection[str]) -> None:
    """Raises UserError for what an evaluation at a training's end would stop at; `decoders`: those that the method trains.

    The engine, the decoder, and every benchmark's file, prompts and rows with their golds.
    """
    if not config.benchmarks:
        return
    choose_engine(config)
    if config.decode != "plain" and config.decode not in decoders:
        raise UserError(
            f"eval.decode={config.decode} needs a head that this method does not train; set eval.decode=plain, or "
            "train with method=chunk_refine"
        )
    check_data(config)
    check_template("eval.prompt", config.prompt)
    for name, benchmark in config.benchmarks.items():
        check_template(f"eval.benchmarks.{name}.prompt", benchmark.prompt)
    from mft_cli.eval.problems import load_problems  # brings torch: only now

    for name, benchmark in config.benchmarks.items():
        load_problems(name, benchmark, config.seed, config.limit)


def check_template(key: str, prompt: PromptConfig | None) -> None:
    """Raises UserError for a template that leaves the question out."""
    if prompt is not None and "{question}" not in prompt.template:
        raise UserError(f"{key}.template does not contain {{question}}; put it where the question belongs")


def check_trained_model(
    config: EvalConfig, settings: JsonObject, chat_template: object, prompt: PromptConfig, device: str
) -> None:
    """Raises UserError if the model that is trained (its config.json: `settings`) cannot be evaluated as asked.

    Fewer positions than eval.max_model_len, heads of a size that vllm's CPU build lacks, a chat without a template.
    `prompt` is the training's, which benchmarks without one are asked with.
    """
    if not config.benchmarks or config.engine == "api":
        return
    check_context(config.max_model_len, context_of(settings))
    name, _ = choose_engine(config)
    size = head_size(settings)
    if name == "vllm" and device == "cpu" and size is not None and size not in VLLM_CPU_HEAD_SIZES:
        raise UserError(
            f"eval.engine={config.engine}: vllm's CPU build has no attention for heads of size {size} (it has "
            f"{', '.join(map(str, VLLM_CPU_HEAD_SIZES))}); set eval.engine=hf"
        )
    for benchmark_name, benchmark in config.benchmarks.items():
        asked = benchmark.prompt or config.prompt or prompt
        if asked.kind == "chat" and not chat_template:
            raise UserError(
                f"eval={benchmark_name} is asked with the chat prompt {asked.name}, but the tokenizer has no chat "
                "template: set eval.prompt or model.chat_template=FILE"
            )


def head_size(settings: JsonObject) -> int | None:
    """Width of an attention head by a config.json; None if it does not say."""
    text = settings.get("text_config") or settings
    width, heads = text.get("hidden_size"), text.get("num_attention_heads")
    if isinstance(text.get("head_dim"), int):
        return int(text["head_dim"])
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads else None


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
    if kind_of(folder) == "adapter":
        return
    if kind_of(folder) != "model":
        raise no_model(model.path, folder)
    context = context_of(read_settings(folder / "config.json", model))
    weight_files(folder, model)
    check_context(max_model_len, context)
