"""Processor cores: how many this process may use, and its share of them as a rank. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mft_cli.distributed.placed import number


def cores_here() -> int:
    """Cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def threads_of_rank(environment: Mapping[str, str], cores: int | None = None) -> int:
    """OMP_NUM_THREADS, else this rank's share of the cores that it may run on.

    A SLURM task that is bound to cores of its own has them alone; otherwise the ranks of a node share them.
    """
    asked = environment.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    cores = cores_here() if cores is None else cores
    if "SLURM_PROCID" in environment:
        if per_task := environment.get("SLURM_CPUS_PER_TASK"):
            return min(cores, int(per_task))
        if cores < int(environment.get("SLURM_CPUS_ON_NODE", "0")):
            return cores
    return max(1, cores // max(1, number(environment, "LOCAL_WORLD_SIZE", 1)))
