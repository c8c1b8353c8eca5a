"""An engine that writes down what it is asked, and answers with whatever bytes a test tells it to. (IO)

It reads HTTP by hand and shares no code with the gateway: what it counts as a request is one.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Asked(NamedTuple):
    """One request as it stood on the wire: ``head`` up to the empty line, without it."""

    connection: int
    head: bytes
    body: bytes

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode("latin-1")

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Names in lower case, in their order."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    def values(self, name: str) -> list[str]:
        return [value for named, value in self.fields if named == name]


def said(text: str = "hello", **more: object) -> bytes:
    """A chat's answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps({**head, "choices": [choice], "usage": usage, **more}).encode()


def framed(body: bytes, *fields: str, status: int = 200) -> bytes:
    """A whole answer with its length."""
    kind = () if any(field.startswith("content-type") for field in fields) else ("content-type: application/json",)
    lines = [f"HTTP/1.1 {status} Whatever", *kind, f"content-length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def polite(asked: Asked) -> bytes:
    """Tells the client its own request id, so that an answer can be told to be whose it is."""
    return framed(said(" ".join(asked.values("x-request-id"))))


class Witness:
    """``asked``: everything but polls, in its order. ``answer``: a request in, bytes out; b"" leaves it open, and None
    closes the connection.
    """

    def __init__(self, *models: str) -> None:
        self.models = models or ("m",)
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], bytes | None] = polite
        self.polls: dict[str, bytes] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._serial = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def forget(self) -> None:
        self.asked.clear()
        self.answer = polite

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._serial += 1
                threading.Thread(target=self._serve, args=(connection, self._serial), daemon=True).start()

    def _serve(self, connection: socket.socket, serial: int) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(60.0)
            for asked in _requests(connection, serial):
                answer = self._polled(asked.path) if asked.head.startswith(b"GET ") else None
                if answer is None:
                    self.asked.append(asked)
                    answer = self.answer(asked)
                if answer is None:
                    return
                connection.sendall(answer)

    def _polled(self, path: str) -> bytes | None:
        if path in self.polls:
            return self.polls[path]
        if path == "/v1/models":
            return framed(json.dumps({"object": "list", "data": [{"id": model} for model in self.models]}).encode())
        return framed(b"", "content-type: text/plain") if path in ("/metrics", "/health", "/version") else None


def _requests(connection: socket.socket, serial: int) -> Iterator[Asked]:
    """By Content-Length alone: the gateway sends its requests so, and what else it might send would show as a request
    of its own."""
    held = b""
    while True:
        while b"\r\n\r\n" not in held:
            received = connection.recv(65536)
            if not received:
                return
            held += received
        head, _, held = held.partition(b"\r\n\r\n")
        length = next((int(v) for n, v in Asked(serial, head, b"").fields if n == "content-length"), 0)
        while len(held) < length:
            received = connection.recv(65536)
            if not received:
                return
            held += received
        yield Asked(serial, head, held[:length])
        held = held[length:]


@contextmanager
def witness(*models: str) -> Iterator[Witness]:
    engine = Witness(*models)
    try:
        yield engine
    finally:
        engine.close()
