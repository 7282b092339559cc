"""Device, precision and memory allocator of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
from pathlib import Path

import torch

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.errors import UserError

# <malloc.h>: mallopt(3)
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
LARGEST = 2**31 - 1  # mallopt takes an int


def keep_freed_memory() -> bool:
    """Freed memory stays in the process and is used again. False where this C library has no such settings.

    Call it before the first large tensor: what was allocated by mmap stays so.
    """
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c")).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, LARGEST), (TOP_PAD, 64 * 2**20))
    return sum(mallopt(name, value) for name, value in settings) == len(settings)  # sum: every one is tried


def memory_left() -> int:
    """Bytes that this process may still take: what the machine has available, or the control group's limit (cgroup v2)."""
    import psutil

    left = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
        used = int((folder / "memory.current").read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        left = min(left, int((folder / "memory.max").read_text()) - used + int(facts["inactive_file"]))
    return left


def pick_device(config: TrainConfig) -> torch.device:
    wanted = config.launch.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("launch.device=cuda, but torch sees no GPU; set launch.device=auto or cpu")
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, len(os.sched_getaffinity(0)) // local_world)
    torch.set_num_threads(config.launch.threads or (int(asked) if asked.isdigit() and int(asked) else share))
    if wanted != "cpu" and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    keep_freed_memory()
    return torch.device("cpu")


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_precision(wanted: str, device: torch.device) -> str:
    """`auto`: bf16 where the hardware multiplies it natively, else fp32."""
    if wanted == "fp16" and device.type != "cuda":
        raise UserError("train.precision=fp16 needs a GPU; on a CPU use bf16 or fp32")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether the processor has bf16 dot products or tiles (AVX512-BF16, AMX)."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
