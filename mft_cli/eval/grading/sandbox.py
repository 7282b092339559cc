"""A place for programs that nobody has read: no network, none of the user's files, limits on whatever can be used up.

Two ways to make one: bubblewrap, or bare user namespaces (jail/namespaces.py). Started by root, everything first becomes
`nobody`: for a real root user a read-only bind can be remounted and a limit on processes means nothing. The environment
is empty from the start, since bubblewrap empties only its child's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from mft_cli.errors import UserError

BUBBLEWRAP, NAMESPACES, NONE = "bubblewrap", "namespaces", "none"
NOBODY = 65534
JAIL = Path(__file__).resolve().parent / "jail"
PACKAGES = ("numpy", "numpy.libs")  # what programs and tests may import besides the standard library
NOT_COPIED = ("site-packages", "test", "idlelib", "tkinter", "ensurepip", "lib2to3", "config-*", "*.a")
# OpenBLAS would start a thread a core and reserve memory for each.
START = (
    "import os, sys; os.environ['OPENBLAS_NUM_THREADS'] = '1'; sys.path[:0] = {path!r}; "
    "from jail.{side} import main; main({fds})"
)
HOW_TO_GET_ONE = (
    "install bubblewrap (apt install bubblewrap) or allow unprivileged user namespaces "
    "(sysctl kernel.unprivileged_userns_clone=1; on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0), "
    "or set eval.allow_unsandboxed=true if you trust the model's programs with this account"
)


@dataclass(frozen=True)
class Limits:
    """What one program may use. Times in seconds."""

    call_s: float = 5.0  # one call of a function of the program, or its top level
    start_s: float = 60.0  # the machine's time to start the sandbox
    calls_together: int = 30  # the whole problem may take this many times call_s
    memory_bytes: int = 2 << 30  # address space of each process, and resident memory of all together
    processes: int = 32
    open_files: int = 64
    file_bytes: int = 16 << 20
    scratch_bytes: int = 32 << 20
    scratch_files: int = 5000

    def total_s(self) -> float:
        return self.call_s * self.calls_together

    def for_jail(self) -> dict[str, float]:
        names = ("memory_bytes", "processes", "open_files", "file_bytes", "start_s")
        return {**{n: getattr(self, n) for n in names}, "cpu_s": int(self.total_s()) + 1}


@dataclass(frozen=True)
class Sandbox:
    """`mounts`: (what, where) of every file and folder inside, read-only; `links`: (target, where) of links."""

    kind: str
    python: str
    mounts: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    path: tuple[str, ...]
    scratch_bytes: int
    drop: bool  # become nobody first

    def start(
        self, side: str, fds: tuple[int, int], stdin: int, errors: IO[bytes], folder: str
    ) -> subprocess.Popen[bytes]:
        """Start jail/<side>.py with two open descriptors. `folder` is where it starts if there is no sandbox."""
        code = START.format(path=list(self.path), side=side, fds=", ".join(map(str, fds)))
        inner = [self.python, "-I", "-S", "-B", "-c", code]
        drop = self.drop and self.kind == BUBBLEWRAP  # namespaces.py does it itself: it may need root to be started
        who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if drop else {}
        return subprocess.Popen(
            self._command(inner), env={}, stdin=stdin, stdout=subprocess.DEVNULL, stderr=errors, pass_fds=fds,
            cwd="/" if self.kind != NONE else folder, start_new_session=True, **who,
        )  # type: ignore[call-overload]  # fmt: skip

    def _command(self, inner: list[str]) -> list[str]:
        if self.kind == NONE:
            return inner
        if self.kind == NAMESPACES:
            spec = {
                "drop": self.drop, "mounts": self.mounts, "links": self.links,
                "scratch_bytes": self.scratch_bytes, "command": inner,
            }  # fmt: skip
            return [self.python, "-I", "-S", "-B", str(JAIL / "namespaces.py"), json.dumps(spec)]
        binds = [word for what, target in self.mounts for word in ("--ro-bind", what, target)]
        links = [word for source, target in self.links for word in ("--symlink", source, target)]
        return [
            str(shutil.which("bwrap")), *binds, *links, "--dir", "/dev", "--dev-bind", "/dev/null", "/dev/null",
            "--perms", "1777", "--size", str(self.scratch_bytes), "--tmpfs", "/tmp", "--remount-ro", "/",
            "--unshare-all", "--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-drop", "ALL",
            "--die-with-parent", "--new-session", "--clearenv", "--chdir", "/tmp", *inner,
        ]  # fmt: skip


@contextlib.contextmanager
def make_sandbox(kind: str, limits: Limits) -> Iterator[Sandbox]:
    """A sandbox of this kind; for root the files that nobody may not read are copied for as long as it lasts."""
    drop = os.getuid() == 0 and kind != NONE
    mounts, links = _system_mounts()
    python, site = os.path.realpath(sys.executable), _site_packages()
    with tempfile.TemporaryDirectory(prefix="mft-sandbox-") as copies:
        os.chmod(copies, 0o755)
        if kind == NONE:
            path = (str(JAIL.parent), *([str(site)] if site else []))
            yield Sandbox(kind, python, (), (), path, limits.scratch_bytes, drop)
            return
        extra_mounts = {python: python, str(JAIL): "/mft/jail", **_library_mounts()}
        extra_mounts |= {str(site / name): f"/mft/packages/{name}" for name in PACKAGES} if site else {}
        for number, (what, target) in enumerate(extra_mounts.items()):
            if os.path.exists(what) and not any(_inside(target, w) for _, w in mounts):
                mounts.append((_readable(what, Path(copies) / str(number)) if drop else what, target))
        copied = [
            what
            for what, target in mounts
            if drop and what.startswith(copies) and os.path.isfile(f"{what}/json/__init__.py")
        ]
        if copied:
            _compile(python, copied[0])
        path = ("/mft", "/mft/packages")
        yield Sandbox(kind, python, tuple(mounts), tuple(links), path, limits.scratch_bytes, drop)


def _compile(python: str, stdlib: str) -> None:
    """Byte code for what both sides import: inside it could not be kept, and every start would pay for it."""
    path = [stdlib, f"{stdlib}/lib-dynload", str(JAIL.parent)]
    code = f"import sys; sys.path[:] = {path!r}; import jail.candidate, jail.examiner"
    subprocess.run([python, "-I", "-S", "-c", code], env={}, check=False, capture_output=True)


def _system_mounts() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The C library and its like, under /usr/lib and, on systems that still part them, /lib."""
    multiarch = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}"  # Debian's; elsewhere the libraries lie in /usr/lib
    system = (multiarch if os.path.isdir(multiarch) else "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
    mounts = [(path, path) for path in system if os.path.exists(path)]
    links = []
    for system_folder in ("/lib", "/lib64"):
        if os.path.islink(system_folder):
            links.append((os.readlink(system_folder), system_folder))
        elif os.path.isdir(system_folder):
            mounts.append((system_folder, system_folder))
    return mounts, links


def _library_mounts() -> dict[str, str]:
    """The interpreter's standard library and its shared library, at their own places."""
    stdlib = sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix})
    shared = Path(sysconfig.get_config_var("LIBDIR") or "") / (sysconfig.get_config_var("INSTSONAME") or "none")
    places = [stdlib, *([str(shared)] if shared.suffix != ".a" and shared.is_file() else [])]
    return {path: path for path in places}


