"""What a run tells while it runs: metrics.jsonl (the truth), followers that may fail, and progress on the screen."""

from __future__ import annotations

import json
import math
import os
import resource
from pathlib import Path

import torch

from mft_cli.config.schema.training import LogConfig
from mft_cli.console import Logger
from mft_cli.files import JsonObject, read_jsonl, write_atomically
from mft_cli.run_dir import RunDir
from mft_cli.train.followers import Row, close, followers

# Dense bf16 peaks in TFLOP/s, from the makers' data sheets (without sparsity).
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0, "V100": 125.0}


def cut_back(path: Path, step: int, log: Logger) -> None:
    """Keeps the lines of a JSONL file up to `step`: later ones come again. A torn last line is what a kill leaves."""
    lines = [(number, line, step_of(row)) for number, line, row in read_jsonl(path)]
    if damaged := [str(number) for number, line, of_row in lines if of_row is None and line.endswith(b"\n")]:
        log(f"warning: {path}: damaged lines left out: {', '.join(damaged)}")
    if path.exists():
        kept = [line.rstrip(b"\n") + b"\n" for _, line, of_row in lines if of_row is not None and of_row <= step]
        write_atomically(path, b"".join(kept))


def step_of(row: JsonObject | None) -> int | None:
    """None for a damaged line."""
    step = (row or {"step": None}).get("step", 0)
    return step if isinstance(step, int) else None


class Metrics:
    """Appends rows to metrics.jsonl and hands them to followers. Rows after `step` are dropped: they come again."""

    def __init__(self, run: RunDir, config: LogConfig, step: int, settings: dict[str, object], log: Logger):
        self.path = run.metrics
        cut_back(run.metrics, step, log)
        self.file = open(run.metrics, "a", encoding="utf-8")  # noqa: SIM115  open as long as the run
        self.followers = followers(run, config, settings, log)
        self.log = log

    def write(self, row: Row) -> None:
        """One row; numbers that are not finite become null, which JSON can hold."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self.file.write(json.dumps(clean) + "\n")
        self.file.flush()
        for follower in list(self.followers):
            try:
                follower(clean)
            except Exception as error:  # a follower's fault must not cost a run
                self.followers.remove(follower)
                self.log(f"a metrics follower failed and is off from here on: {error}")

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        close(self.followers, self.log)


class NoMetrics(Metrics):
    """What the other ranks have: rank 0 writes the sums over all of them."""

    def __init__(self) -> None:
        pass

    def write(self, row: Row) -> None:
        pass

    def close(self) -> None:
        pass


# ---- measures -------------------------------------------------------------------------------------------------------


def memory_gb(device: torch.device) -> float:
    """Peak memory in GiB: of the GPU's allocator, else the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def peak_flops(device: torch.device, config: LogConfig) -> float | None:
    """The device's peak in FLOP/s, if it is known."""
    if config.peak_tflops is not None:
        return config.peak_tflops * 1e12
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return next((v * 1e12 for k, v in PEAK_TFLOPS.items() if k in name), None)
    return None
