"""Threads of the packages that followers use: one that fails is a line, not a traceback."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Iterator

from mft_cli.console import Logger

PACKAGES = {"tensorboard", "wandb", "mlflow", "trackio"}


@contextlib.contextmanager
def telling_of_threads(log: Logger) -> Iterator[None]:
    """Inside, a thread of a follower's package that fails is a line of the log; of others it is a traceback, as ever."""
    before = threading.excepthook

    def tell(failed: threading.ExceptHookArgs) -> None:
        modules = {str(f.f_globals.get("__name__")).split(".")[0] for f, _ in traceback.walk_tb(failed.exc_traceback)}
        if package := next(iter(sorted(PACKAGES & modules)), None):
            log(f"{package} has failed; its last numbers may be missing there: {failed.exc_value}")
        else:
            before(failed)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = before
