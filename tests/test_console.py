"""Progress: one printer, plain lines that grow rarer, one rewritten line on a terminal."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest

from mft_cli import console
from mft_cli.console import Log, Progress, StepProgress, TokenProgress, outcome_of
from mft_cli.errors import RankFailed, Stopped, UserError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_ever_more_rarely_but_a_change_at_once(clock: list[float]):
    stream = io.StringIO()
    progress = Progress(stream)
    for second in range(121):
        clock[0] = 100.0 + second
        progress.show(lambda: f"at {second}", at_once=second == 120)  # noqa: B023
    progress.close()
    assert stream.getvalue().split("\n") == ["at 4", "at 12", "at 28", "at 58", "at 88", "at 118", "at 120", ""]


def test_a_terminal_has_one_line_which_is_cleared(clock: list[float]):
    stream = Terminal()
    progress = Progress(stream)
    clock[0] += 10
    progress.show(lambda: "first")
    progress.close()
    assert stream.getvalue() == "\r\x1b[Kfirst\r\x1b[K"


def test_steps_tell_the_time_left_and_the_last_one_is_shown(clock: list[float]):
    stream = io.StringIO()
    progress = StepProgress("step", 10, 20, stream)
    clock[0] += 8
    progress.update(12, loss="1.5")
    progress.update(20, loss="1.4")
    assert stream.getvalue() == "step 12/20  loss 1.5  left 0:32\nstep 20/20  loss 1.4  left 0:00\n"


def test_tokens_tell_speed_and_time_left(clock: list[float]):
    progress = TokenProgress("gsm8k", 10, 100, io.StringIO())
    for _ in range(4):
        progress.completion()
    progress.generated = 200
    # 50 a completion, 300 more
    assert progress.line(clock[0] + 10) == "gsm8k: 4 of 10 done, 20 tokens/s, about 15 s left"


def test_a_log_line_takes_the_place_of_a_progress_line(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(console.sys, "stdout", Terminal())
    Log(tmp_path / "train.log")("saved")
    assert console.sys.stdout.getvalue() == "\r\x1b[Ksaved\n"
    (line,) = (tmp_path / "train.log").read_text().splitlines()
    assert line.endswith(" saved")


def test_the_work_goes_on_after_the_reader_has_gone(tmp_path: Path):
    """`mft train ... | head`, and a closed terminal."""
    program = f"""
from pathlib import Path
from mft_cli.console import Log
log = Log(Path("{tmp_path}/train.log"))
for number in range(100):
    log(f"line {{number}}" + 10_000 * ".")
"""
    command = f"{sys.executable} -c '{program}' | head -1 > /dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "line 99" in (tmp_path / "train.log").read_text()


CLOSED = """
import os, sys
from mft_cli.console import Log, mend_streams
mend_streams()
file = open(sys.argv[1], "w")
Log()("a line")
print("to stderr", file=sys.stderr)
os.write(1, b"of a library")
os.system("echo of a child >&2")
assert sys.stdin.read() == ""
file.write(str(file.fileno() > 2))
"""


def test_what_is_printed_into_a_closed_stream_goes_into_no_file(tmp_path: Path):
    """Without its number taken, the next file that is opened would be the standard output."""
    file = tmp_path / "model.safetensors"
    script = f'exec "$0" -c "$1" "{file}" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", script, sys.executable, CLOSED], check=False).returncode == 0
    assert file.read_text() == "True"


def test_characters_that_a_terminal_has_not_are_escaped():
    program = "from mft_cli.console import mend_streams; mend_streams(); print('fünf \\ud800')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stdout) == (0, "f\\xfcnf \\ud800\n")


def test_only_a_defect_of_mft_has_no_outcome():
    full = OSError(errno.ENOSPC, "No space left on device", "run/state.json")
    expected = {
        UserError("no"): 2,
        Stopped("saved"): 75,
        RankFailed("rank 1"): 1,
        KeyboardInterrupt(): 130,
        full: 2,
        MemoryError(): 2,
    }
    outcomes = {error: outcome_of(error) for error in expected}
    assert {error: outcome[0] for error, outcome in outcomes.items() if outcome} == expected
    assert "run/state.json" in outcomes[full][1]
    assert outcome_of(ValueError("x")) is None
    assert outcome_of(FileNotFoundError(errno.ENOENT, "x")) is None
