"""Where ranks meet: no port of theirs is open to other machines."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.distributed import launch, rendezvous
from mft_cli.distributed.meeting import MEETING, meeting_file
from mft_cli.errors import UserError
from mft_cli.slurm import srun
from tests.support.tiny import ROOT

RANK = """
import torch
from mft_cli.distributed.ranks import join, leave
ranks = join(torch.device("cpu"))
assert ranks.gather(ranks.rank) == [0, 1]
if "zero" in __import__("sys").argv:
    from mft_cli.distributed.zero import start_communication
    start_communication()
print("joined", flush=True)
input()
ranks.barrier()
leave()
"""


def addresses(environments: list[dict[str, str]], *words: str) -> set[str]:
    """The addresses on which two ranks that have joined listen."""
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, *words], env={**e, "PYTHONPATH": str(ROOT)}, text=True, cwd=ROOT,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for e in environments
    ]  # fmt: skip
    try:
        for rank in ranks:
            assert rank.stdout is not None
            assert "joined\n" in rank.stdout
        connections = [c for rank in ranks for c in psutil.Process(rank.pid).net_connections("inet")]
        for rank in ranks:
            assert rank.stdin is not None
            rank.stdin.write("go on\n")
            rank.stdin.flush()
        assert [rank.wait(60) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    return {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("engine", ["plain", "zero"])
def test_ranks_of_one_node_listen_on_the_loopback_alone(engine):
    with meeting_file() as meeting:
        asked = LaunchConfig(processes=2, threads=1)
        assert addresses(launch.local_environments(asked, meeting), engine) <= {"127.0.0.1", "::1"}


def test_ranks_of_several_nodes_listen_on_the_address_that_is_used(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    both = [
        launch.local_environments(
            LaunchConfig(processes=1, nodes=2, node_rank=node, host="127.0.0.1", port=port, threads=1), tmp_path
        )[0]
        for node in range(2)
    ]
    assert not any(MEETING in environment for environment in both)
    listening = addresses([{**e, "GLOO_SOCKET_IFNAME": "lo"} for e in both])
    assert listening == {"127.0.0.1"}


def test_only_this_user_can_open_the_meeting_file():
    with meeting_file() as meeting:
        assert stat.S_IMODE(meeting.parent.stat().st_mode) == 0o700
    assert not meeting.parent.exists()


def test_an_address_of_another_machine_is_the_users_mistake():
    with pytest.raises(UserError, match=r"launch\.host=192\.0\.2\.1, launch\.port=29500: rank 0 cannot listen there"):
        rendezvous.listen("192.0.2.1", 29500)


def test_ranks_that_do_not_come_are_named(monkeypatch: pytest.MonkeyPatch):
    store = dist.HashStore()
    monkeypatch.setattr(rendezvous, "open_store", lambda *place: store)
    store.set("mft/here/1", "n1")
    with pytest.raises(UserError, match=r"ranks 2-3 are not here after 0.01 minutes \(launch.timeout_minutes\)"):
        rendezvous.meet(0, 4, 0.01)
    store.set("mft/here/2", "n2")
    assert rendezvous.meet(3, 4, 0.01) is store


def test_a_first_rank_that_cannot_be_reached_is_told_in_minutes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rendezvous, "RESOLVE_S", 0.1)
    monkeypatch.setenv("MASTER_ADDR", "no-such-node.invalid")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv(MEETING, raising=False)
    with pytest.raises(UserError, match=r"launch.host=no-such-node.invalid: no address of that name"):
        rendezvous.meet(1, 2, 0.01)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(reserved.getsockname()[1]))
        with pytest.raises(UserError, match=r"rank 1 on .* does not reach rank 0 at launch.host=127.0.0.1"):
            rendezvous.meet(1, 2, 0.01)


def test_a_taken_port_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(srun.LOGS, str(tmp_path))
    other = rendezvous.listen("127.0.0.1", 0)
    port = other.getsockname()[1]
    monkeypatch.setattr(rendezvous, "TAKEN_S", 0.1)
    with pytest.raises(UserError, match=f"launch.port={port}: rank 0 cannot listen there"):
        rendezvous.listen("127.0.0.1", port)
    assert srun.port_was_taken(tmp_path)
    monkeypatch.setattr(rendezvous, "TAKEN_S", 30.0)
    threading.Timer(0.7, other.close).start()
    rendezvous.listen("127.0.0.1", port).close()


@pytest.mark.parametrize(
    ("host", "address", "only_here"),
    [("node0", "127.0.1.1", True), ("localhost", "127.0.0.1", False), ("127.0.0.1", "127.0.0.1", False), ("n", "10.0.0.1", False)],
)  # fmt: skip
def test_a_name_that_means_the_loopback_here_means_another_address_elsewhere(host, address, only_here):
    assert rendezvous.is_only_here(host, address) == only_here


def test_the_names_in_the_environment_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    (environment,) = launch.local_environments(LaunchConfig(processes=1), tmp_path / "meeting")
    assert environment["GLOO_SOCKET_IFNAME"] == "eth7"
    assert environment["NCCL_SOCKET_IFNAME"] == "lo"


DRIVER = """
import subprocess, sys, time
from mft_cli.distributed.processes import die_with
import os
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]], preexec_fn=die_with(os.getpid()))
print(rank.pid, flush=True)
time.sleep(60)
"""
WAITING_RANK = """
from mft_cli.signals import StopSignal
stop = StopSignal()
from mft_cli.distributed.rendezvous import meet
with stop.ending_with_parent():
    print("meeting", flush=True)
    meet(1, 2, 20.0)
"""


def test_a_rank_that_waits_for_others_ends_with_the_driver(tmp_path: Path) -> None:
    """It notes the TERM that it gets for it, and would wait until launch.timeout_minutes."""
    environment = {**os.environ, MEETING: str(tmp_path / "meeting")}
    command = [sys.executable, "-c", DRIVER, WAITING_RANK]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    rank = psutil.Process(int(driver.stdout.readline()))
    assert driver.stdout.readline() == "meeting\n"
    driver.kill()
    driver.wait()
    rank.wait(20)
