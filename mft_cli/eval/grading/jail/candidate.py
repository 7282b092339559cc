"""The untrusted side: runs a program and calls its functions when asked. It never sees a test or an expected value.

Nothing here protects itself from the program, which shares its interpreter: it may forge replies, and a forged reply is
still only plain data that the tests compare.
"""

from __future__ import annotations

import builtins
import os
import socket
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

from .confine import filter_calls, set_limits, silence
from .wire import BadMessage, Channel, Gone, decode, encode


def main(channel_fd: int, control_fd: int) -> None:
    """Confine this process, tell the supervisor (with a handle on /tmp, so that it can watch the disk), and serve."""
    channel = Channel(socket.socket(fileno=channel_fd))
    with socket.socket(fileno=control_fd) as control:
        scratch = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        set_limits(channel.receive()["limits"])
        filtered = filter_calls()
        socket.send_fds(control, [b"filtered" if filtered else b"unfiltered"], [scratch])
        os.close(scratch)
    silence()
    channel.send({"value": None})
    namespace = _load(channel, channel.receive()["program"])
    while True:
        try:
            name, args, kwargs = decode(channel.receive())
        except Gone:
            return
        reply(channel, partial(_call, namespace, name, args, kwargs))


def _call(namespace: dict[str, Any], name: str, args: list[object], kwargs: dict[str, object]) -> object:
    return namespace[name](*args, **kwargs)


def _load(channel: Channel, source: str) -> dict[str, Any]:
    """Run the program at the top level, as a module that is not __main__."""
    module = types.ModuleType("program")
    sys.modules["program"] = module  # dataclasses look their module up
    reply(channel, lambda: exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__))
    return module.__dict__


def reply(channel: Channel, work: Callable[[], object]) -> None:
    """Do the work and send {"value": ...} or {"raised": [name of a built-in exception, message]}."""
    try:
        message = {"value": encode(work())}
    except BaseException as error:  # SystemExit and KeyboardInterrupt are the program's own too
        message = {"raised": _described(error)}
    try:
        channel.send(message)
    except BadMessage as error:
        channel.send({"raised": ["ValueError", str(error)]})


def _described(error: BaseException) -> list[str]:
    known = [c.__name__ for c in type(error).__mro__ if getattr(builtins, c.__name__, None) is c]
    try:
        text = str(error)[:300]
    except Exception:
        text = ""
    return [known[0], text if known[0] == type(error).__name__ else f"{type(error).__name__}: {text}"]
