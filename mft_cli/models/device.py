"""Device, precision and memory allocator of this machine.

The precision follows one rule everywhere: 16-bit bfloat where the hardware multiplies it, half precision on GPUs that lack
it, else single precision. The rule is a function of `Hardware`, so that it can be asked about machines that are not here.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.distributed.cores import threads_of_rank
from mft_cli.distributed.placed import number
from mft_cli.errors import UserError

Precision = Literal["bf16", "fp16", "fp32"]
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}  # dot products and tiles of Intel and AMD processors
# Limits of oneDNN, which multiplies on processors, below which it has no bf16 (ONEDNN_MAX_CPU_ISA).
WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}
BF16_CAPABILITY = (8, 0)  # Ampere; V100 is 7.0, T4 is 7.5

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

    available = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
        used = int((folder / "memory.current").read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        available = min(available, int((folder / "memory.max").read_text()) - used + int(facts["inactive_file"]))
    return available


# ---- precision ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hardware:
    """What decides the precision: the GPU's compute capability, or without a GPU the processor's instruction sets."""

    capability: tuple[int, int] | None = None
    flags: frozenset[str] = frozenset()

    @property
    def has_bf16(self) -> bool:
        """Whether bf16 products are computed by the hardware. What lacks them emulates them, many times slower."""
        if self.capability is not None:
            return self.capability >= BF16_CAPABILITY
        return bool(self.flags & BF16_FLAGS)


def hardware_of(device: torch.device) -> Hardware:
    """This machine's, for what computes on `device`; of several GPUs the oldest that is visible decides."""
    if device.type != "cuda":
        limited = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_BF16
        return Hardware(flags=processor_flags() - (BF16_FLAGS if limited else set()))
    return Hardware(min(torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())))


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction sets by the names that Linux gives them; none where there is no such file."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())


def choose_precision(asked: str, hardware: Hardware) -> Precision:
    """What `auto` is on this hardware; whatever else is asked for is taken as it is."""
    for precision in PRECISIONS:
        if asked == precision:
            return precision
    if hardware.has_bf16:
        return "bf16"
    return "fp32" if hardware.capability is None else "fp16"


def emulation_notice(key: str, precision: str, hardware: Hardware) -> str | None:
    """One line where the precision that `key` asks for is emulated; None where the hardware computes in it."""
    if precision == "fp32" or (precision == "bf16" and hardware.has_bf16):
        return None
    if hardware.capability is None:
        lacking = "bf16 arithmetic (avx512_bf16 or amx_bf16)" if precision == "bf16" else "fp16 arithmetic"
        return f"{key}: this processor has no {lacking} and emulates it, many times slower than fp32; auto avoids that"
    if precision == "fp16":
        return None
    version = "{}.{}".format(*hardware.capability)
    return f"{key}: this GPU (compute capability {version}) has no bf16 arithmetic and emulates it; auto takes fp16"


# ---- device ---------------------------------------------------------------------------------------------------------


def choose_device(launch: LaunchConfig, visible_gpus: int, environment: Mapping[str, str]) -> torch.device:
    """The device of this process, of `visible_gpus`. A rank whose launcher shows it one GPU takes that one.

    Raises UserError for GPUs that are asked for and missing.
    """
    if launch.device == "cuda" and not visible_gpus:
        raise UserError("launch.device=cuda, but torch sees no GPU; set launch.device=auto or cpu")
    if launch.device == "cpu" or not visible_gpus:
        return torch.device("cpu")
    local_rank = number(environment, "LOCAL_RANK", 0) if visible_gpus > 1 else 0
    if local_rank >= visible_gpus:
        raise UserError(
            f"local rank {local_rank} has no GPU of its own: {visible_gpus} are visible to it; start at most "
            f"{visible_gpus} ranks on a node, or set launch.device=cpu"
        )
    return torch.device("cuda", local_rank)


def idle_notice(launch: LaunchConfig, visible_gpus: int, ranks: int, environment: Mapping[str, str]) -> str | None:
    """One line where a node's `ranks` use fewer GPUs than are visible to them; None where all work.

    Raises UserError in a SLURM job, whose GPUs are paid for, unless launch.allow_idle_gpus.
    """
    if visible_gpus <= ranks:
        return None
    idle = f"{visible_gpus - ranks} of {visible_gpus} visible GPUs are idle"
    if "SLURM_JOB_ID" in environment and not launch.allow_idle_gpus:
        raise UserError(
            f"{idle}, and this SLURM job holds them: give every GPU a rank with launch.gpus={visible_gpus}, or sbatch "
            f"--ntasks-per-node={visible_gpus}; ask for {ranks} a node; or set launch.allow_idle_gpus=true"
        )
    return f"warning: {idle}: launch.gpus={visible_gpus} uses all of them; CUDA_VISIBLE_DEVICES hides those that are for others"


def set_up_device(launch: LaunchConfig) -> torch.device:
    """Chooses this process's device and readies the process for it: threads, current GPU, allocator. Raises UserError."""
    device = choose_device(launch, torch.cuda.device_count(), os.environ)
    torch.set_num_threads(launch.threads or threads_of_rank(os.environ))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    return device


def training_precision(asked: str, hardware: Hardware) -> Precision:
    """train.precision on this hardware. Raises UserError for fp16 on a processor: its loss scale would find no use."""
    if asked == "fp16" and hardware.capability is None:
        raise UserError("train.precision=fp16 needs a GPU; on a CPU use bf16 or fp32")
    return choose_precision(asked, hardware)
