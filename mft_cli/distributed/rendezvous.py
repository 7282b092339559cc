"""How the ranks of a run meet: on one node by a file (meeting.py), on several by a port of one address.

torch's own way would listen on every network interface, and what it is told there is believed: no password, and pickles.
"""

from __future__ import annotations

import datetime
import os
import socket

import torch.distributed as dist

from mft_cli.distributed.meeting import MEETING
from mft_cli.errors import UserError

TIMEOUT = datetime.timedelta(hours=2)  # rank 0 may tokenize or write while the others wait


def open_store(rank: int, world: int) -> dist.Store:
    """What the ranks of the environment's run tell each other their addresses through. Raises UserError."""
    if file := os.environ.get(MEETING):
        return dist.FileStore(file, world)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank:
        return dist.TCPStore(host, port, world, is_master=False, timeout=TIMEOUT)
    listening = listen(host, port)
    return dist.TCPStore(
        host, port, world, is_master=True, timeout=TIMEOUT, wait_for_workers=False, master_listen_fd=listening.detach()
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket on the address that the other ranks use. Raises UserError where that is not this machine's."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if is_only_here(host, str(address[0])):
            family, address = socket.AF_INET, ("", port)  # the other nodes know it by another address
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(socket.SOMAXCONN)
    except OSError as error:
        raise UserError(
            f"launch.host={host}, launch.port={port}: rank 0 cannot listen there ({error.strerror or error}); expected an "
            f"address of the first node and a port that is free on it"
        ) from None
    return listening


def is_only_here(host: str, address: str) -> bool:
    """Whether a machine's name means its loopback, as Debian's 127.0.1.1 in /etc/hosts: other nodes resolve it otherwise."""
    return address.startswith("127.") and host != "localhost" and not host.startswith("127.")
