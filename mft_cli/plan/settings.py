"""The options of `mft plan`, besides the keys of `mft train`. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from mft_cli.config.schema.base import STRICT, AtLeastOne, Positive, Processes, Share, key
from mft_cli.config.schema.runs import TrainConfig
from mft_cli.errors import UserError

GPUS_PER_NODE = 8  # where launch.gpus does not say it


@dataclass(config=STRICT, frozen=True)
class PlanOptions:
    """What the run would run on, and on what. Gigabytes are 1e9 bytes."""

    gpus: Processes | None = key(None, "GPUs in all; null: launch.gpus x nodes, else 1.")
    nodes: Processes | None = key(None, "Nodes; null: launch.nodes, else 8 GPUs a node.")
    gpu_memory_gb: Positive = key(80.0, "Memory of a GPU.")
    reserve: Annotated[float, Field(ge=0, lt=1)] = key(0.05, "Share of it that is left for what is not counted.")
    mfu: Share = key(0.4, "Share of the peak that is reached.")
    peak_tflops: Positive | None = key(None, "Peak of a GPU; without it no time is given.")
    rows: AtLeastOne | None = key(None, "Training examples; null: counted.")
    mean_tokens: Positive | None = key(None, "Tokens of an example; null: counted.")
    label_share: Share | None = key(None, "Share of the tokens that are trained on; null: counted, else 1.")
    arch: str | None = key(None, "The model's config.json, or its numbers in braces.")
    json: bool = key(False, "Print JSON.")


@dataclass(config=STRICT, frozen=True)
class Settings(PlanOptions):
    """The options with every number of GPUs known."""

    gpus: Processes = key(1, "GPUs in all.")
    nodes: Processes = key(1, "Nodes.")

    @property
    def limit(self) -> float:
        """Bytes of one GPU that the plan may fill."""
        return self.gpu_memory_gb * 1e9 * (1 - self.reserve)

    @property
    def gpus_per_node(self) -> int:
        return math.ceil(self.gpus / self.nodes)


def settings_of(options: PlanOptions, config: TrainConfig) -> Settings:
    """gpus, nodes and peak_tflops fall back to the configuration's. Raises UserError for more nodes than GPUs."""
    launch = config.launch
    nodes = options.nodes or launch.nodes
    gpus = options.gpus or (launch.gpus or 1) * (nodes or 1)
    nodes = nodes or math.ceil(gpus / (launch.gpus or GPUS_PER_NODE))
    if nodes > gpus:
        raise UserError(f"nodes={nodes}: more nodes than gpus={gpus}; every node needs a GPU")
    peak = options.peak_tflops or config.log.peak_tflops
    return Settings(**{**dataclasses.asdict(options), "gpus": gpus, "nodes": nodes, "peak_tflops": peak})
