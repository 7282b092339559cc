"""A benchmark of small sums, how it is evaluated on a model or an endpoint, and an evaluation that was killed half-way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mft_cli.config.schema.evaluation import ApiConfig, BenchmarkConfig, EvalConfig
from mft_cli.config.schema.inputs import ModelConfig, SourceConfig
from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.config.schema.runs import EvalRunConfig


def write_sums(folder: Path, n: int) -> Path:
    """`n` problems: 0 + 1, 1 + 1, ..."""
    path = folder / "sums.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i} + 1", "answer": f"#### {i + 1}"}) + "\n" for i in range(n)))
    return path


def sums(data: Path, derived_from: tuple[str, ...] = (), **more: Any) -> BenchmarkConfig:
    """The benchmark of a file with question and answer."""
    source = SourceConfig(path=str(data), response="answer", derived_from=list(derived_from))
    return BenchmarkConfig(source=source, gold_marker="####", **{"max_new_tokens": 8, **more})


def on_endpoint(url: str, benchmark: BenchmarkConfig, **api: Any) -> EvalRunConfig:
    """An evaluation through an endpoint that does not wait long."""
    settings = {"model": "m", "backoff_s": 0.01, **api}
    return EvalRunConfig(
        eval=EvalConfig(benchmarks={"sums": benchmark}, engine="api", api=ApiConfig(base_url=url, **settings))
    )


def on_model(model: Path, benchmark: BenchmarkConfig, threads: int | None = None, **more: Any) -> EvalRunConfig:
    """An evaluation of a folder on the CPU in fp32."""
    evaluation = EvalConfig(benchmarks={"sums": benchmark}, **{"engine": "hf", "dtype": "float32", **more})
    return EvalRunConfig(
        model=ModelConfig(path=str(model)), eval=evaluation, launch=LaunchConfig(device="cpu", threads=threads)
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def killed(whole: Path, folder: Path, shares: dict[str, float]) -> Path:
    """A benchmark's folder as a kill leaves it: of each file the first bytes of `whole`'s, by share."""
    folder.mkdir(parents=True)
    for name, share in shares.items():
        content = (whole / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])
    return folder
