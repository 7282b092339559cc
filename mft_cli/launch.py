"""stub"""

from typing import Any


def world_size(launch: Any) -> int:
    return launch.processes or launch.gpus or 1


def start_ranks(*a: Any) -> int:
    raise NotImplementedError


def place_from_slurm() -> None: ...
