"""Several copies of the model over one work queue: one process a GPU (or any number of them on a CPU).

Each worker is a fresh interpreter that talks JSON lines over pipes (replica_worker.py). Units of work are those of the
single engine: whole batches for hf, the samples of a prompt for vllm. So completions do not depend on the number of
replicas, and the samples of a prompt share its prefill. A replica that dies gives its work back to the queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mft_cli.config.schema.evaluation import EvalConfig
from mft_cli.config.schema.inputs import ModelConfig
from mft_cli.config.validate import to_plain
from mft_cli.errors import UserError
from mft_cli.eval.engines.base import (
    Completion,
    Engine,
    Loading,
    OnCompletion,
    OnTokens,
    Request,
    Sampling,
    Source,
    Unit,
    batches,
    by_prompt,
)
from mft_cli.files import JsonObject

PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])
VLLM_WINDOW = 320  # completions handed to a vllm replica: its 256 side by side, and some that wait for a free place
DEATHS_OF_A_UNIT = 2  # work that ended this many replicas is not given to a third

Event = tuple["Replica", JsonObject | None]  # a message of a replica; None: it is dead


class Replicas(Engine):
    """Engines in worker processes. Raises UserError if one cannot load the model."""

    def __init__(
        self, loading: Loading, config: EvalConfig, model: ModelConfig, devices: Sequence[str | None],
        threads: int | None, logs: Path,
    ):  # fmt: skip
        self.loading, self.config = loading, config
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        if threads is None and loading.device == "cpu":
            threads = max(1, (os.cpu_count() or 1) // len(devices))
        settings = {
            "loading": asdict(loading), "config": to_plain(config), "model": to_plain(model), "threads": threads,
        }  # fmt: skip
        logs.mkdir(parents=True, exist_ok=True)
        self.alive: list[Replica] = []
        try:
            for number, device in enumerate(devices):
                self.alive.append(Replica(number, device, logs / f"replica-{number}.log", self.events))
            for replica in self.alive:
                replica.send(settings)
            self._wait_until_loaded(len(devices))
        except BaseException:
            self.close()
            raise

    def _wait_until_loaded(self, count: int) -> None:
        ready = 0
        while ready < count:
            replica, message = self.events.get()
            if message is None:
                raise UserError(f"{replica.cause_of_death()} while it loaded the model; {replica.advice(self.loading)}")
            raise_error(replica, message)
            ready += "ready" in message

    def units(self, requests: Sequence[Request], done: set[int]) -> list[list[int]]:
        """See Engine."""
        return batches(requests, done, self.config.batch_size) if self._batched else by_prompt(requests, done)

    @property
    def _batched(self) -> bool:
        return self.loading.name == "hf"

    def run(self, source: Source, sampling: Sampling, report: OnCompletion, tokens: OnTokens) -> None:
        """See Engine."""
        waiting = deque(source.more(0))
        deaths: dict[int, int] = {}  # by the first index of a unit
        for replica in self.alive:
            replica.send({"sampling": asdict(sampling)})
        while waiting or any(replica.units for replica in self.alive):
            for replica in self.alive:
                while waiting and replica.has_room(1 if self._batched else VLLM_WINDOW):
                    replica.give(waiting.popleft())
            replica, message = self.events.get()
            if message is None:
                self._redistribute(replica, waiting, deaths)
            elif "done" in message:
                index, *fields = message["done"]
                replica.finished(index)
                report(index, Completion(*fields))
            elif "tokens" in message:
                tokens(message["tokens"])
            else:
                raise_error(replica, message)
        for replica in self.alive:
            replica.send({"end": True})

    def _redistribute(self, replica: Replica, waiting: deque[Unit], deaths: dict[int, int]) -> None:
        """Give a dead replica's work back. Raises UserError if no replica is alive, or if the work itself is deadly."""
        if replica not in self.alive:
            return
        self.alive.remove(replica)
        how = replica.cause_of_death()
        replica.stop()
        lost = replica.unfinished(whole=self._batched)
        for unit in lost:
            deaths[unit[0][0]] = deaths.get(unit[0][0], 0) + 1
        deadly = any(deaths[unit[0][0]] >= DEATHS_OF_A_UNIT for unit in lost)
        if deadly or not self.alive:
            raise UserError(
                f"{how}{' on the same work as one before' if deadly else ''}; the completions so far "
                f"are kept: {replica.advice(self.loading)}, and start the same command again"
            )
        waiting.extendleft(reversed(lost))
        count = sum(len(unit) for unit in lost)
        print(f"{how}; its {count} completions go to the other {len(self.alive)}", flush=True)

    def close(self) -> None:
        """End the workers, at once."""
        for replica in self.alive:
            replica.stop()
        self.alive = []


class Replica:
    """One worker process. A thread of ours reads its replies, so that neither side ever waits on a full pipe."""

    def __init__(self, number: int, device: str | None, log: Path, events: queue.SimpleQueue[Event]):
        self.number, self.device, self.log = number, device, log
        self.units: list[tuple[Unit, set[int]]] = []  # with the indices that are still to come
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([PACKAGE_ROOT, os.environ.get("PYTHONPATH", "")])}
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mft_cli.eval.engines.replica_worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=environment,
                start_new_session=True,  # Ctrl-C is ours to handle; and vllm's own children end with the group
            )  # fmt: skip
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def _read(self, events: queue.SimpleQueue[Event]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                events.put((self, json.loads(line)))
            except ValueError:
                break  # a torn last line
        events.put((self, None))

    def send(self, message: JsonObject) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its death is an event that is on its way
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def has_room(self, window: int) -> bool:
        return sum(len(pending) for _, pending in self.units) < window

    def give(self, unit: Unit) -> None:
        self.units.append((unit, {index for index, _ in unit}))
        self.send({"unit": [[i, r.prompt, r.max_new_tokens, r.seed] for i, r in unit]})

    def finished(self, index: int) -> None:
        for _, pending in self.units:
            pending.discard(index)
        self.units = [(unit, pending) for unit, pending in self.units if pending]

    def unfinished(self, whole: bool) -> list[Unit]:
        """Units that it did not finish; `whole` batches are repeated as they were, to get the same bits."""
        return [unit if whole else [(i, r) for i, r in unit if i in pending] for unit, pending in self.units]

    def cause_of_death(self) -> str:
        """Such as "replica 1 (GPU 1) was killed by SIGKILL"."""
        gpu = "" if self.device is None else f" (GPU {self.device})"
        deadline = time.monotonic() + 5
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        code = self.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended (code {code})"
        return f"replica {self.number}{gpu} {how}"

    def advice(self, loading: Loading) -> str:
        memory = "the machine's memory" if loading.device == "cpu" else "memory"
        return f"look at {self.log} and at {memory}; set eval.replicas lower if it ran out"

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()


def raise_error(replica: Replica, message: JsonObject) -> None:
    """An exception inside a worker, raised here."""
    if "error" in message:
        if message["user"]:
            raise UserError(message["error"])
        raise RuntimeError(f"replica {replica.number} failed; its own traceback:\n{message['error']}")
