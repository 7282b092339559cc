"""DeepSpeed compiles C++ modules at their first use, by torch.utils.cpp_extension, with a file `lock` around each build.

torch waits for such a file without a word and without end, also where the process that made it was killed. Here it is said
that a module is compiled; who waits says for what, and not for ever; the lock of a dead process is removed.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from torch.utils import cpp_extension
from torch.utils.file_baton import FileBaton

from mft_cli.errors import UserError

QUIET_S = 120.0  # a build on another machine, or in a container, that shares the folder shows by its files alone
LIMIT_S = 3600.0
LOOK_S = 0.2
TURNS = ".lock-is-removed"


class Baton(FileBaton):
    """The lock of one build. Who waited for another process's build has the lock after it, and finds nothing to compile."""

    def __init__(self, lock_file_path: str, *arguments: object, **more: object):
        super().__init__(lock_file_path, *arguments, **more)
        self.lock = Path(lock_file_path)
        self.folder = self.lock.parent

    def try_acquire(self) -> bool:
        """True, after waiting if need be. Raises UserError after LIMIT_S."""
        start, told = time.monotonic(), False
        while not super().try_acquire():
            if self.remove_if_abandoned():
                continue
            if not told:
                print(f"waiting for another process that compiles {self.folder.name} ({self.lock})", flush=True)
                told = True
            if time.monotonic() - start > LIMIT_S:
                raise UserError(
                    f"{self.lock}: waited {LIMIT_S / 60:g} minutes for another process that compiles {self.folder.name}; if "
                    f"there is none, remove that file, then start the same command again"
                )
            time.sleep(LOOK_S)
        if not any(self.folder.glob("*.so")):
            print(f"DeepSpeed compiles {self.folder.name} into {self.folder}: minutes, and only once", flush=True)
        return True

    def remove_if_abandoned(self) -> bool:
        with open(self.folder / TURNS, "w") as file:
            # one after the other: the lock that the first one then takes is no dead one's
            fcntl.flock(file, fcntl.LOCK_EX)
            if not self.is_abandoned():
                return False
            self.lock.unlink(missing_ok=True)
        print(f"{self.lock} was left by a build that was killed: removed", flush=True)
        return True

    def is_abandoned(self) -> bool:
        """Whether no process here has the lock open, as its owner has, and nothing in the folder has changed for a while."""
        try:
            changed = max(path.stat().st_mtime for path in self.folder.iterdir() if path.name != TURNS)
        except (FileNotFoundError, ValueError):
            return False
        return time.time() - changed > QUIET_S and not is_open(self.lock)


def is_open(path: Path) -> bool:
    """Whether a process of this machine, as far as this user may look, has the file open."""
    name = str(path.resolve())
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == name:
                return True
        except OSError:
            continue
    return False


def watch_builds() -> None:
    """From now on builds in this process are as above."""
    cpp_extension.FileBaton = Baton  # type: ignore[misc]
