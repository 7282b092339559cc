"""Which GPUs hold which copy of the model: as few of them share one as it fits on, and the others hold further copies."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.errors import UserError
from mft_cli.files import JsonObject, read_object

# share of the memory that vllm may take which is left for the keys and values of completions in the making
FOR_CACHE = 0.25
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Copy:
    """One copy of a model: bytes of its weights, heads of its queries and of its keys."""

    bytes: float
    heads: int
    key_heads: int

    @classmethod
    def of(cls, folder: Path, dtype: str) -> Copy:
        """The copy that an engine makes of a folder's weights in `dtype`."""
        from safetensors import safe_open

        numbers = 0
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt") as tensors:
                numbers += sum(math.prod(tensors.get_slice(n).get_shape()) for n in tensors.keys())  # noqa: SIM118  no dict
        settings = read_object(folder / "config.json")
        inner = settings.get("text_config")
        text: JsonObject = inner if isinstance(inner, dict) else settings
        heads = int(text.get("num_attention_heads") or text.get("n_head") or 1)
        return cls(numbers * BYTES[dtype], heads, int(text.get("num_key_value_heads") or heads))

    def can_share(self, gpus: int) -> bool:
        """vllm gives every GPU as many heads; keys' heads are divided, or repeated."""
        return self.heads % gpus == 0 and (self.key_heads % gpus == 0 or gpus % self.key_heads == 0)


def fewest_gpus(copy: Copy, memory: Sequence[float], share: float) -> int:
    """How many of the GPUs, whose bytes are `memory`, hold one copy, if vllm takes `share` of each.

    The fewest that leave FOR_CACHE of that for completions; where none do, all that can share it, if the weights fit at all.
    Raises UserError if they do not.
    """
    room = share * min(memory)
    counts = [n for n in range(1, len(memory) + 1) if copy.can_share(n)]
    for count in counts:
        if copy.bytes / count <= (1 - FOR_CACHE) * room:
            return count
    if copy.bytes / counts[-1] < room:
        return counts[-1]
    raise UserError(
        f"the weights take {copy.bytes / 1e9:,.1f} GB, and {counts[-1]} of {len(memory)} visible GPUs can share them (its "
        f"{copy.heads} heads are divided), with eval.gpu_memory={share:g} of {min(memory) / 1e9:,.1f} GB each: evaluate on more "
        f"or larger GPUs"
    )


def tensor_parallel(config: EvalConfig, engine: str, folder: Path, dtype: str, device: str) -> int:
    """GPUs that share one copy: eval.tensor_parallel, else for vllm the fewest that it fits on. Raises UserError."""
    if config.tensor_parallel is not None:
        return config.tensor_parallel
    if engine != "vllm" or device == "cpu":
        return 1
    import torch

    memory = [float(torch.cuda.get_device_properties(n).total_memory) for n in range(torch.cuda.device_count())]
    return fewest_gpus(Copy.of(folder, dtype), memory, config.gpu_memory)


def replica_devices(config: EvalConfig, launch: LaunchConfig, device: str, wide: int = 1) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of every replica (None on a CPU); `wide` GPUs share one. Raises UserError for more GPUs than there are."""
    if device == "cpu":
        return [None] * (config.replicas or 1)
    gpus = visible_gpus()
    count = config.replicas or max(1, min(len(gpus), launch.gpus or len(gpus)) // wide)
    if count * wide > len(gpus):
        raise UserError(
            f"eval.replicas={count} with eval.tensor_parallel={wide} needs {count * wide} GPUs, but {len(gpus)} are "
            "visible; set one of them lower"
        )
    return [",".join(gpus[n * wide : (n + 1) * wide]) for n in range(count)]


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, without touching them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return [n.strip() for n in named.split(",") if n.strip()]
    return [str(n) for n in range(torch.cuda.device_count())]
