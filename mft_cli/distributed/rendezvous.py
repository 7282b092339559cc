"""How the ranks of a run meet: on one node by a file (meeting.py), on several by a port of one address.

torch's own way would listen on every network interface, and what it is told there is believed: no password, and pickles.
"""

from __future__ import annotations

import datetime
import errno
import os
import socket
import time

import torch.distributed as dist

from mft_cli.distributed.meeting import MEETING
from mft_cli.distributed.watch import listed
from mft_cli.errors import UserError, first_line
from mft_cli.slurm.srun import note_taken_port

RESOLVE_S = 30.0  # a name server may be slow to know a node that has just been started
TAKEN_S = 10.0  # a run that has just ended may still hold its port


def meet(rank: int, world: int, minutes: float) -> dist.Store:
    """The store through which the ranks of the environment's run tell each other their addresses, once all have come.

    Raises UserError that names the ranks that have not after so many minutes.
    """
    patience = datetime.timedelta(minutes=minutes)
    store = open_store(rank, world, patience)
    names = [f"mft/here/{r}" for r in range(world)]
    store.set(names[rank], socket.gethostname())
    try:
        store.wait(names, patience)
    except RuntimeError:
        missing = [r for r in range(world) if not store.check([names[r]])]
        if not missing:
            raise
        raise UserError(
            f"{listed(missing)} not here after {minutes:g} minutes (launch.timeout_minutes): is every node up, and does its "
            f"log in logs/ say something?"
        ) from None
    return store


def open_store(rank: int, world: int, patience: datetime.timedelta) -> dist.Store:
    """What ranks meet through. Raises UserError where the first one cannot be reached."""
    if file := os.environ.get(MEETING):
        store = dist.FileStore(file, world)
        store.set_timeout(patience)
        return store
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    check_resolves(host, port)
    if rank:
        try:
            return dist.TCPStore(host, port, world, is_master=False, timeout=patience)
        except RuntimeError as error:
            raise UserError(
                f"rank {rank} on {socket.gethostname()} does not reach rank 0 at launch.host={host}, launch.port={port} "
                f"({first_line(error)}); does rank 0 run, and may this node connect to that address?"
            ) from None
    listening = listen(host, port)
    return dist.TCPStore(
        host, port, world, is_master=True, timeout=patience, wait_for_workers=False, master_listen_fd=listening.detach()
    )


def check_resolves(host: str, port: int) -> None:
    """Raises UserError for a name that means no address here. torch would try until its timeout."""
    end = time.monotonic() + RESOLVE_S
    while True:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            if time.monotonic() < end:
                time.sleep(0.5)
                continue
            raise UserError(
                f"launch.host={host}: no address of that name on {socket.gethostname()} ({error.strerror or error}); expected the "
                f"first node's name or address as the other nodes know it"
            ) from None
        return


def listen(host: str, port: int) -> socket.socket:
    """A socket on the address that the other ranks use. A port that is taken is tried again for a while.

    Raises UserError where the address is not this machine's, or the port stays taken.
    """
    end = time.monotonic() + TAKEN_S
    while True:
        try:
            return bound(host, port)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            if taken and time.monotonic() < end:
                time.sleep(0.5)
                continue
            if taken:
                note_taken_port()
            raise UserError(
                f"launch.host={host}, launch.port={port}: rank 0 cannot listen there ({error.strerror or error}); expected an "
                f"address of the first node and a port that is free on it"
            ) from None


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if is_only_here(host, str(address[0])):
        family, address = socket.AF_INET, ("", port)  # the other nodes know it by another address
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(socket.SOMAXCONN)
    except OSError:
        listening.close()
        raise
    return listening


def is_only_here(host: str, address: str) -> bool:
    """Whether a machine's name means its loopback, as Debian's 127.0.1.1 in /etc/hosts: other nodes resolve it otherwise."""
    return address.startswith("127.") and host != "localhost" and not host.startswith("127.")
