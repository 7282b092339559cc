"""A rank's share of the processor's cores: divided once."""

from __future__ import annotations

import pytest

from mft_cli.distributed.cores import cores_here, threads_of_rank
from mft_cli.distributed.ranks import refuse_shared_gpus
from mft_cli.errors import UserError


@pytest.mark.parametrize(
    ("cores", "environment", "threads"),
    [
        (16, {}, 16),
        (16, {"LOCAL_WORLD_SIZE": "8"}, 2),
        (4, {"LOCAL_WORLD_SIZE": "8"}, 1),
        (16, {"LOCAL_WORLD_SIZE": "8", "OMP_NUM_THREADS": "3"}, 3),
        (16, {"LOCAL_WORLD_SIZE": "8", "OMP_NUM_THREADS": "0"}, 2),
        # tasks of SLURM: bound to their 16 cores, not bound, and bound without --cpus-per-task
        (16, {"LOCAL_WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_CPUS_PER_TASK": "16"}, 16),
        (128, {"LOCAL_WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_CPUS_PER_TASK": "16"}, 16),
        (16, {"LOCAL_WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_CPUS_ON_NODE": "128"}, 16),
        (128, {"LOCAL_WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_CPUS_ON_NODE": "128"}, 16),
    ],
)
def test_cores_are_divided_once(cores: int, environment: dict[str, str], threads: int):
    assert threads_of_rank(environment, cores) == threads


def test_cores_where_the_system_knows_no_affinity(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert cores_here() == 6
    assert threads_of_rank({}) == 6


def test_two_ranks_on_one_gpu_are_refused():
    refuse_shared_gpus(["a GPU-1", "a GPU-2", "b GPU-1"])
    with pytest.raises(UserError, match="ranks 0 and 2 have the same GPU"):
        refuse_shared_gpus(["a GPU-1", "a GPU-2", "a GPU-1"])
