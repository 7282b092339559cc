"""The journal survives kill -9 at any moment and ends in the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mft_cli.errors import UserError
from mft_cli.eval.journal import Journal, completion_key, read_lines

ROOT = Path(__file__).resolve().parents[2]
KEYS = [completion_key("settings", f"p{i // 2}", i % 2, [1, 2, i]) for i in range(200)]
WRITER = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.eval.test_journal import KEYS, record
from mft_cli.eval.journal import Journal
journal = Journal(Path({path!r}), KEYS)
order = journal.missing()
for i in order[::3] + order[1::3] + order[2::3]:
    journal.add(KEYS[i], record(i))
    time.sleep(0.005)
journal.finish()
"""


def record(i: int) -> dict:
    return {"id": f"p{i // 2}", "sample": i % 2, "completion": f"text \u2028 {i} é\n\ud800", "finish_reason": "stop"}


def write(path: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WRITER.format(root=str(ROOT), path=str(path))], cwd=ROOT)


def test_killed_and_resumed_is_byte_identical(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    assert write(whole).wait() == 0
    kills = 0
    for lines in (20, 80, 150):
        process = write(killed)
        while process.poll() is None and (not killed.is_file() or killed.read_bytes().count(b"\n") < lines):
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        with open(killed, "ab") as file:
            file.write(b'{"id": "p7", "sam')  # the line that the kill tore
    assert kills == 3
    assert 20 <= len(Journal(killed, KEYS).done) < 200
    assert write(killed).wait() == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert [r["key"] for r in read_lines(whole)[0]] == KEYS


def test_other_settings_are_never_reused(tmp_path: Path) -> None:
    path = tmp_path / "g.jsonl"
    old = Journal(path, KEYS[:2])
    for i, key in enumerate(KEYS[:2]):
        old.add(key, record(i))
    old.close()
    new = Journal(path, [KEYS[1], KEYS[2]])
    assert new.missing() == [1]
    assert new.foreign == 1


def test_keys_depend_on_everything() -> None:
    base = completion_key("s", "p", 0, [1, 2])
    others = [("t", "p", 0, [1, 2]), ("s", "q", 0, [1, 2]), ("s", "p", 1, [1, 2]), ("s", "p", 0, [12])]
    assert base not in {completion_key(*other) for other in others}


def test_missing_newline_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps({"id": 1, "completion": "x"}))
    assert len(read_lines(path)[0]) == 1
    path.write_text('{"id": 1}\nnot json\n{"id": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_lines(path)


def test_finish_refuses_holes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "g.jsonl", KEYS[:2])
    journal.add(KEYS[0], record(0))
    with pytest.raises(ValueError, match="1 completions are missing"):
        journal.finish()


def test_a_flipped_bit_never_changes_a_record(tmp_path: Path) -> None:
    """A run that was stopped has no digest of the whole file yet."""
    path = tmp_path / "g.jsonl"
    journal = Journal(path, KEYS[:2])
    for i, key in enumerate(KEYS[:2]):
        journal.add(key, {**record(i), "logprobs": {1: 0.1, 10: 2.5}, "surrogates": "\ud83d\ude00"})
    journal.close()
    whole, written = Journal(path, KEYS[:2]).done, path.read_bytes()
    assert len(whole) == 2
    for place in range(len(written)):
        for bit in (0, 3, 6):
            path.write_bytes(written[:place] + bytes([written[place] ^ 1 << bit]) + written[place + 1 :])
            assert Journal(path, KEYS[:2]).done.items() <= whole.items(), (place, bit)


def test_lines_of_before_have_no_digest_and_are_read(tmp_path: Path) -> None:
    (tmp_path / "g.jsonl").write_text(json.dumps({**record(0), "key": KEYS[0]}) + "\n")
    assert list(Journal(tmp_path / "g.jsonl", KEYS[:1]).done) == KEYS[:1]
