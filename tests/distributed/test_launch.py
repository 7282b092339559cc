"""The supervisor of the ranks, with small children that import no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.distributed import launch, processes
from mft_cli.distributed.causes import cause_of
from mft_cli.distributed.processes import Rank
from mft_cli.errors import UserError
from mft_cli.slurm import srun as allocation
from tests.support.tiny import ROOT

DRIVER = """
import json, sys
from pathlib import Path
from mft_cli.distributed.launch import start_ranks
from mft_cli.config.schema.launching import LaunchConfig
settings, logs, *command = sys.argv[1:]
cause = []
try:
    code = start_ranks(
        command, LaunchConfig(**json.loads(settings)), Path(logs), lambda line: print("SAY", line, flush=True), cause=cause
    )
    for line in cause: print("CAUSE", line)
except Exception as error:
    print(type(error).__name__, error)
    code = 99
sys.exit(code)
"""
# Writes the signals that arrive; "ready" once it listens; ends as its argument says.
LISTENER = """
import os, pathlib, signal, sys, time
rank, folder, then = os.environ["RANK"], pathlib.Path(sys.argv[1]), sys.argv[2]
got = []
def note(number, _):
    got.append(number)
    with open(folder / f"got{rank}", "a") as f: f.write(signal.Signals(number).name + " ")
for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT): signal.signal(s, note)
(folder / f"ready{rank}").write_text(str(os.getpid()))
while not got or then == "ignore": time.sleep(0.02)
time.sleep(0.5)
sys.exit(75)
"""


def driver(tmp_path: Path, settings: dict, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(settings), str(tmp_path / "logs"), *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment | (env or {}), start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen, timeout: float = 60) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def python(tmp_path: Path, code: str, n: int = 2, arguments: tuple[str, ...] = (), **settings: object):
    return finish(driver(tmp_path, {"processes": n, **settings}, sys.executable, "-c", code, *arguments))


def wait_for(paths: list[Path], timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not all(p.exists() and p.read_text() for p in paths):
        assert time.monotonic() < end, [p.name for p in paths if not p.exists()]
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listeners(tmp_path: Path, then: str = "stop", **settings: object) -> tuple[subprocess.Popen, list[int]]:
    process = driver(tmp_path, {"processes": 2, **settings}, sys.executable, "-c", LISTENER, str(tmp_path), then)
    ready = [tmp_path / f"ready{k}" for k in range(2)]
    wait_for(ready)
    return process, [int(p.read_text()) for p in ready]


def test_ranks_find_their_place_and_arguments_arrive_unchanged(tmp_path):
    code = "import os, sys, json; print(json.dumps({**os.environ, 'argv': sys.argv[1:]}))"
    arguments = ("two words", 'it\'s "quoted"', "Größe=√2", "", "$HOME `x` \\n", "a\nb")
    rc, out, err = python(tmp_path, code, 3, arguments, threads=2)
    assert rc == 0, err
    seen = [json.loads((tmp_path / "logs" / f"rank{k}.log").read_text()) for k in range(3)]
    assert json.loads(out) == seen[0], "rank 0 alone is on the terminal"
    assert [s["argv"] for s in seen] == [list(arguments)] * 3
    assert [(s["RANK"], s["LOCAL_RANK"]) for s in seen] == [("0", "0"), ("1", "1"), ("2", "2")]
    assert {(s["WORLD_SIZE"], s["LOCAL_WORLD_SIZE"], s["MASTER_ADDR"]) for s in seen} == {("3", "3", "127.0.0.1")}
    assert len({s["MASTER_PORT"] for s in seen}) == 1
    assert {s["OMP_NUM_THREADS"] for s in seen} == {"2"}


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert launch.threads_per_rank(LaunchConfig(processes=2)) == max(1, cores // 2)
    assert launch.threads_per_rank(LaunchConfig(processes=2 * cores)) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert launch.threads_per_rank(LaunchConfig(processes=2)) == 7
    assert launch.threads_per_rank(LaunchConfig(processes=2, threads=3)) == 3


def test_counts_and_contradictions(monkeypatch):
    assert launch.ranks_per_node(LaunchConfig()) == 1
    assert launch.world_size(LaunchConfig(processes=3, nodes=2)) == 6
    with pytest.raises(UserError, match=r"launch.gpus=2 and launch.processes=2"):
        launch.ranks_per_node(LaunchConfig(gpus=2, processes=2))
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    assert launch.world_size(LaunchConfig(name="slurm", gpus=8)) == 32
    assert launch.world_size(LaunchConfig(processes=2)) == 2, "launch=local inside an allocation is one node"


def test_more_gpus_than_there_are_is_the_users_mistake():
    import torch

    with pytest.raises(UserError, match=f"torch sees {torch.cuda.device_count()} GPUs"):
        launch.ranks_per_node(LaunchConfig(gpus=torch.cuda.device_count() + 1))


def test_several_nodes_need_a_meeting_point(monkeypatch):
    with pytest.raises(UserError, match=r"launch.nodes=2 needs launch.port"):
        launch.local_environments(LaunchConfig(nodes=2, processes=2, node_rank=1, host="a"), Path("meeting"))
    second = launch.local_environments(
        LaunchConfig(nodes=2, processes=2, node_rank=1, host="a", port=29500), Path("meeting")
    )
    assert [(e["RANK"], e["LOCAL_RANK"], e["MASTER_ADDR"]) for e in second] == [("2", "0", "a"), ("3", "1", "a")]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0, 0), 0), ((75, 75), 75), ((0, 75), 75), ((75, 0), 75), ((0, 3), 3), ((2, 2), 2), ((75, 1), 1)],
)
def test_exit_codes(tmp_path, codes, expected):
    rc, _, _ = python(tmp_path, f"import os, sys; sys.exit({codes}[int(os.environ['RANK'])])")
    assert rc == expected


def test_a_signal_that_nobody_sent_is_our_failure(tmp_path):
    rc, out, _ = python(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert rc == 1
    assert "SIGKILL" in out


def test_a_dead_rank_ends_the_others_and_its_traceback_is_shown_once(tmp_path):
    code = """
