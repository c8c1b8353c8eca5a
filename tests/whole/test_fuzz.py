"""Random and mutated bytes against the listener of a running gateway, for a bounded time.

Every connection gets well-formed HTTP or is closed, none hangs, and the gateway serves on. The seed is fixed; how
far a run gets depends on the machine.
"""

from __future__ import annotations

import io
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.process import InferGateway
from tests.whole import raw

SEED = 1
SECONDS = 8.0
WORKERS = 12
SILENCE_S = 0.15
ASK = {"model": "demo-openai", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"GET ", b"POST ",
    b"content-length: ", b"transfer-encoding: chunked\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1", b"+5",
    b"expect: 100-continue\r\n", b"connection: close\r\n", b"connection: upgrade\r\nupgrade: h2c\r\n", b"\x80\xff",
    b"{", b"}", b"[" * 300, b'"', b"\\ud800", b"1e999", b"null", b"a" * 9000, b"host: \r\n", b"../" * 20, b";ext=1",
    b"PRI * ", b"0x10", b"%00",
)  # fmt: skip


def templates() -> list[bytes]:
    """Good requests to start from."""
    chunked = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    body = json.dumps(ASK).encode()
    return [
        raw.get("/v1/models"),
        raw.get("/healthz", "connection: close"),
        raw.post("/v1/chat/completions", ASK),
        raw.post("/v1/chat/completions", {**ASK, "stream": True}),
        raw.post("/v1/completions", {"model": "demo-openai", "prompt": "x", "max_tokens": 1}, "expect: 100-continue"),
        chunked.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        raw.get("/v1/models") * 3,
    ]


def insert(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = chance.choice(TOKENS)


def replace(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    data[at : at + chance.randrange(1, 8)] = chance.choice(TOKENS)


def remove(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    del data[at : at + chance.randrange(1, 40)]


def flip(data: bytearray, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def repeat(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = data[at : at + 60] * chance.randrange(1, 5)


def truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data) + 1) :]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (insert, replace, remove, flip, repeat, truncate)


def attack(chance: random.Random) -> list[bytes]:
    """What one connection sends, in pieces."""
    if chance.random() < 0.1:
        data = bytearray(chance.randbytes(chance.randrange(1, 3000)))
    else:
        data = bytearray(chance.choice(templates()))
        for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
            chance.choice(MUTATIONS)(data, chance)
    cut = chance.randrange(len(data) + 1)
    return [bytes(data[:cut]), bytes(data[cut:])] if chance.random() < 0.5 else [bytes(data)]


def received(connection: socket.socket, pieces: list[bytes]) -> bytes:
    """All that the peer answers. After a silence the sending side is closed, upon which the peer has to close too."""
    data = b""
    try:
        for piece in pieces:
            connection.sendall(piece)
        connection.settimeout(SILENCE_S)
        while chunk := connection.recv(65536):
            data += chunk
    except TimeoutError:
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(raw.DEADLINE_S)
        while chunk := connection.recv(65536):  # TimeoutError here is a hang
            data += chunk
    except (BrokenPipeError, ConnectionResetError):
        pass
    return data


def answers(data: bytes) -> list[raw.Answer]:
    """Asserts that ``data`` is nothing but answers, the last of which may be broken off."""
    found = []
    with raw.Reader(io.BytesIO(data)) as reader:
        while (answer := reader.answer()) is not None:
            found.append(answer)
    assert all(answer.whole for answer in found[:-1])
    return found


def worker(gateway: InferGateway, chance: random.Random) -> list[raw.Answer]:
    """One connection after another until the time is over."""
    found = []
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        pieces = attack(chance)
        with raw.connect(gateway.address) as connection:
            try:
                found += answers(received(connection, pieces))
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(f"{error!r} after {pieces!r}") from error
    return found


def test_the_listener_survives_anything(fleet: InferGateway) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        runs = [pool.submit(worker, fleet, random.Random(SEED + number)) for number in range(WORKERS)]
        statuses = Counter(answer.status for run in runs for answer in run.result())
    assert fleet.process is not None
    assert fleet.process.poll() is None
    assert "Traceback" not in fleet.stderr
    assert 500 not in statuses
    assert statuses[200] > 20 < statuses[400], statuses
    good = raw.exchange(fleet.address, raw.post("/v1/chat/completions", ASK))
    assert good is not None
    assert good.status == 200
