"""Builds of DeepSpeed's C++ modules: said, waited for with an end, and a dead process's lock is removed."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils import cpp_extension

from mft_cli.distributed import builds
from mft_cli.distributed.builds import Baton
from mft_cli.errors import UserError

HOLDER = """
import sys, time
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    (tmp_path / "async_io").mkdir()
    return tmp_path / "async_io" / "lock"


def old(lock: Path) -> Path:
    """A lock, and all beside it, that nobody has touched for an hour."""
    lock.touch()
    for path in (lock, *lock.parent.iterdir()):
        os.utime(path, (time.time() - 3600,) * 2)
    return lock


def test_a_build_is_said_and_its_lock_is_given_back(lock, capsys):
    baton = Baton(str(lock))
    assert baton.try_acquire()
    assert lock.exists()
    assert "DeepSpeed compiles async_io" in capsys.readouterr().out
    baton.release()
    assert not lock.exists()
    (lock.parent / "async_io.so").touch()
    assert baton.try_acquire()
    assert capsys.readouterr().out == ""  # nothing is compiled


def test_the_lock_of_a_dead_process_is_removed(lock, capsys):
    assert Baton(str(old(lock))).try_acquire()
    assert "was left by a build that was killed" in capsys.readouterr().out


def test_a_living_owner_is_waited_for_and_not_for_ever(lock, capsys, monkeypatch):
    owner = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        monkeypatch.setattr(builds, "LIMIT_S", 0.3)
        with pytest.raises(UserError, match=r"lock: waited .* for another process that compiles async_io"):
            Baton(str(old(lock))).try_acquire()
        assert capsys.readouterr().out.count("waiting for another process that compiles async_io") == 1
    finally:
        owner.kill()
        owner.wait()
    assert Baton(str(lock)).try_acquire()  # nobody has it open any more


def test_a_build_that_may_be_another_machines_is_waited_for(lock, monkeypatch):
    monkeypatch.setattr(builds, "LIMIT_S", 0.3)
    old(lock)
    (lock.parent / "part.o").touch()  # written a moment ago, by nobody here
    with pytest.raises(UserError, match="waited"):
        Baton(str(lock)).try_acquire()


def test_torch_takes_our_lock(monkeypatch):
    monkeypatch.setattr(cpp_extension, "FileBaton", cpp_extension.FileBaton)
    builds.watch_builds()
    assert cpp_extension.FileBaton is Baton
    code = inspect.getsource(cpp_extension._jit_compile)
    assert "FileBaton(os.path.join(build_directory, 'lock'))" in code
    assert "baton.try_acquire()" in code
