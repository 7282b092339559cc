"""SLURM's side of a launch: what an allocation says, the srun call, and a task's place among the ranks.

Every task finds in its environment what the driver put there: WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT and
MFT_RANK_LOGS, the folder of the ranks' logs. A batch script has SLURM_PROCID too, so only MFT_RANK_LOGS marks a task.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.data.files import OFFLINE
from mft_cli.errors import EXIT_DONE, EXIT_STOPPED, UserError

LOGS = "MFT_RANK_LOGS"
LOOPBACK = "127.0.0.1"
STOPPED, FAILED, TAKEN = ".stopped", ".failed", "port.taken"  # files next to the logs: what tasks tell their driver
FIRST_PORT, PORTS = 20000, 12000  # below the ports that the kernel hands out by itself


def nodes(launch: LaunchConfig) -> int:
    """launch.nodes, else with launch.name=slurm the allocation's, else 1."""
    if launch.nodes:
        return launch.nodes
    return int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) if launch.name == "slurm" else 1


def tasks_per_node(launch: LaunchConfig) -> int:
    """With launch.name=slurm what --ntasks-per-node says, else 1."""
    return int(os.environ.get("SLURM_NTASKS_PER_NODE", "1")) if launch.name == "slurm" else 1


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return int(s.getsockname()[1])


def srun_call(
    command: list[str], launch: LaunchConfig, per_node: int, logs: Path, attempt: int = 0
) -> tuple[list[str], dict[str, str]]:
    """The srun command line of all ranks and its environment; every `attempt` has another port. Raises UserError outside of an
    allocation."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        raise UserError(
            "launch.name=slurm, but SLURM_JOB_ID is not set; start it with sbatch or salloc, or launch=local"
        )
    if shutil.which("srun") is None:
        raise UserError("launch.name=slurm, but there is no srun on the PATH; load SLURM's commands, or launch=local")
    count = nodes(launch)
    options = [f"--nodes={count}", f"--ntasks={count * per_node}", f"--ntasks-per-node={per_node}"]
    options += ["--kill-on-bad-exit=1", "--export=ALL"]
    # srun does not take the job's cores a task over by itself: a task would get one core.
    cores = launch.slurm.cpus_per_task or os.environ.get("SLURM_CPUS_PER_TASK")
    options += [f"--cpus-per-task={cores}"] if cores else []
    options += [f"--container-image={launch.slurm.container}"] if launch.slurm.container else []
    mounts = ",".join(launch.slurm.container_mounts)
    options += [f"--container-mounts={mounts}"] if mounts else []
    here = OFFLINE | {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK")}
    alone = count == 1 and "SLURMD_NODENAME" in here  # this process is on the node: a port can be tried out
    port = launch.port or (free_port() if alone else FIRST_PORT + (int(job) + attempt * 101) % PORTS)
    host = launch.host or (LOOPBACK if count == 1 else first_host())
    added = {
        "WORLD_SIZE": count * per_node, "LOCAL_WORLD_SIZE": per_node, "MASTER_ADDR": host,
        "MASTER_PORT": port, "PYTHONUNBUFFERED": 1, LOGS: logs.resolve(),
    }  # fmt: skip
    if launch.threads:
        added["OMP_NUM_THREADS"] = launch.threads
    return ["srun", *options, *command], {**here, **{k: str(v) for k, v in added.items()}}


def first_host() -> str:
    """First node of the allocation."""
    listed = os.environ.get("SLURM_JOB_NODELIST", "")
    try:
        names = subprocess.run(
            ["scontrol", "show", "hostnames", listed], capture_output=True, text=True, check=True, timeout=30
        ).stdout.split()
    except (OSError, subprocess.SubprocessError):
        names = []
    if not names:
        raise UserError(
            f"SLURM_JOB_NODELIST={listed}: scontrol show hostnames does not resolve it; set launch.host to the first node"
        )
    return names[0]


def place_from_slurm() -> None:
    """For a rank, first thing: in a task of our srun, set RANK and LOCAL_RANK and send the output of ranks other than 0
    to logs/rank<N>.log. Does nothing elsewhere, or where RANK is set."""
    if LOGS not in os.environ or "SLURM_PROCID" not in os.environ or "RANK" in os.environ:
        return
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["LOCAL_RANK"] = os.environ["SLURM_LOCALID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    if os.environ["RANK"] != "0":
        log = os.open(Path(os.environ[LOGS]) / f"rank{os.environ['RANK']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)


def rank_exit_code(code: int) -> int:
    """What a rank exits with. In a task of our srun, 75 is written to a file and 0 returned: --kill-on-bad-exit would
    end the tasks that still save, and srun's code, the highest one, would let 75 hide a failure."""
    if code == EXIT_DONE or LOGS not in os.environ or "SLURM_PROCID" not in os.environ:
        return code
    mark = Path(os.environ[LOGS]) / f"rank{os.environ['SLURM_PROCID']}"
    if code == EXIT_STOPPED:
        mark.with_suffix(STOPPED).touch()
        return EXIT_DONE
    mark.with_suffix(FAILED).write_text(str(time.time()))
    return code


def note_taken_port() -> None:
    """For the first rank: its driver takes another port."""
    if LOGS in os.environ:
        (Path(os.environ[LOGS]) / TAKEN).touch()


def port_was_taken(logs: Path) -> bool:
    return (logs / TAKEN).exists()


def clear_marks(logs: Path) -> None:
    for pattern in (f"rank*{STOPPED}", f"rank*{FAILED}", TAKEN):
        for path in logs.glob(pattern):
            path.unlink()


def stopped(logs: Path) -> int:
    """How many ranks have stopped after saving."""
    return len(list(logs.glob(f"rank*{STOPPED}")))


def first_failed(logs: Path) -> int | None:
    """The number of the rank that failed first, by its own clock; None if none has said that it failed."""
    marks = {path: path.read_text() for path in logs.glob(f"rank*{FAILED}")}
    times = {path: float(text) for path, text in marks.items() if text}
    return int(min(times, key=lambda p: times[p]).stem.removeprefix("rank")) if times else None
