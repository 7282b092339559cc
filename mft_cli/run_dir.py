"""One run's folder: paths, state, provenance, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from mft_cli.errors import Stopped, UserError
from mft_cli.files import locked, read_json, write_json


class State(TypedDict, total=False):
    """state.json."""

    state: str  # running, stopped, done or failed
    time: str
    step: int  # the last saved one
    total_steps: int
    seconds: float  # of training
    message: str  # why it stopped or failed
    by: str | None  # the signal that stopped it


class Progress(TypedDict, total=False):
    step: int
    total_steps: int


class RunDir:
    """Paths of one run's folder, and its small files."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.provenance = self.root / "run.json"
        self.state = self.root / "state.json"
        self.log = self.root / "train.log"
        self.metrics = self.root / "metrics.jsonl"
        self.samples = self.root / "samples.jsonl"
        self.checkpoints = self.root / "checkpoints"
        self.export = self.root / "export"

    def set_state(self, state: str, **more: object) -> None:
        """`state` is running, stopped, done or failed; `more` is kept with it."""
        write_json(self.state, {"state": state, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **more})

    def get_state(self) -> State:
        try:
            state: State = read_json(self.state)
            return state
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def progress(self) -> Progress:
        """The last saved step and how many there are, as the state file knows them."""
        state = self.get_state()
        return {k: state[k] for k in ("step", "total_steps") if k in state}  # type: ignore[return-value, literal-required]

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Two processes in one folder would mix their files: the second is refused. A dead one's lock is free."""
        return locked(self.root, f"{self.root} is in use by another mft process; wait for it, or set run_dir=")

    @contextlib.contextmanager
    def recording_state(self) -> Iterator[None]:
        """State running inside; stopped or failed, with the reason, if it is left by an exception."""
        self.set_state("running")
        try:
            yield
        except Stopped as stopped:
            self.set_state("stopped", message=str(stopped))
            raise
        except BaseException as error:
            self.set_state("failed", message=str(error) if isinstance(error, UserError) else repr(error))
            raise
