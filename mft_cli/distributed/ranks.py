"""The processes of a run: who this one is, and the few things that they say to each other."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist

from mft_cli.distributed.rendezvous import TIMEOUT, open_store
from mft_cli.errors import UserError

T = TypeVar("T")


@dataclass
class Ranks:
    """One process among `world`. With one process every method is the identity."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    # what collectives take: the GPU with NCCL
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, values: list[float]) -> list[float]:
        """Sums over all ranks, in float64; the same on every rank to the bit. Processors do it: no GPU is waited for."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return [float(v) for v in tensor.tolist()]

    def any(self, flag: bool) -> bool:
        return self.sum([float(flag)])[0] > 0

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def from_first(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def one_after_first(self, task: Callable[[], T]) -> T:
        """Rank 0 (of every node) does it first, so that the others find its result in a cache.

        A mistake on the first one is raised on all of them: nobody waits for a rank that has gone.
        """
        if self.world == 1:
            return task()
        result: T | None = None
        error: Exception | None = None
        for mine in (self.local_rank == 0, self.local_rank != 0):
            if mine and error is None:
                try:
                    result = task()
                except UserError as mistake:
                    error = mistake
            faults = [e for e in self.gather(str(error) if error else None) if e]
            if faults:
                raise UserError(faults[0])
        return result  # type: ignore[return-value]


def join(device: torch.device) -> Ranks:
    """This process's place, from torch's environment names (RANK, WORLD_SIZE, LOCAL_RANK), see also `open_store`.

    Forms the process group: gloo on CPU, NCCL (with gloo for objects on the CPU) on GPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(device=device)
    rank = int(os.environ["RANK"])
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=open_store(rank, world), rank=rank, world_size=world, timeout=TIMEOUT)
    ranks = Ranks(
        rank=rank, world=world, local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_world=int(os.environ.get("LOCAL_WORLD_SIZE", str(world))), device=device,
    )  # fmt: skip
    if device.type == "cuda":
        refuse_shared_gpus(ranks.gather(f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}"))
    return ranks


def refuse_shared_gpus(names: list[str]) -> None:
    """`names`: host and serial number of every rank's GPU. Raises UserError where two ranks have the same one."""
    for rank, name in enumerate(names):
        first = names.index(name)
        if first < rank:
            raise UserError(
                f"ranks {first} and {rank} have the same GPU ({name}): give every rank one of its own, with "
                f"launch.gpus=<GPUs of a node>, or in SLURM --gpus-per-task=1"
            )


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank ended; what that one says is the cause."""
    return "gloo" in str(error) and any(words in str(error) for words in ("Connection reset", "Connection closed"))


def leave() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
