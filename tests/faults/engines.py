"""Engines that misbehave as the test wants: each request is given to the next act, and answered well without one. (IO)

What is streamed and what is whole says the same, so that whatever reaches a client can be compared with `TEXT`.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.whole.played import DONE, EVENTS, Call, PlayedEngine, chunk, requests, whole

WORDS = ("one", " two", " three", " four")
TEXT = "".join(WORDS)
Act = Callable[[Call], object]
"""True: the connection is good for another request."""
HEAD = f"HTTP/1.1 200 OK\r\n{EVENTS}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
ROLE = chunk({"role": "assistant", "content": ""})
TOKENS = tuple(chunk({"content": word}) for word in WORDS)
LAST = chunk({}, "stop")
BODY = whole(TEXT)
PATIENCE_S = 5.0
"""A gateway that has not given up by then hangs."""


class Engine(PlayedEngine):
    """``acts``: what becomes of the next requests, one each. ``asked``: every request so far, in order.

    Polls are answered on connections of their own, so that none that is kept is there for a request: where one breaks
    before its answer the gateway repeats the request, once, silently.
    """

    def __init__(self) -> None:
        super().__init__()
        self.acts: list[Act] = []
        self.asked: list[Call] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def then(self, *acts: Act) -> None:
        """Forget what was asked; the next requests get these."""
        self.acts = [*acts]
        self.asked.clear()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        super().close()

    def _run(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Empty):
                call = self.call(within_s=0.1)
                self.asked.append(call)
                act = self.acts.pop(0) if self.acts else well
                threading.Thread(target=self._play, args=(act, call), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for call in requests(connection):
                if call.method != "GET":
                    self._calls.put(call)
                    return
                call.answer(200, b'{"object":"list","data":[{"id":"m"}]}', "connection: close")
                break
        connection.close()

    def _play(self, act: Act, call: Call) -> None:
        with contextlib.suppress(OSError):
            if act(call):
                self.keep(call)
                return
        call.close()


@contextmanager
def acting() -> Iterator[Engine]:
    engine = Engine()
    try:
        yield engine
    finally:
        engine.close()


def streamed(call: Call) -> bool:
    return bool(json.loads(call.body).get("stream"))


def framed(*parts: bytes) -> bytes:
    """Parts as chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def headed(body: bytes, *, length: int | None = None) -> bytes:
    """A whole answer, said to be of this length."""
    size = len(body) if length is None else length
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (size, body)


STREAM = HEAD + framed(ROLE, *TOKENS, LAST, DONE) + b"0\r\n\r\n"
WHOLE = headed(BODY)


def well(call: Call) -> None:
    """The whole of it; the connection is not for another request."""
    call.send((STREAM if streamed(call) else WHOLE).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))


def up_to(phase: str, call: Call) -> bytes:
    """What is sent of a good answer before trouble begins."""
    if phase == "nothing":
        return b""
    if phase == "half a head":
        return HEAD[:40]
    if not streamed(call):
        size = {"head": 0, "half": len(BODY) // 2, "all but the last": len(BODY) - 1}[phase]
        return headed(BODY[:size], length=len(BODY))
    parts = {
        "head": (),
        "role": (ROLE,),
        "half": (ROLE, *TOKENS[:2]),
        "half an event": (ROLE, *TOKENS[:2], TOKENS[2][:60]),
        "finished": (ROLE, *TOKENS, LAST),
        "done": (ROLE, *TOKENS, LAST, DONE),
    }[phase]
    return HEAD + framed(*parts)


def ends(call: Call) -> None:
    """The connection is closed in order."""


def resets(call: Call) -> None:
    call.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def falls_silent(call: Call) -> None:
    """Until the gateway has left."""
    gone(call)


def half_closes(call: Call) -> None:
    call.connection.shutdown(socket.SHUT_WR)
    gone(call)


def babbles(call: Call) -> None:
    """Bytes that are neither a head nor a chunk nor the rest of a body, without end."""
    forever(call, b"\x00\xff\xfe\r\n\r\n" * 500)


TROUBLES: dict[str, Act] = {
    "ends": ends,
    "resets": resets,
    "falls silent": falls_silent,
    "half-closes": half_closes,
    "babbles": babbles,
}


def breaking(phase: str, trouble: str) -> Act:
    """A good answer up to ``phase``, then trouble."""

    def act(call: Call) -> None:
        call.send(up_to(phase, call))
        TROUBLES[trouble](call)

    return act


def carries_on(call: Call) -> bool:
    """The next request on this connection is one like any other."""
    return True


def saying(stream: bytes, body: bytes, then: Act = carries_on) -> Act:
    """These bytes, whole or streamed, and what comes then."""

    def act(call: Call) -> object:
        call.send(stream if streamed(call) else body)
        return then(call)

    return act


def trickling(stream: bytes, body: bytes, pause_s: float, size: int = 1) -> Act:
    """Some bytes at a time."""

    def act(call: Call) -> None:
        data = stream if streamed(call) else body
        for at in range(0, len(data), size):
            call.send(data[at : at + size])
            time.sleep(pause_s)

    return act


def endless(start: bytes, more: bytes) -> Act:
    """The same again and again, as fast as it is taken."""

    def act(call: Call) -> None:
        call.send(start)
        forever(call, more)

    return act


def forever(call: Call, data: bytes) -> None:
    until = time.monotonic() + 4 * PATIENCE_S
    with contextlib.suppress(OSError):
        while time.monotonic() < until:
            call.send(data)


def gone(call: Call) -> None:
    """Wait until the gateway has closed its side."""
    call.connection.settimeout(4 * PATIENCE_S)
    with contextlib.suppress(OSError):
        while call.connection.recv(65536):
            pass


def refusing(status: int, *headers: str, body: bytes = b'{"error":{"message":"as it is"}}') -> Act:
    def act(call: Call) -> None:
        call.answer(status, body, *headers)

    return act


def in_turn(acts: Sequence[Act]) -> Act:
    """All of them on one connection."""

    def act(call: Call) -> object:
        return [one(call) for one in acts][-1]

    return act
