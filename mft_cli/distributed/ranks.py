"""The processes of a run: who this one is, and the few things that they say to each other."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist

from mft_cli.distributed.placed import number
from mft_cli.distributed.rendezvous import meet
from mft_cli.distributed.watch import Watch
from mft_cli.errors import UserError

T = TypeVar("T")
PREPARING = datetime.timedelta(hours=12)  # one rank may tokenize, write or evaluate while the others wait


@dataclass
class Ranks:
    """One process among `world`. With one process every method is the identity.

    `sum` and `any` belong to steps and wait for minutes. All else waits for hours, for what one rank prepares or writes.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    # what collectives take: the GPU with NCCL
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    patient: dist.ProcessGroup | None = None  # of processors, for what takes hours
    watch: Watch | None = None

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """Around a wait for the others' part of a step: who keeps them waiting is named. All ranks come as often."""
        return self.watch.waiting() if self.watch else contextlib.nullcontext()

    def note_step(self, seconds: float) -> None:
        """How long a step took: what waits are compared with."""
        if self.watch:
            self.watch.seconds.append(seconds)

    def sum(self, values: list[float]) -> list[float]:
        """Sums over all ranks, in float64; the same on every rank to the bit. Processors do it: no GPU is waited for."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        with self.waiting():
            dist.all_reduce(tensor)
        return [float(v) for v in tensor.tolist()]

    def any(self, flag: bool) -> bool:
        return self.sum([float(flag)])[0] > 0

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier(group=self.patient)

    def from_first(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.patient)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        dist.all_gather_object(values, value, group=self.patient)
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


def join(device: torch.device, minutes: float = 20.0) -> Ranks:
    """This process's place, from torch's environment names (RANK, WORLD_SIZE, LOCAL_RANK), see also `meet`.

    Forms the process group: gloo on CPU, NCCL (with gloo for objects on the CPU) on GPUs. `minutes`: how long ranks wait for
    each other, to come and within a step. Raises UserError if they do not come.
    """
    world = number(os.environ, "WORLD_SIZE", 1)
    if world == 1:
        return Ranks(device=device)
    if "RANK" not in os.environ:
        raise UserError(
            f"WORLD_SIZE={world} is set in the environment, RANK is not: unset WORLD_SIZE to train in this process alone, or let "
            f"launch.gpus=N start the ranks"
        )
    rank, patience = number(os.environ, "RANK", 0), datetime.timedelta(minutes=minutes)
    store = meet(rank, world, minutes)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)
    watch = Watch(store, rank, world, 60 * minutes)
    watch.start()
    ranks = Ranks(
        rank=rank, world=world, local_rank=number(os.environ, "LOCAL_RANK", 0),
        local_world=number(os.environ, "LOCAL_WORLD_SIZE", world), device=device,
        patient=dist.new_group(backend="gloo", timeout=PREPARING), watch=watch,
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


def gave_up(error: RuntimeError) -> bool:
    """Whether a collective was given up because another rank did not come to it in time."""
    return "Timed out waiting" in str(error)


def leave() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
