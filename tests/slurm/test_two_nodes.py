"""A real SLURM of two nodes, both of them this machine: ranks of both meet, also where the first port is taken."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from mft_cli.slurm.srun import FIRST_PORT
from tests.slurm.test_slurm import Site
from tests.support.slurm_cluster import Cluster, why_not
from tests.support.tiny import tiny_overrides

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def test_ranks_of_two_nodes_take_another_port_where_the_first_is_taken(
    tiny_model: Path, problem_file: Path, tmp_path: Path
) -> None:
    with Cluster(nodes=2, cpus=2) as cluster, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", FIRST_PORT + 1))  # the first job's
        other.listen()
        site = Site(cluster, tmp_path)
        site.env["GLOO_SOCKET_IFNAME"] = "lo"
        words = [*tiny_overrides(tiny_model, problem_file, run_dir="run"), "launch.host=127.0.0.1", "train.max_steps=2"]
        job = site.train(*words, options=("--nodes=2", "--ntasks-per-node=1"))
        assert site.ended(job)["JobState"] == "COMPLETED", site.output(job)
        assert f"port {FIRST_PORT + 1} is taken on 127.0.0.1: the ranks start again with another" in site.output(job)
        facts = json.loads((tmp_path / "run" / "run.json").read_text())
        assert facts["ranks"] == 2