import os, time, signal
if os.environ["RANK"] == "2":
    raise ValueError("the cause")
time.sleep(600)
"""
    start = time.monotonic()
    rc, out, err = python(tmp_path, code, 3)
    assert rc == 1
    assert time.monotonic() - start < 15
    assert (out.split("CAUSE")[0] + err).count("ValueError: the cause") == 1
    assert "rank 2 failed first" in out
    assert "CAUSE rank 2 failed: ValueError: the cause\n" in out


def test_the_cause_is_the_first_failure_not_what_the_others_missed(tmp_path):
    code = """
import os, time
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), 9)
time.sleep(0.5)
raise RuntimeError("connection reset by peer")
"""
    rc, out, _ = python(tmp_path, code)
    assert rc == 1
    assert "CAUSE rank 1 was ended by SIGKILL (out of memory?)\n" in out


def test_a_rank_that_ignores_term_is_killed_after_a_failure(tmp_path):
    code = """
import os, sys, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("pid", os.getpid(), flush=True)
if os.environ["RANK"] == "1":
    time.sleep(1); sys.exit(4)
time.sleep(600)
"""
    start = time.monotonic()
    rc, out, _ = python(tmp_path, code)
    assert rc == 4
    assert time.monotonic() - start < 20
    assert not alive(int(out.split()[1]))


def test_the_same_mistake_on_every_rank_is_shown_once(tmp_path):
    told = "import sys; print('mft: a bad key', file=sys.stderr); sys.exit(2)"
    for code, expected in ((told, 2), ("raise ValueError('mft: a bad key')", 1)):
        rc, out, err = python(tmp_path, code, 3)
        assert rc == expected
        assert (out.split("CAUSE")[0] + err).count("mft: a bad key") == 1
        assert ("SAY" in out) == (expected == 1), "a sentence for the user needs no word about ranks"


def test_progress_lines_pass_as_they_come(tmp_path):
    code = "import sys, time\nsys.stdout.write('10%\\r'); sys.stdout.flush(); time.sleep(600)"
    process = driver(tmp_path, {"processes": 2}, sys.executable, "-c", code)
    assert os.read(process.stdout.fileno(), 4) == b"10%\r"
    process.terminate()
    assert finish(process)[0] == 75


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_reaches_every_rank_once(tmp_path, name):
    process, _ = listeners(tmp_path)
    # The whole process group, as a terminal does it; TERM and USR1 twice, as SLURM may do it.
    os.killpg(process.pid, signal.Signals[name])
    if name != "SIGINT":
        time.sleep(0.1)
        process.send_signal(signal.Signals[name])
    assert finish(process)[0] == 75
    assert [(tmp_path / f"got{k}").read_text() for k in range(2)] == [name + " "] * 2


def test_grace_then_kill(tmp_path):
    process, pids = listeners(tmp_path, "ignore", grace_s=1.5)
    start = time.monotonic()
    process.terminate()
    rc, out, _ = finish(process)
    assert rc == 1
    assert 1.4 < time.monotonic() - start < 8
    assert "launch.grace_s=1.5" in out
    assert not any(map(alive, pids))


def test_second_interrupt_kills_at_once(tmp_path):
    process, pids = listeners(tmp_path, "ignore", grace_s=100)
    process.send_signal(signal.SIGINT)
    wait_for([tmp_path / "got0", tmp_path / "got1"])
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 1
    assert time.monotonic() - start < 5
    assert not any(map(alive, pids))


def test_a_second_interrupt_is_no_lack_of_memory(tmp_path):
    rank = Rank(0, ["true"], {"RANK": "0"}, tmp_path, echo=False)
    rank.code = -signal.SIGKILL
    assert "out of memory?" in cause_of(rank, "")
    assert cause_of(rank, "a second interrupt") == "the ranks were killed for a second interrupt"


def test_no_rank_outlives_a_killed_supervisor(tmp_path):
    process, pids = listeners(tmp_path)
    process.kill()
    process.communicate(timeout=30)
    end = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, pids))
    # The kernel sends it once for each thread of the supervisor that was the parent: perhaps more than once.
    assert set((tmp_path / "got1").read_text().split()) == {"SIGTERM"}, "they are asked to save"


def test_two_supervisors_take_different_ports(tmp_path):
    code = "import os; print(os.environ['MASTER_PORT'])"
    both = [driver(tmp_path / str(k), {"processes": 2}, sys.executable, "-c", code) for k in range(2)]
    ports = [int(finish(p)[1]) for p in both]
    assert len(set(ports)) == 2


def test_a_command_that_cannot_start_leaves_nothing_behind(tmp_path):
    rc, out, _ = finish(driver(tmp_path, {"processes": 2}, str(tmp_path / "missing")))
    assert rc == 99
    assert "FileNotFoundError" in out


# ---- SLURM ----

# Stands in for the cluster: starts the tasks with SLURM's names, ends with the highest code, passes USR1 on.
SRUN = """#!{python}
import os, signal, subprocess, sys
options = [a for a in sys.argv[1:] if a.startswith("--")]
command = sys.argv[1 + len(options):]
n = int(next(o for o in options if o.startswith("--ntasks=")).split("=")[1])
def env(k):
    return {{**os.environ, "SLURM_PROCID": str(k), "SLURM_LOCALID": str(k % 2), "SLURM_NTASKS": str(n)}}
