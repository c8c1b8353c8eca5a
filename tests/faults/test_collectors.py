"""A collector of traces that does what none should: its traces are lost, which is counted and told with its cause, and
that is all there is to it.
"""

from __future__ import annotations

import re
import socket
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.faults.crooked import Crooked, Way, cut, endless, mute, noise, saying
from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, eventually, serve, simulate
from tests.whole import raw
from tests.whole.fleet import CHAT, pool, settings, written

HEAD = b"HTTP/1.1 200 OK\r\n"
GOOD = saying(HEAD + b"content-length: 0\r\nconnection: close\r\n\r\n")
MOST_MIB = 30
TOO_LONG = "no end|timed out"
TOO_MUCH = f"more than 65536 bytes|{TOO_LONG}"
"""On a machine that is busy with something else, its time may be up first."""


def bomb() -> Way:
    """A MiB for each kilobyte."""
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    first, again = (packing.compress(bytes(1 << 20)) + packing.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return endless(HEAD + b"content-encoding: gzip\r\nconnection: close\r\n\r\n" + first, again)


def trickle(first: bytes, again: bytes) -> Way:
    def way(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(first)
        while not over.wait(0.05):
            connection.sendall(again)

    return way


WAYS: dict[str, tuple[Way, str]] = {
    "mute": (mute, TOO_LONG),
    "noise": (noise, ": "),
    "cut": (cut, "reset|Disconnected|aborted|[Bb]roken"),
    "a body without an end": (
        endless(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        TOO_MUCH,
    ),
    "a header without an end": (endless(HEAD, b"x-a: b\r\n" * 100), "100 headers"),
    "nothing but prefaces": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), TOO_MUCH),
    "a packed body without an end": (bomb(), TOO_MUCH),
    "a body in drops": (trickle(HEAD + b"content-length: 9999\r\n\r\n", b"x"), TOO_LONG),
    "a header in drops": (trickle(HEAD, b"a: b\r\n"), TOO_LONG),
    "a way to credentials": (
        saying(b"HTTP/1.1 307 T\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"),
        "it answered 307, a redirection, which is not followed",
    ),
    "come again tomorrow": (saying(b"HTTP/1.1 429 T\r\nretry-after: 86400\r\ncontent-length: 0\r\n\r\n"), "429"),
}


def test_whatever_it_does(tmp_path: Path) -> None:
    with Crooked(GOOD) as server, simulate("vllm", "m") as calm:
        tracing = {"endpoint": f"http://127.0.0.1:{server.port}", "timeout": "200ms"}
        gateway = serve("-c", written(tmp_path, pool(CALM, [calm]), settings(tracing=tracing)))
        gateway._environment = {"OTEL_BSP_SCHEDULE_DELAY": "20"}
        with gateway, unharmed(gateway, spare=2):  # the connection that is kept
            for name, (way, why) in WAYS.items():
                _lost(gateway, server, way, name, why)


def _lost(gateway: InferGateway, server: Crooked, way: Way, name: str, why: str) -> None:
    resident, told, before = _resident_mib(gateway), len(gateway.stderr), server.taken
    server.then(way)

    def since(wanted: str) -> Callable[[], bool]:
        def said() -> bool:
            _ask(gateway)
            return wanted in gateway.stderr[told:]

        return said

    assert eventually(since("traces cannot be sent")), name
    line = next(each for each in gateway.stderr[told:].splitlines() if "traces cannot be sent" in each)
    assert re.search(why, line), (name, line)
    assert len(line) < 2000, name
    assert server.taken > before, name
    assert _resident_mib(gateway) - resident < MOST_MIB, name
    server.go(GOOD)
    assert eventually(since("traces are sent again")), name


def _ask(gateway: InferGateway) -> None:
    body = {"model": CALM, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    answer = raw.exchange(gateway.address, raw.post(CHAT, body, "connection: close"))
    assert answer is not None
    assert answer.status == 200


def _resident_mib(gateway: InferGateway) -> int:
    page = httpx.get(f"http://{gateway.ready['admin']}/metrics", timeout=30.0).text
    line = next(each for each in page.splitlines() if each.startswith("process_resident_memory_bytes "))
    return int(float(line.split()[1])) >> 20