def _site_packages() -> Path | None:
    spec = find_spec("numpy")
    return Path(spec.origin).parents[1] if spec and spec.origin else None


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _readable(what: str, copy: Path) -> str:
    """The path itself if everybody may reach it, else a copy that everybody may."""
    path = Path(what)
    reachable = all(parent.stat().st_mode & 0o001 for parent in path.parents) and path.stat().st_mode & 0o004
    if reachable:
        return what
    if path.is_dir():
        shutil.copytree(path, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
    else:
        shutil.copy2(path, copy)
    return str(copy)


# ---- watching -------------------------------------------------------------------------------------------------------


def resident_bytes(root: int) -> int:
    """Resident memory of a process and all its descendants; pages that they share count for each."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
            for task in os.listdir(f"/proc/{pid}/task"):
                waiting += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except (OSError, IndexError):
            continue  # it ended meanwhile
    return total


def scratch_files(folder: int) -> int:
    """Files in the sandbox's own /tmp, by an open descriptor of it. Each costs kernel memory that no limit counts."""
    usage = os.fstatvfs(folder)
    return usage.f_files - usage.f_ffree


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a sandbox and all in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)  # reaches the outermost process, whose death the kernel passes on to the rest
    process.wait()


def no_sandbox(reasons: dict[str, str]) -> UserError:
    tried = "; ".join(f"{kind}: {reason}" for kind, reason in reasons.items())
    return UserError(f"no sandbox can be made here for the model's programs ({tried}): {HOW_TO_GET_ONE}")
