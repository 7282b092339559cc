"""A sandbox from bare user namespaces, for machines without bubblewrap. A script: `python namespaces.py '<json>'`.

The JSON: drop (become nobody first), mounts [[source, destination], ...], links [[target, destination], ...], scratch_bytes, command.
What bubblewrap does, step by step: new user, mount, PID, network, IPC and UTS namespaces; a tmpfs as root with nothing but
read-only binds; the old root gone; no capabilities. See namespaces(7), user_namespaces(7), pivot_root(2).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
NOBODY = 65534
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: object) -> None:
    """A libc function that returns 0. Raises OSError with its name."""
    arguments = [a.encode() if isinstance(a, str) else a for a in args]
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{args}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    call("mount", source, target, kind, ctypes.c_ulong(flags), data)


def main() -> int:
    """Build the sandbox, run the command in it, and return its exit status."""
    spec = json.loads(sys.argv[1])
    if spec["drop"]:
        become_nobody()
    uid, gid = os.getuid(), os.getgid()
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    call("unshare", NEWUSER | NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    first = os.fork()  # process 1 of the new PID namespace: when it ends, all in there are killed
    if first:
        close_inherited()
        return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    build_root(spec)
    drop_privileges()
    second = os.fork()
    if second == 0:
        os.setsid()
        os.execve(spec["command"][0], spec["command"], {})
    close_inherited()
    while True:  # process 1 also reaps orphans
        pid, status = os.wait()
        if pid == second:
            return max(0, os.waitstatus_to_exitcode(status))


def become_nobody() -> None:
    """Give root up for good. The kernel then hides /proc/self/uid_map from the process unless it is dumpable."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)


def close_inherited() -> None:
    """Only the program holds its channels, so that their end shows that it is gone."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 1 << 16 else 1 << 16)


def build_root(spec: dict[str, Any]) -> None:
    """A root with nothing but the mounts, /dev/null, and a /tmp of limited size."""
    root = "/tmp"  # any folder that is there; the new root covers it in this namespace alone
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    sources = [
        (os.open(source, os.O_PATH), destination) for source, destination in [*spec["mounts"], ["/dev/null"] * 2]
    ]
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for fd, destination in sources:
        bind(fd, root + destination)
    for target, destination in spec["links"]:
        os.symlink(target, root + destination)
    os.makedirs(root + "/tmp", exist_ok=True)
    mount("tmpfs", root + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={spec['scratch_bytes']},mode=1777")
    os.chdir(root)
    call("syscall", PIVOT_ROOT[os.uname().machine], ".", ".")  # the old root on top of the new one, then off
    call("umount2", ".", MNT_DETACH)
    mount("none", "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir("/tmp")


def bind(fd: int, target: str) -> None:
    """Mount what the descriptor stands for, read-only; flags that the host has locked must be repeated."""
    source = f"/proc/self/fd/{fd}"
    folder = os.path.isdir(source)
    os.makedirs(target if folder else os.path.dirname(target), exist_ok=True)
    if not folder:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(source, target, None, MS_BIND | MS_REC)
    locked = os.statvfs(target).f_flag & (MS_NODEV | 8 | 1024 | 2048)  # nodev, noexec, noatime, nodiratime
    device = 0 if target.endswith("/dev/null") else MS_NODEV
    mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | device | locked)
    os.close(fd)


def drop_privileges() -> None:
    """No capability comes back: none in the bounding set, none gained by running a file."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
