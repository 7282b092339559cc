"""Why ranks failed, in a line: the first cause, and not what the others missed because of it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from mft_cli.distributed.processes import Rank
from mft_cli.errors import EXIT_USER
from mft_cli.slurm.srun import first_failed

TAIL_LINES = 60
FROM_SLURM = ("srun: ", "slurmstepd")
ENDED = re.compile(r"^srun: error: (\S+): tasks? (\S+): (.+)$", re.MULTILINE)  # (node, tasks, how)


def failure_text(first: Rank, ranks: list[Rank]) -> str:
    """One line, and the end of the failed rank's log unless rank 0 has shown the same on the terminal.

    Empty for a user's mistake that rank 0 has told.
    """
    shown = next((tail(r.log, r.offset) for r in ranks if r.echo), "")
    text = tail(first.log, first.offset)
    told = first.echo or not text or last_line(text) in shown
    if told and first.code == EXIT_USER:
        return ""
    how = f"exit code {first.code}" if first.code > 0 else f"signal {signal.Signals(-first.code).name}"
    line = f"rank {first.number} failed first ({how}); its output is in {first.log}"
    return line if told else f"{line}, which ends:\n{text}"


def cause_of(first: Rank, killed_for: str) -> str:
    """Why the rank that failed first did. `killed_for`: why this process killed it, if it did."""
    if first.code < 0 and killed_for:
        return f"the ranks were killed for {killed_for}"
    if first.code < 0:
        memory = " (out of memory?)" if -first.code == signal.SIGKILL else ""
        return f"rank {first.number} was ended by {signal.Signals(-first.code).name}{memory}"
    return f"rank {first.number} failed{reason(tail(first.log, first.offset)) or f' with exit code {first.code}'}"


def cause_of_tasks(srun: Rank, killed_for: str) -> str:
    """The same of srun's tasks: a signal that ended one first, else what the first one to fail has said."""
    if killed_for:
        return f"the ranks were killed for {killed_for}"
    ended = ENDED.search(written(srun.log, srun.offset))
    if ended and "exit code" not in ended[3]:
        return f"rank {ended[2]} on {ended[1]}: {ended[3]}"
    rank = first_failed(srun.logs)
    if rank is None:
        return f"srun ended with exit code {srun.code}"
    text = tail(srun.logs / f"rank{rank}.log", srun.offset if rank == srun.number else 0)
    return f"rank {rank} failed{reason(text) or ', see its log'}"


def reason(text: str) -> str:
    """ ": " and the last line of a traceback, or of mft's own words; nothing where there is neither."""
    told = [line for line in text.splitlines() if line.startswith("mft: ")]
    if "Traceback" in text:
        return f": {last_line(text)}"
    return f": {told[-1].removeprefix('mft: ')}" if told else ""


def written(path: Path, offset: int) -> str:
    """What was written after byte `offset`, at most its last 64 KiB."""
    with path.open("rb") as file:
        file.seek(max(offset, path.stat().st_size - 65536))
        return file.read().decode(errors="replace")


def tail(path: Path, offset: int) -> str:
    """The last traceback after byte `offset`, or the last lines; at most 60 lines, none of SLURM's."""
    lines = [line for line in written(path, offset).rstrip().split("\n") if not line.startswith(FROM_SLURM)][
        -TAIL_LINES:
    ]
    starts = [i for i, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    return "\n".join(lines[starts[-1] :] if starts else lines)


def last_line(text: str) -> str:
    """Without the `[rank1]: ` that torch puts in front."""
    return re.sub(r"^\[rank\d+\]: ?", "", text.rsplit("\n", 1)[-1])
