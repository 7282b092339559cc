"""What a person sees, and a terminal that goes away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


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
