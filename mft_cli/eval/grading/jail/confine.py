"""Limits that a process lays on itself before it runs a program that nobody has read: rlimits and a system call filter.

Namespaces hide what is outside; these bound what is inside. Neither can be taken back: hard limits need a capability to
be raised, and a seccomp filter stays for good, in children too.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 4, 38, 22, 2
EPERM, ENOSYS = 1, 38
NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06

# Numbers from the kernel's system call tables. Memory that no limit counts (memfd, System V, message queues), sockets,
# other processes' memory, new namespaces and mounts, and interfaces that have often had holes.
BLOCKED = {
    "x86_64": {
        "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "shmat": 30, "semget": 64, "msgget": 68, "mq_open": 240,
        "socket": 41, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438,
        "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "open_tree": 428,
        "move_mount": 429, "fsopen": 430, "mount_setattr": 442, "userfaultfd": 323, "bpf": 321, "perf_event_open": 298,
        "keyctl": 250, "add_key": 248, "request_key": 249, "io_uring_setup": 425,
    },
    "aarch64": {
        "memfd_create": 279, "memfd_secret": 447, "shmget": 194, "shmat": 196, "semget": 190, "msgget": 186,
        "mq_open": 180, "socket": 198, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
        "pidfd_getfd": 438, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "mount_setattr": 442, "userfaultfd": 282, "bpf": 280,
        "perf_event_open": 241, "keyctl": 219, "add_key": 217, "request_key": 218, "io_uring_setup": 425,
    },
}  # fmt: skip
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435  # its flags lie in memory, where a filter cannot look; libc falls back to clone
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def set_limits(limits: dict[str, float]) -> None:
    """Hard limits: memory_bytes (address space), cpu_s, processes, file_bytes, open_files."""
    limit_values = {
        "AS": limits["memory_bytes"], "CPU": limits["cpu_s"], "NPROC": limits["processes"],
        "FSIZE": limits["file_bytes"], "NOFILE": limits["open_files"], "CORE": 0, "MSGQUEUE": 0, "MEMLOCK": 0,
    }  # fmt: skip
    for name, value in limit_values.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            hard = resource.getrlimit(kind)[1]
            most = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
            resource.setrlimit(kind, (most, most))


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def filter_program(machine: str) -> bytes:
    """The classic BPF program (array of struct sock_filter) for a machine in BLOCKED; see seccomp(2)."""
    steps = [_step(LOAD, 4), _step(JUMP_EQUAL, AUDIT_ARCH[machine], yes=1), _step(RETURN, KILL), _step(LOAD, 0)]
    if machine == "x86_64":  # the x32 calls have the same architecture and other numbers
        steps += [_step(JUMP_AT_LEAST, 0x40000000, no=1), _step(RETURN, KILL)]
    for number in BLOCKED[machine].values():
        steps += [_step(JUMP_EQUAL, number, no=1), _step(RETURN, ERRNO | EPERM)]
    steps += [_step(JUMP_EQUAL, CLONE3, no=1), _step(RETURN, ERRNO | ENOSYS)]
    steps += [_step(JUMP_EQUAL, CLONE[machine], no=3), _step(LOAD, 16)]  # 16: the first argument's low half
    steps += [_step(JUMP_ANY_BIT, NEW_NAMESPACES, no=1), _step(RETURN, ERRNO | EPERM), _step(RETURN, ALLOW)]
    return b"".join(steps)


def filter_calls() -> bool:
    """Block the calls above for this process and its children. False on a machine without a table. Raises OSError."""
    machine = platform.machine()
    if machine not in BLOCKED:
        return False
    program = filter_program(machine)
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
    return True


def silence() -> None:
    """Input, output and errors go nowhere: endless output costs nothing, and a printed verdict reaches nobody."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
