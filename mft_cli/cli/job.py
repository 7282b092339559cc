"""What `mft train` and `mft eval` do with a configuration: run it here, or hand it to SLURM, and requeue it there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mft_cli.config.schema.base import Values
from mft_cli.config.schema.launching import LaunchConfig
from mft_cli.errors import Stopped, UserError
from mft_cli.slurm.requeue import StoppedEarly, mind_early_signals, requeue_if_due


def read_frozen(file: str) -> Values:
    """A frozen configuration as plain values. Raises UserError."""
    try:
        return dict(json.loads(Path(file).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"--frozen={file}: cannot be read ({error})") from None


@contextmanager
def requeueing(launch: LaunchConfig) -> Iterator[None]:
    """A SLURM job whose time is up goes back into the queue."""
    try:
        mind_early_signals()
        yield
    except StoppedEarly as early:
        stopped = Stopped(f"stopped by {early} before the first step", str(early))
        requeue_if_due(launch.slurm, stopped)
        raise stopped from None
    except Stopped as stopped:
        requeue_if_due(launch.slurm, stopped)
        raise
