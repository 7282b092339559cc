"""A scripted OpenAI-compatible endpoint on loopback: answers, or misbehaves as it is told, request by request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[[int, dict[str, Any]], Any]  # (number of the request from 0, its body) -> what to do


def chat(text: str, finish: str = "stop", tokens: int = 3, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}
    return {"choices": [choice], "usage": {"completion_tokens": tokens}}


def completion(text: str, finish: str = "stop", tokens: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "text": text, "finish_reason": finish, **more}],
        "usage": {"completion_tokens": tokens},
    }


class Endpoint:
    """`requests`: (path, body, headers) of all that came. The script returns a dict (answered with 200), bytes (sent as
    they are with 200), (status, dict, headers), "drop" (the connection is cut), or ("stall", seconds)."""

    def __init__(self, script: Script):
        self.script, self.requests, self.lock = script, [], threading.Lock()
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]]
        self.most, self.now = 0, 0

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            number = len(self.requests)
            self.requests.append((handler.path, body, {k.lower(): v for k, v in handler.headers.items()}))
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.answer(handler, self.script(number, body))
        finally:
            with self.lock:
                self.now -= 1

    def answer(self, handler: BaseHTTPRequestHandler, what: Any) -> None:
        if isinstance(what, tuple) and what[0] == "stall":
            time.sleep(what[1])
            what = "drop"
        if what == "drop":
            handler.close_connection = True
            handler.connection.close()
            return
        status, value, headers = what if isinstance(what, tuple) else (200, what, {})
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        handler.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name, text)
        handler.end_headers()
        handler.wfile.write(data)


@contextmanager
def serving(script: Script) -> Iterator[tuple[Endpoint, str]]:
    """(the endpoint, its base_url)"""
    endpoint = Endpoint(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                endpoint.handle(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield endpoint, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
