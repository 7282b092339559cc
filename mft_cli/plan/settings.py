"""The keys of `mft plan` itself, beside those of `mft train`. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from mft_cli.config.schema.runs import TrainConfig
from mft_cli.errors import UserError

GPUS_PER_NODE = 8  # where launch.gpus does not say it


@dataclass(frozen=True)
class Settings:
    """What the run would run on. Gigabytes are 1e9 bytes."""

    gpus: int = 1
    nodes: int = 1
    gpu_memory_gb: float = 80.0
    reserve: float = 0.05  # share of the memory that is left for what the plan does not count
    mfu: float = 0.4
    peak_tflops: float | None = None
    rows: int | None = None
    mean_tokens: float | None = None
    label_share: float | None = None
    arch: str | None = None
    json: bool = False

    @property
    def limit(self) -> float:
        """Bytes of one GPU that the plan may fill."""
        return self.gpu_memory_gb * 1e9 * (1 - self.reserve)

    @property
    def gpus_per_node(self) -> int:
        return math.ceil(self.gpus / self.nodes)


NAMES = tuple(f.name for f in fields(Settings))
WHOLE = ("gpus", "nodes", "rows")
SHARES = {"mfu": "a number above 0 and up to 1", "reserve": "0 or more, below 1", "label_share": "above 0 and up to 1"}


def read_settings(own: dict[str, str], config: TrainConfig) -> Settings:
    """`own` as typed values; gpus, nodes and peak_tflops fall back to the configuration's. Raises UserError."""
    values: dict[str, object] = {name: parse(name, text) for name, text in own.items()}
    launch = config.launch
    nodes = int(str(values.get("nodes") or launch.nodes or 0))
    values.setdefault("gpus", (launch.gpus or 1) * max(nodes, 1))
    gpus = int(str(values["gpus"]))
    values["nodes"] = nodes or math.ceil(gpus / (launch.gpus or GPUS_PER_NODE))
    if int(str(values["nodes"])) > gpus:
        raise UserError(f"nodes={values['nodes']}: more nodes than gpus={gpus}; every node needs a GPU")
    values.setdefault("peak_tflops", config.log.peak_tflops)
    return Settings(**values)  # type: ignore[arg-type]


def parse(name: str, text: str) -> object:
    if name == "arch":
        return text
    if name == "json":
        if text.lower() not in ("true", "false"):
            raise UserError(f"json={text}: expected true or false")
        return text.lower() == "true"
    return parse_number(name, text)


def parse_number(name: str, text: str) -> float | int:
    try:
        value = int(text) if name in WHOLE else float(text)
    except ValueError:
        kind = "a whole number" if name in WHOLE else "a number"
        raise UserError(f"{name}={text}: expected {kind} above 0") from None
    if name in SHARES:
        good = 0 <= value < 1 if name == "reserve" else 0 < value <= 1
        if not good:
            raise UserError(f"{name}={text}: expected {SHARES[name]}")
    elif not (value > 0 and math.isfinite(value)):
        raise UserError(f"{name}={text}: expected {'a whole number' if name in WHOLE else 'a number'} above 0")
    return value
