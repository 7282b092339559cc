"""`mft` in forked children of a process that has imported everything: a second a command instead of ten.

What a command starts itself (ranks, an evaluation) is forked, too. An audit hook counts the operations on files of the run's
folder in every process, so that a fault can be aimed at each of them, whatever the processor's speed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import psutil
import tqdm

OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
FIRST_FREE_FD = 3
PR_SET_CHILD_SUBREAPER = 36
WORTH_IT = (
    "mft_cli",
    "torch",
    "transformers",
    "deepspeed",
    "peft",
    "hydra",
    "math_verify",
    "sympy",
    "latex2sympy2_extended",
    "matplotlib",
)
LIMIT_S = 240  # of a command, and of what it started to end after it


@dataclass(frozen=True)
class Fault:
    """`action` gets the operation's number just before operation `at` (from 1) of the process of `role`; with `lasting`
    before every later one, too."""

    action: Callable[[int], object]
    at: int
    role: str = "driver"
    lasting: bool = False


@dataclass
class Watch:
    """Counts this process's operations on files below `roots`, and calls the fault when its turn has come."""

    roots: tuple[str, ...] = ()
    role: str = ""
    count: int = 0
    fault: Fault | None = None
    notes: Path = field(default_factory=Path)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.roots or event not in OPERATIONS or not self.concerns(event, arguments):
            return
        self.count += 1
        fault = self.fault
        if fault and fault.role == self.role and (self.count == fault.at or (fault.lasting and self.count > fault.at)):
            if self.count == fault.at:
                self.note(f"fault {self.role} {self.count} {event} {arguments[0]}")
            fault.action(self.count)

    def concerns(self, event: str, arguments: tuple[Any, ...]) -> bool:
        path, mode = arguments[0], arguments[1] if event == "open" else None
        if isinstance(path, int) or (isinstance(mode, str) and mode.startswith("r") and "+" not in mode):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.roots)

    def note(self, line: str) -> None:
        with open(self.notes, "a") as file:
            file.write(line + "\n")


WATCH = Watch()


class ForkingPopen(subprocess.Popen):  # type: ignore[type-arg]
    """Forks this process where it would start a new `python -m mft_cli`; anything else is started as ever."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        if list(args[:3]) != [sys.executable, "-m", "mft_cli"]:
            super()._execute_child(args, executable, preexec_fn, *rest)  # type: ignore[misc]
            return
        _, _, _, environment, _, _, _, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *more = rest
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                if more[5]:  # start_new_session
                    os.setsid()
                for source, target in ((p2cread, 0), (c2pwrite, 1), (errwrite, 2)):
                    if source != -1:
                        os.dup2(source, target)
                os.closerange(FIRST_FREE_FD, os.sysconf("SC_OPEN_MAX"))  # a lock that is inherited would stay held
                if environment is not None:
                    os.environ.clear()
                    os.environ.update(environment)
                if preexec_fn is not None:
                    preexec_fn()
                call_mft(list(args[3:]))
            os._exit(99)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def role_of(words: list[str]) -> str:
    """driver, rank0, rank1, ..., or evaluator."""
    if words[0] == "rank":
        return f"rank{os.environ['RANK']}"
    return "evaluator" if any(w.startswith("--frozen=") for w in words) else "driver"


def call_mft(words: list[str]) -> NoReturn:
    """The command line, as a fresh process would run it; ends this process."""
    from mft_cli.cli.main import main

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115  to the end
    sys.argv = ["mft", *words]
    WATCH.role, WATCH.count = role_of(words), 0
    code: object = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):  # the size of files may be limited
            sys.stdout.flush()
            WATCH.note(f"operations {WATCH.role} {WATCH.count}")
            if WATCH.fault is None:
                WATCH.note(f"imported {' '.join(name for name in sys.modules if not name.startswith('__'))}")
        os._exit(code if isinstance(code, int) else int(code is not None))


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal), what it printed, and what else went wrong."""

    code: int
    output: str
    notes: list[str]
    hung: str = ""

    @property
    def struck(self) -> bool:
        """Whether the fault was reached."""
        return any(note.startswith("fault ") for note in self.notes)

    def imported(self) -> list[str]:
        """Names of the modules that its processes had at their ends."""
        return [name for note in self.notes if note.startswith("imported ") for name in note.split()[1:]]

    def operations(self) -> dict[str, int]:
        """Role -> operations of its process."""
        return {role: int(n) for kind, role, n, *_ in map(str.split, self.notes) if kind == "operations"}


def become_nursery() -> None:
    """Once, in the process that forks, before it does anything: grandchildren whose parent was killed become its own."""
    tqdm.tqdm.monitor_interval = 0  # a thread
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    sys.addaudithook(WATCH)
    subprocess.Popen = ForkingPopen  # type: ignore[misc]


def run_mft(
    words: list[str],
    folder: Path,
    fault: Fault | None = None,
    meanwhile: Callable[[int], object] | None = None,
    first: Callable[[], object] = lambda: None,
) -> Ended:
    """`mft WORDS` in `folder`, whose subfolders `run` and `cache` are watched. `meanwhile` is called with the process's id after
    its start, `first` in the child before anything else."""
    output, notes = folder / "output.txt", folder / "notes.txt"
    notes.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(folder)
        first()
        os.environ["MFT_CACHE_DIR"] = str(folder / "cache")
        WATCH.roots = tuple(
            str(folder / name) for name in ("run", "cache", ".run.")
        )  # the last: what is renamed to run
        WATCH.fault, WATCH.notes = fault, notes
        call_mft(words)
    if meanwhile is not None:
        meanwhile(pid)
    code, hung = wait_for(pid)
    lines = notes.read_text().splitlines() if notes.exists() else []
    return Ended(code, output.read_text(errors="replace"), lines, hung)


def wait_for(pid: int) -> tuple[int, str]:
    """(exit code, what did not end). Everything that the command started has ended, or is killed here."""
    hung = ""
    try:
        code = psutil.Process(pid).wait(LIMIT_S)
    except psutil.TimeoutExpired:
        hung, code = f"not ended after {LIMIT_S} s", -1
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + (0 if hung else LIMIT_S / 4)
    while alive := living_children():
        if time.monotonic() > until:
            hung = hung or f"left {len(alive)} processes behind: {' '.join(alive[0].cmdline()[-3:])}"
            kill_children()
        time.sleep(0.005)
    return code, hung


def kill_children() -> None:
    for process in living_children():
        process.kill()


def living_children() -> list[psutil.Process]:
    """Those that have ended are collected."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return psutil.Process().children(recursive=True)


def import_all(names: Iterable[str]) -> None:
    """What a command has imported, so that the next one need not; of packages that start no thread with it."""
    for name in names:
        if name not in sys.modules and name.split(".")[0] in WORTH_IT:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
            if threading.active_count() > 1:
                raise RuntimeError(f"importing {name} starts a thread: this process cannot be forked any more")
    gc.freeze()  # a child's collections would copy every page of what is imported
