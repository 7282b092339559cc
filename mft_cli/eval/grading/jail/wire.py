"""Plain data between two processes that do not trust each other: one line of JSON a message, no pickle, no eval.

None, bool, float, str and list are JSON's own; whatever else is plain is an object with one key that names its type.
Decoding builds new objects of exactly the built-in types, so a value that was sent can override nothing: no `__eq__`
that is always true, no `__del__`, no frames to read.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

MAX_MESSAGE = 64 << 20  # bytes of one line
MAX_DEPTH = 100
PLAIN_INT = 1 << 53  # larger ones go as hexadecimal: linear time, and no limit on digits


class BadMessage(Exception):
    """What came is not a message: too long, not JSON, or not plain data."""


class Gone(Exception):
    """The other side closed the channel."""


class Overtime(Exception):
    """No complete message before the deadline."""


class Opaque:
    """Stands for a value that is not plain data (a generator, a function, an object of an own class). Equals only itself."""

    def __init__(self, kind: str):
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def encode(value: Any, depth: int = 0) -> object:
    """JSON-able form of plain data; subclasses become their built-in type, anything else an opaque mark."""
    if depth > MAX_DEPTH:
        raise BadMessage(f"data nested deeper than {MAX_DEPTH}")
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is str:
        return value
    if isinstance(value, int):
        return int(value) if -PLAIN_INT < value < PLAIN_INT else {"int": hex(value)}
    if kind is list:
        return [encode(v, depth + 1) for v in value]
    return _tagged(value, depth + 1)


def _tagged(value: Any, depth: int) -> object:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__add__(value, 0.0)
    if isinstance(value, list):
        return [encode(v, depth) for v in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[encode(k, depth), encode(v, depth)] for k, v in value.items()]}
    for name, base in (("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, base):
            return {name: [encode(v, depth) for v in value]}
    if isinstance(value, (bytes, bytearray)):
        return {type(value).__name__: bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return encode(value.item(), depth)
    return {"opaque": type(value).__name__[:100]}


def decode(value: object, depth: int = 0) -> Any:
    """The value back, built of built-in types and `Opaque` alone. Raises BadMessage for anything else."""
    if depth > 2 * MAX_DEPTH:
        raise BadMessage("data nested too deep")
    if isinstance(value, list):
        return [decode(v, depth + 1) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise BadMessage("an object without a type")
    [(name, content)] = value.items()
    try:
        return _built(name, content, depth + 1)
    except (TypeError, ValueError) as error:  # an unhashable key, digits that are none
        raise BadMessage(f"not plain data ({type(error).__name__})") from None


def _built(name: str, content: Any, depth: int) -> Any:
    if name == "int":
        return int(content, 16)
    if name == "dict":
        return {decode(k, depth): decode(v, depth) for k, v in content}
    if name in ("tuple", "set", "frozenset"):
        items = [decode(v, depth) for v in content]
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[name](items)
    if name in ("bytes", "bytearray"):
        return bytes.fromhex(content) if name == "bytes" else bytearray.fromhex(content)
    if name == "complex":
        return complex(*content)
    if name == "opaque":
        return Opaque(str(content)[:100])
    raise BadMessage("an object of an unknown type")


class Channel:
    """Messages over a stream socket."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self.rest = b""

    def send(self, message: object, timeout_s: float | None = None) -> None:
        """Raises BadMessage if the message is too long, Overtime, or Gone."""
        data = json.dumps(message).encode() + b"\n"
        if len(data) > MAX_MESSAGE:
            raise BadMessage(f"a message of {len(data)} bytes; at most {MAX_MESSAGE} are passed on")
        self.socket.settimeout(timeout_s)
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise Overtime from None
        except OSError:
            raise Gone from None

    def receive(self, timeout_s: float | None = None) -> Any:
        """The next message. Raises Overtime, Gone or BadMessage."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        parts = [self.rest]
        size = len(self.rest)
        while b"\n" not in parts[-1]:
            parts.append(self._chunk(deadline))
            size += len(parts[-1])
            if size > MAX_MESSAGE:
                raise BadMessage(f"a message of more than {MAX_MESSAGE} bytes")
        line, _, self.rest = b"".join(parts).partition(b"\n")
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise BadMessage("a line that is not JSON") from None

    def _chunk(self, deadline: float | None) -> bytes:
        remaining_s = None if deadline is None else deadline - time.monotonic()
        if remaining_s is not None and remaining_s <= 0:
            raise Overtime
        self.socket.settimeout(remaining_s)
        try:
            chunk = self.socket.recv(1 << 20)
        except TimeoutError:
            raise Overtime from None
        except OSError:
            raise Gone from None
        if not chunk:
            raise Gone
        return chunk