tasks = [subprocess.Popen(command, env=env(k)) for k in range(n)]
signal.signal(signal.SIGUSR1, lambda s, _: [t.send_signal(s) for t in tasks])
print(*options, file=sys.stderr)
sys.exit(max(t.wait() for t in tasks))
"""
TASK = """
import os, sys
from mft_cli.slurm.srun import place_from_slurm, rank_exit_code
place_from_slurm()
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
print(*(os.environ[k] for k in names), *sys.argv[1:], flush=True)
"""


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", "#!/bin/sh\necho n7; echo n8\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "41", "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "n[7-8]", "SLURM_CPUS_PER_TASK": "3", "SLURM_PROCID": "0"}  # fmt: skip


def tasks(tmp_path: Path, cluster: dict[str, str], code: str) -> subprocess.Popen:
    settings = {"name": "slurm", "processes": 2}
    return driver(tmp_path, settings, sys.executable, "-c", TASK + code, "two words", env=cluster)


def test_srun_tasks_find_their_place(tmp_path, cluster):
    rc, out, err = finish(tasks(tmp_path, cluster, ""))
    assert rc == 0, err
    assert out == "0 0 4 2 n7 20041 two words\n"
    assert (tmp_path / "logs" / "rank3.log").read_text() == "3 1 4 2 n7 20041 two words\n"
    assert "--nodes=2 --ntasks=4 --ntasks-per-node=2 --kill-on-bad-exit=1 --export=ALL --cpus-per-task=3" in err


def test_srun_stopped_and_failed(tmp_path, cluster):
    assert finish(tasks(tmp_path, cluster, "sys.exit(rank_exit_code(75))"))[0] == 75
    assert finish(tasks(tmp_path, cluster, ""))[0] == 0, "an earlier stop is forgotten"
    code = "sys.exit(rank_exit_code(75)) if os.environ['RANK'] == '0' else (_ for _ in ()).throw(ValueError('cause'))"
    rc, out, err = finish(tasks(tmp_path, cluster, code))
    assert rc == 1, "75 does not hide a failure"
    assert (out + err).count("ValueError: cause") == 1


def test_the_cause_is_the_first_failure_under_slurm_too(tmp_path, cluster):
    code = (
        "import time, pathlib; from mft_cli.slurm.srun import FAILED; rank = int(os.environ['RANK'])\n"
        f"first = pathlib.Path({str(tmp_path / 'logs')!r}, 'rank2').with_suffix(FAILED)\n"
        "while rank != 2 and not first.exists(): time.sleep(0.01)\n"
        "print('mft: ' + ('the disk is full' if rank == 2 else 'another rank has gone'), file=sys.stderr, flush=True)\n"
        "sys.exit(rank_exit_code(1))"
    )
    rc, out, _ = finish(tasks(tmp_path, cluster, code))
    assert rc == 1
    assert "CAUSE rank 2 failed: the disk is full\n" in out
    assert finish(tasks(tmp_path, cluster, ""))[0] == 0, "an earlier failure is forgotten"


def test_the_cause_is_a_task_that_was_killed(tmp_path, cluster):
    srun = tmp_path / "bin" / "srun"
    end = "print('srun: error: n8: task 3: Out Of Memory\\nsrun: error: n7: task 0: Exited with exit code 1', file=sys.stderr)"
    srun.write_text(srun.read_text().replace("sys.exit(max", f"{end}\nsys.exit(max"))
    rc, out, _ = finish(tasks(tmp_path, cluster, "sys.exit(rank_exit_code(1))"))
    assert rc == 1
    assert "CAUSE rank 3 on n8: Out Of Memory\n" in out


def test_a_port_that_is_taken_on_the_first_node_is_followed_by_another(tmp_path, cluster):
    code = (
        "from mft_cli.slurm.srun import note_taken_port\n"
        "if os.environ['MASTER_PORT'] == '20041':\n"
        "    if os.environ['RANK'] == '0': note_taken_port()\n"
        "    sys.exit(rank_exit_code(2))"
    )
    rc, out, err = finish(tasks(tmp_path, cluster, code))
    assert rc == 0, err
    assert "SAY port 20041 is taken on n7: the ranks start again with another" in out
    assert out.endswith("0 0 4 2 n7 20142 two words\n")


def test_saved_ranks_are_stopped_however_slurm_ends_them(tmp_path, cluster):
    """A preemption's second TERM may find the tasks, or srun, while they go down."""
    code = "code = rank_exit_code(75); os.kill(os.getpid(), 15)"
    srun = tmp_path / "bin" / "srun"
    srun.write_text(srun.read_text().replace("max(t.wait() for t in tasks)", "128 - min(t.wait() for t in tasks)"))
    assert finish(tasks(tmp_path, cluster, code))[0] == 75
    code = "code = rank_exit_code(75) if os.environ['RANK'] != '0' else 1; os.kill(os.getpid(), 15)"
    assert finish(tasks(tmp_path, cluster, code))[0] == 1, "one had not saved; 143 is a signal, no code of ours"


