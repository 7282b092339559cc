"""One run's folder: paths, state, provenance, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

from mft_cli.errors import Stopped, UserError
from mft_cli.files import file_digest, inode_of, locked, read_sealed, write_sealed
from mft_cli.provenance import Provenance


class State(TypedDict, total=False):
    """state.json."""

    state: str  # running, stopped, done or failed
    time: str
    step: int  # the last saved one
    total_steps: int
    seconds: float  # of training
    message: str  # why it stopped or failed
    by: str | None  # the signal that stopped it
    logged: dict[str, str]  # of a finished run: digests of what it logged


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
        self.wandb = self.root / "wandb.json"
        self.live = self.root / "live"  # benchmarks inside of the training
        self.checkpoints = self.root / "checkpoints"
        self.export = self.root / "export"
        self.inode: int | None = None  # of the folder that `hold` saw
        self.begun = False  # whether this process has taken the folder over

    def set_state(self, state: str, **more: object) -> None:
        """`state` is running, stopped, done or failed; `more` is kept with it."""
        if self.is_gone():
            return
        write_sealed(self.state, {"state": state, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **more})

    def get_state(self) -> State:
        """Empty without one and for a damaged one: the run then goes on from its newest checkpoint."""
        try:
            state: State = read_sealed(self.state)  # type: ignore[assignment]
            return state
        except (FileNotFoundError, ValueError):
            return {}

    def get_provenance(self) -> Provenance:
        """Empty without a run.json. Raises UserError for a damaged one."""
        try:
            facts: Provenance = read_sealed(self.provenance)  # type: ignore[assignment]
            return facts
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(
                f"{self.provenance} is damaged ({error}): it tells which data and weights the run was trained from; put back "
                f"a copy, or delete it to go on without that comparison"
            ) from None

    def logged(self) -> dict[str, str]:
        """Digests of metrics.jsonl and samples.jsonl as they are now; kept with what is saved, to tell damage by."""
        return {path.name: file_digest(path) for path in (self.metrics, self.samples) if path.exists()}

    def changed_logs(self, before: Mapping[str, str]) -> list[str]:
        """A sentence for each file that is not as it was when `before` was taken."""
        now = self.logged()
        return [
            f"{self.root / name} is {'not as it was written: damaged or changed' if name in now else 'gone'}; the weights do "
            f"not depend on it"
            for name, digest in before.items()
            if now.get(name) != digest
        ]

    def refuse_training(self) -> None:
        """Raises UserError where a training has the folder: its config.yaml, run.json and state.json would be overwritten."""
        if self.checkpoints.is_dir():
            raise UserError(
                f"{self.root} holds a training run, whose settings and state would be overwritten; name another folder with "
                f"run_dir= (scores of the training's own command are in {self.root / 'eval'})"
            )

    def hold(self) -> None:
        """From now on it is noticed if the folder is deleted or moved."""
        self.inode = inode_of(self.root)

    def is_gone(self) -> bool:
        return self.inode is not None and inode_of(self.root) != self.inode

    def check_there(self, doing: str) -> None:
        """Raises UserError if the folder was deleted or moved: what is written now would make a new one of the old name."""
        if self.is_gone():
            raise UserError(
                f"{self.root}: the run's folder was deleted or moved while it ran ({doing}); move it back and start the same "
                f"command again to go on from its last checkpoint"
            )

    def progress(self) -> Progress:
        """The last saved step and how many there are, as the state file knows them."""
        state = self.get_state()
        return {k: state[k] for k in ("step", "total_steps") if k in state}  # type: ignore[return-value]

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
