"""Where the ranks of one node meet: a file that its user alone can read, and the loopback."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

MEETING = (
    "MFT_MEETING_FILE"  # the variable that names it; the ranks of several nodes have MASTER_ADDR and MASTER_PORT alone
)


@contextlib.contextmanager
def meeting_file() -> Iterator[Path]:
    """A name for the file, in a new folder on this machine's own disk. It is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mft-ranks-"))
    try:
        yield folder / "meeting"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def on_one_node(environment: Mapping[str, str], meeting: Path) -> dict[str, str]:
    """`environment` for ranks that meet by the file, and listen for each other on the loopback where it says nothing else."""
    return {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", **environment, MEETING: str(meeting)}
