"""The worker's side of a replica: one process, one engine, JSON lines in and out. See replicas.py.

in:   the settings; then {"sampling": ...}, any number of {"unit": [[index, prompt, max_new_tokens, seed], ...]},
      {"end": true}, and again; the end of the stream ends the process
out:  {"ready": seconds}, {"tokens": n}, {"done": [index, text, finish_reason, tokens, confidence]},
      {"error": text, "user": bool}
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from typing import Protocol

from mft_cli.errors import STOP_SIGNALS, UserError
from mft_cli.eval.engines.base import Completion, Engine, Request, Sampling, Unit
from mft_cli.files import JsonObject
from mft_cli.signals import die_with_parent

CHUNK = 1 << 16


class Lines:
    """Lines from standard input, waited for or not; a buffered file object would hide lines from select."""

    def __init__(self, descriptor: int):
        self.descriptor, self.buffer = descriptor, b""

    def next(self, wait: bool) -> JsonObject | None:
        """The next message; None if there is none yet. Raises EOFError at the end of the stream."""
        while b"\n" not in self.buffer:
            if not wait and not select.select([self.descriptor], [], [], 0)[0]:
                return None
            chunk = os.read(self.descriptor, CHUNK)
            if not chunk:
                raise EOFError
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        message: JsonObject = json.loads(line)
        return message


class FromParent:
    """The Source of a worker's engine."""

    def __init__(self, lines: Lines):
        self.lines, self.ended = lines, False

    def more(self, busy: int) -> list[Unit]:
        units: list[Unit] = []
        while not self.ended:
            message = self.lines.next(wait=busy == 0 and not units)
            if message is None:
                break
            if message.get("end"):
                self.ended = True
            else:
                units.append([(i, Request(tuple(p), room, seed)) for i, p, room, seed in message["unit"]])
        return units


def main() -> None:
    """Serve until the parent closes the pipe or dies."""
    die_with_parent()  # it must not leave GPUs occupied; where that is unknown the closed pipe ends it at the next token
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent decides when a replica ends
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply

    def reply(**message: object) -> None:
        print(json.dumps(message), file=replies, flush=True)

    lines = Lines(0)
    try:
        start = time.perf_counter()
        engine = load(lines.next(wait=True) or {})
        reply(ready=time.perf_counter() - start)
        serve(engine, lines, reply)
    except (EOFError, BrokenPipeError):
        os._exit(0)
    except UserError as error:
        reply(error=str(error), user=True)
    except BaseException:
        import traceback

        reply(error=traceback.format_exc(), user=False)
    os._exit(0)  # libraries' threads would only delay the end


def load(settings: JsonObject) -> Engine:
    import torch

    from mft_cli.config.schema.evaluation import EvalConfig
    from mft_cli.config.schema.inputs import ModelConfig
    from mft_cli.config.validate import build
    from mft_cli.eval.engines.base import Loading
    from mft_cli.eval.engines.load import load_engine
    from mft_cli.models.loading import load_tokenizer

    if settings["threads"] is not None:
        torch.set_num_threads(settings["threads"])
    loading = Loading(**settings["loading"])
    tokenizer = load_tokenizer(loading.tokenizer, build(ModelConfig, settings["model"]))
    return load_engine(loading, tokenizer, build(EvalConfig, settings["config"]))


class Reply(Protocol):
    """Writes one JSON line to the parent."""

    def __call__(self, **message: object) -> None: ...


def serve(engine: Engine, lines: Lines, reply: Reply) -> None:
    """One engine.run for each benchmark."""

    def report(index: int, completion: Completion) -> None:
        c = completion
        reply(done=[index, c.text, c.finish_reason, c.tokens, c.confidence])

    while True:
        s = (lines.next(wait=True) or {})["sampling"]
        values: JsonObject = {k: tuple(v) if isinstance(v, list) else v for k, v in s.items()}
        sampling = Sampling(**values)
        engine.run(FromParent(lines), sampling, report, lambda count: reply(tokens=count))


if __name__ == "__main__":
    main()
