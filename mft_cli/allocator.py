"""Memory on a CPU: glibc's allocator set up for training, and how much is left.

Every activation is a large block, and by default glibc gives large blocks back to the kernel when they are freed. The
next micro-batch then faults all of its memory in again, page by page, which costs about a sixth of a step.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
from pathlib import Path

# <malloc.h>: mallopt(3)
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
LARGEST = 2**31 - 1  # mallopt takes an int


def keep_freed_memory() -> bool:
    """Freed memory stays in the process and is used again. False where this C library has no such settings.

    Call it before the first large tensor: what was allocated by mmap stays so.
    """
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c")).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, LARGEST), (TOP_PAD, 64 * 2**20))
    return sum(mallopt(name, value) for name, value in settings) == len(settings)  # sum: every one is tried


def memory_left() -> int:
    """Bytes that this process may still take: what the machine has available, or the control group's limit (cgroup v2)."""
    import psutil

    left = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
        used = int((folder / "memory.current").read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        left = min(left, int((folder / "memory.max").read_text()) - used + int(facts["inactive_file"]))
    return left