def test_signals_do_not_end_a_process_that_goes_down():
    code = "import atexit, signal, sys; sys.argv = ['mft', *sys.argv[1:]]; from mft_cli.cli.main import main; "
    code += "atexit.register(lambda: print(*(signal.getsignal(s).name for s in (15, 10)))); main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", "status", "no such folder"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "SIG_IGN SIG_IGN\n")


def test_signals_go_to_srun_as_usr1(tmp_path, cluster):
    body = LISTENER.replace("sys.argv[1]", repr(str(tmp_path))).replace("sys.argv[2]", "'stop'")
    process = tasks(tmp_path, cluster, body.replace("sys.exit(75)", "sys.exit(rank_exit_code(75))"))
    wait_for([tmp_path / f"ready{k}" for k in range(4)])
    process.terminate()
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 75
    assert (tmp_path / "got3").read_text() == "SIGUSR1 "


def test_outside_of_an_allocation(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match="SLURM_JOB_ID is not set"):
        launch.start_ranks(["true"], LaunchConfig(name="slurm"), tmp_path, print)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no srun on the PATH"):
        launch.start_ranks(["true"], LaunchConfig(name="slurm"), tmp_path, print)


def test_a_batch_script_alone_is_no_task(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.delenv("RANK", raising=False)
    allocation.place_from_slurm()
    assert "RANK" not in os.environ
    assert allocation.rank_exit_code(75) == 75


def test_a_rank_that_a_signal_ends_before_it_listens_takes_the_waiting_ones_along(tmp_path):
    """One rank has its handlers and waits for the other, which is still starting: nothing was trained, so: stopped."""
    code = (
        "import os, signal, sys, time\n"
        "if os.environ['RANK'] == '0': signal.signal(15, lambda *_: None)\n"
        f"open({str(tmp_path)!r} + '/up' + os.environ['RANK'], 'w')\n"
        "while True: time.sleep(0.1)\n"
    )
    program = (
        "import sys; from pathlib import Path; from mft_cli.distributed.launch import start_ranks\n"
        "from mft_cli.config.schema import LaunchConfig\n"
        "launch = LaunchConfig(processes=2, grace_s=60)\n"
        "sys.exit(start_ranks([sys.executable, '-c', sys.argv[1]], launch, Path(sys.argv[2]), print))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, code, str(tmp_path / "logs")], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    until = time.monotonic() + 60
    while not all((tmp_path / f"up{r}").exists() for r in (0, 1)):
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=50) == 75
    assert time.monotonic() - began < 30


def test_a_rank_listens_before_it_imports_torch(tmp_path):
    code = (
        "import signal, sys; sys.argv = ['mft', 'rank', '--frozen=none.json', '--run=run']\n"
        "import mft_cli.train.run as train\n"
        "def seen(frozen, run, stop, should_fit):\n"
        "    signal.raise_signal(15); signal.raise_signal(10); print(stop.name)\n"
        "train.train_rank = seen\n"
        "from mft_cli.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "SIGUSR1\n"), done.stderr


def test_a_log_that_a_full_disk_refuses_stops_no_rank(capfdbinary: pytest.CaptureFixture[bytes]):
    """A pipe that nobody reads any more would: the rank waits in its next print."""
    reading, writing = os.pipe()
    os.write(writing, b"a line")
    os.close(writing)
    with open(reading, "rb") as source, open("/dev/full", "wb", buffering=0) as log:
        processes.copy(source, sys.stdout, log)
    assert capfdbinary.readouterr().out == b"a line"
