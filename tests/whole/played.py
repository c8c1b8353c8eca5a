"""An engine whose every byte the test sends by hand: requests arrive as `Call`s, answered or left alone. (IO)

Model listings are answered in the background; each other request waits in a queue until the test takes it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from tests.whole.raw import DEADLINE_S

EVENTS = "content-type: text/event-stream"
DONE = b"data: [DONE]\n\n"


def chunk(delta: object, reason: str | None = None, **more: object) -> bytes:
    """One event of a chat's stream."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: %b\n\n" % json.dumps({**head, "choices": [choice], **more}).encode()


def spoken(*words: str) -> bytes:
    """A whole streamed answer without its usage."""
    said = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in words)]
    return b"".join([*said, chunk({}, "stop"), DONE])


def whole(text: str = "hello", **more: object) -> bytes:
    """A chat's answer in one body."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps({**head, "choices": choices, "usage": usage, **more}).encode()


class Call:
    """A request that came in, and the connection to answer it on; leaving its block closes the connection."""

    def __init__(self, connection: socket.socket, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.connection = connection
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body

    def send(self, *parts: bytes) -> None:
        """Each part in a segment of its own, as far as the kernel lets it be."""
        for part in parts:
            self.connection.sendall(part)

    def answer(self, status: int, body: bytes, *headers: str) -> None:
        """A whole answer with its length; it is JSON unless ``headers`` say otherwise."""
        kind = () if any(field.startswith("content-type") for field in headers) else ("content-type: application/json",)
        fields = [f"HTTP/1.1 {status} Whatever", *kind, f"content-length: {len(body)}", *headers, "", ""]
        self.send("\r\n".join(fields).encode() + body)

    def stream(self, *parts: bytes) -> None:
        """The head of a chunked event stream, then ``parts`` as chunks; the last chunk is not sent."""
        self.send(f"HTTP/1.1 200 OK\r\n{EVENTS}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        self.more(*parts)

    def more(self, *parts: bytes) -> None:
        self.send(*(b"%x\r\n%b\r\n" % (len(part), part) for part in parts))

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    @property
    def hung_up(self) -> bool:
        """Whether the other side has closed its direction by now."""
        self.connection.setblocking(False)
        try:
            return self.connection.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        finally:
            self.connection.settimeout(DEADLINE_S)

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PlayedEngine:
    """Listens on a port of its own; ``url`` may be given any path, so that one port serves as several engines."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._calls: queue.Queue[Call] = queue.Queue()
        threading.Thread(target=self._accept, daemon=True).start()

    def call(self, within_s: float = DEADLINE_S) -> Call:
        """The next request for inference."""
        return self._calls.get(timeout=within_s)

    @property
    def called(self) -> bool:
        """Whether a request waits that nobody has taken."""
        return not self._calls.empty()

    def keep(self, call: Call) -> None:
        """Read the next request on a connection whose answer is whole."""
        threading.Thread(target=self._serve, args=(call.connection,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        while self.called:
            self.call().close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(60.0)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            for call in requests(connection):
                if call.method != "GET":
                    self._calls.put(call)
                    return
                call.answer(200, b'{"object":"list","data":[{"id":"m"}]}')
        except OSError:
            pass
        connection.close()


def requests(connection: socket.socket) -> Iterator[Call]:
    """Requests with a Content-Length or without a body, one after the other."""
    while True:
        data = b""
        while b"\r\n\r\n" not in data:
            received = connection.recv(65536)
            if not received:
                return
            data += received
        head, _, body = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ")
        headers = dict(field.split(": ", 1) for field in lines)
        assert len(headers) == len(lines), f"a field twice: {lines}"
        while len(body) < int(headers.get("content-length", "0")):
            body += connection.recv(65536)
        yield Call(connection, method, path, headers, body)
