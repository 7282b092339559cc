"""A real SLURM on this machine for as long as a `with` block lasts: munged, slurmctld and slurmd in a temporary folder.

    with Cluster() as cluster:
        cluster.run("sbatch", "--wrap", "hostname")

Nothing outside the folder is read or written (no /etc/slurm, no /run/munge), ports are free ones, so that two clusters do
not meet. The daemons are children that the kernel ends with this process, so that a killed test leaves none behind.
By hand: `python tests/support/slurm_cluster.py` starts one and opens a shell in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo", "setpriv")
START_S = 60.0

CONF = """\
ClusterName=mft
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits for cred_expire seconds (120 by default) before it may start again.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
# A test waits for every one of these.
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
OverTimeLimit=0
KillWait={kill_wait_s}
MinJobAge=600
CompleteWait=0
JobRequeue=1
# A job in `urgent` puts those in `main` back into the queue, after GraceTime seconds.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace_s} MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """The reason why no SLURM can be started here, or None."""
    missing = [p for p in PROGRAMS if shutil.which(p, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None]
    if missing:
        return f"no real SLURM here: {', '.join(missing)} missing (apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "no real SLURM here: its daemons need root, and this is another user"
    return None


class Cluster:
    """One or more nodes on localhost. `env` is the environment in which sbatch and the others reach it."""

    def __init__(self, nodes: int = 1, cpus: int = 2, grace_s: int = 0, kill_wait_s: int = 30):
        self.folder = Path(tempfile.mkdtemp(prefix="mft-slurm-"))
        host = socket.gethostname().split(".")[0]
        # One node bears the machine's own name, which ranks resolve; several have names that only SLURM knows.
        self.nodes = [host] if nodes == 1 else [f"n{i + 1}" for i in range(nodes)]
        self.conf = self.folder / "slurm.conf"
        self.env = {**clean(os.environ), "SLURM_CONF": str(self.conf)}
        self.env["PATH"] = f"{self.env.get('PATH', '')}:/usr/sbin:/sbin"
        self.daemons: list[subprocess.Popen[bytes]] = []
        ports = free_ports(nodes + 1)
        lines = [
            f"NodeName={n} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} State=UNKNOWN"
            for n, port in zip(self.nodes, ports[1:], strict=True)
        ]
        text = CONF.format(
            host=host, ctld_port=ports[0], folder=self.folder, nodes="\n".join(lines), grace_s=grace_s,
            kill_wait_s=kill_wait_s,
        )  # fmt: skip
        self.conf.write_text(text)

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the daemons and wait until every node is idle. Raises RuntimeError with the logs' ends."""
        self.folder.chmod(0o755)  # munged runs as another user, and refuses folders that others may write
        (self.folder / "state").mkdir()
        munge = self.folder / "munge"
        munge.mkdir()
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o400)
        for path in (munge, munge / "key"):
            shutil.chown(path, "munge", "munge")
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        files = [f"--{option}={munge / name}" for option, name in names.items()]
        self.daemon("munged", "--foreground", *files, user="munge")
        self.wait_for(lambda: (munge / "socket").exists(), "munged's socket")
        self.daemon("slurmctld", "-D")
        for node in self.nodes:
            (self.folder / f"spool-{node}").mkdir()
            self.daemon("slurmd", "-D", "-N", node)
        self.wait_for(lambda: self.idle() == len(self.nodes), "idle nodes")

    def daemon(self, *command: str, user: str | None = None) -> None:
        who = ["--reuid", user, "--regid", user, "--clear-groups"] if user else []
        log = open(self.folder / f"{command[0]}.out", "ab")  # noqa: SIM115
        with log:
            started = subprocess.Popen(
                ["setpriv", *who, "--pdeathsig", "KILL", "--", *command], env=self.env, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, cwd="/",
            )  # fmt: skip
        self.daemons.append(started)

    def wait_for(self, happened, what: str) -> None:
        end = time.monotonic() + START_S
        while not happened():
            dead = [d.args for d in self.daemons if d.poll() is not None]
            if dead or time.monotonic() > end:
                logs = [*self.folder.glob("*.out"), *self.folder.glob("*.log"), self.folder / "munge" / "log"]
                shown = "\n".join(f"== {p.name}\n{p.read_text()[-1500:]}" for p in logs if p.exists())
                raise RuntimeError(f"SLURM did not start: no {what} (ended: {dead})\n{shown}")
            time.sleep(0.1)

    def idle(self) -> int:
        done = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T", check=False)
        return done.stdout.split().count("idle")

    def run(
        self, *command: str, check: bool = True, cwd: Path | None = None, env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        done = subprocess.run(
            command, env={**self.env, **(env or {})}, cwd=cwd, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def job(self, job_id: str) -> dict[str, str]:
        """What `scontrol show job` says of a job."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job_id).stdout
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def stop(self) -> None:
        """End every job and every daemon, and remove the folder."""
        with contextlib.suppress(RuntimeError, OSError, subprocess.TimeoutExpired):
            self.run("scancel", "--signal=KILL", "--full", "--user=root", check=False, timeout=10)
            self.run("scancel", "--user=root", check=False, timeout=10)
            end = time.monotonic() + 15
            while self.run("squeue", "--noheader", check=False, timeout=10).stdout.strip() and time.monotonic() < end:
                time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def clean(env) -> dict[str, str]:
    """The environment without an outer job's variables: inside a real cluster's job they would mislead sbatch."""
    return {k: v for k, v in env.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


if __name__ == "__main__":
    if reason := why_not():
        raise SystemExit(reason)
    with Cluster() as cluster:
        print(f"SLURM_CONF={cluster.conf}: sinfo, sbatch, ... work in this shell; exit ends the cluster", flush=True)
        subprocess.run([os.environ.get("SHELL", "bash")], env=cluster.env)
