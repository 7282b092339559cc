"""Files that are whole or not there: renames, leftovers, modes, and one piece for all of them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mft_cli import files
from mft_cli.errors import UserError


def test_an_exception_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "made" / "state.json"
    files.write_atomically(path, "old")
    with contextlib.suppress(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["state.json"]


def test_a_folder_takes_the_place_of_another(tmp_path: Path):
    for text in ("old", "new"):
        with files.replacing(tmp_path / "export") as temporary:
            temporary.mkdir()
            (temporary / "deep").mkdir()
            (temporary / "deep" / "file").write_text(text)
    assert (tmp_path / "export" / "deep" / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["export"]


@pytest.mark.parametrize("there", ["file", "link to a folder", "link to nothing", "link to itself"])
def test_a_folder_takes_the_place_of_what_is_none(tmp_path: Path, there: str):
    """What a link points to stays."""
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "export"
    if there == "file":
        path.write_text("x")
    else:
        path.symlink_to(
            {"link to a folder": "elsewhere", "link to nothing": "nowhere", "link to itself": "export"}[there]
        )
    with files.replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert (path / "new").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["elsewhere", "export"]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path: Path):
    program = """
import os, signal, sys
from pathlib import Path
from mft_cli import files
from mft_cli.errors import UserError
with files.replacing(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
    (temporary / "model.safetensors").write_text("large")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "export")], check=False)
    files.temporary_for(tmp_path / "state.json").write_text("half")
    files.write_json(tmp_path / "run.json", {})
    assert len(os.listdir(tmp_path)) == 3
    files.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_weights_obey_the_umask_as_texts_do(tmp_path: Path, umask: int):
    """safetensors makes files that only their owner can read."""
    program = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from mft_cli import files
from mft_cli.errors import UserError
with files.replacing(Path(sys.argv[1]) / "export") as temporary:
    temporary.mkdir()
    save_file({"w": torch.zeros(2)}, temporary / "model.safetensors")
    (temporary / "config.json").write_text("{}")
files.write_json(Path(sys.argv[1]) / "state.json", {})
"""
    shell = f"umask {umask:03o}; exec {sys.executable} -c '{program}' {tmp_path}"
    subprocess.run(["sh", "-c", shell], check=True)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o666 & ~umask}
    assert len(written) == 3


def test_there_is_one_piece_that_renames_into_place():
    root = Path(files.__file__).parent
    renaming = re.compile(r"os\.(replace|rename)\(|with_name\(f\"\.")
    users = [path.relative_to(root) for path in root.rglob("*.py") if renaming.search(path.read_text())]
    # streamed names shards once it knows their number, restart moves folders
    assert sorted(map(str, users)) == ["export/streamed.py", "files.py", "train/restart.py"]


def test_json_lines_tell_damaged_ones_and_split_at_newlines_alone(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xe2\x80\xa8"}\n\n[1]\n{"a": "\xff"}\n{"a"')
    assert [(number, row) for number, _, row in files.read_jsonl(path)] == [
        (1, {"a": "\u2028"}), (3, None), (4, None), (5, None)
    ]  # fmt: skip
    assert [row for _, _, row in files.read_jsonl(path, errors="replace")][2] == {"a": "\ufffd"}
    assert list(files.read_jsonl(tmp_path / "none.jsonl")) == []


def test_who_writes_removes_what_a_killed_writer_left_beside_it_and_nothing_of_others(tmp_path: Path):
    """Also where no command has the folder to itself: a sweep's records, a report, a model folder, the cache."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = os.uname().nodename
    left = [f".m[1].{host}-{ended.pid}.tmp", f".old-m[1]-{host}-{ended.pid}"]
    others = [f".m[1].{host}-{os.getppid()}.tmp", f".m[1].elsewhere-{ended.pid}.tmp", f".n.{host}-{ended.pid}.tmp"]
    for name in [*left, *others]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    files.write_atomically(tmp_path / "m[1]", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "m[1]"])


def test_what_helps_depends_on_what_the_disk_refuses():
    assert "free space" in files.disk_advice(OSError(errno.ENOSPC, ""))
    assert "readable" in files.disk_advice(OSError(errno.EACCES, ""))


def test_who_takes_a_folder_removes_what_a_killed_process_left_in_it(tmp_path: Path):
    (tmp_path / ".state.json.123.tmp").write_text("half")
    with files.locked(tmp_path, "in use"):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        (tmp_path / ".state.json.124.tmp").write_text("being written")
        with pytest.raises(UserError, match="in use"), files.locked(tmp_path, "in use"):
            pass
        assert (tmp_path / ".state.json.124.tmp").exists()


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with files.locked(tmp_path, "in use"):
        assert f"{tmp_path}: its file system has no locks (No locks available)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({"MFT_CACHE_DIR": "/c", "HOME": "/h"}, "/c"), ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/mft"),
     ({"HOME": "/h"}, "/h/.cache/mft"), ({}, "/tmp/cache-")],
)  # fmt: skip
def test_the_cache_of_a_user_without_a_home(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("MFT_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    if not variables:  # such as `docker run --user 12345`
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert str(files.cache_folder()).startswith(expected)


def test_no_folder_for_temporary_files_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(FileNotFoundError) as raised:
        tempfile.gettempdir()
    assert files.disk_problem(raised.value) == "no folder for temporary files can be written: set TMPDIR"


@pytest.mark.parametrize("new", [True, False])
def test_a_folder_that_is_moved_while_a_command_works_there_is_told(tmp_path: Path, new: bool):
    """An evaluation would end well, and its scores lie in a new folder of the old name; or end in a FileNotFoundError."""
    folder = tmp_path / "eval"

    def work() -> None:
        with files.locked(folder, "in use"):
            folder.rename(tmp_path / "moved")
            if new:
                files.write_json(folder / "metrics.json", {})
            else:
                (folder / "metrics.json").read_text()

    with pytest.raises(UserError, match="was deleted or moved while a command worked there"):
        work()
    assert (tmp_path / "moved" / ".lock").exists()
