"""Where a request ends, and where an answer does, is told once: to the gateway, to nginx before it, to engines."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from tests.attacks.corpora import Attack, attacks
from tests.attacks.nginx import needs_nginx, nginx
from tests.attacks.witness import Asked, Witness, framed, polite, said, witness
from tests.process import InferGateway, eventually, serve
from tests.whole import raw
from tests.whole.fleet import CHAT, fetch

Address = tuple[str, int]
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
BODY = json.dumps({**ASK, "user": "somebody"}).encode().ljust(0x6A)
HIDDEN = raw.post(CHAT, ASK, "x-request-id: smuggled")
MARKER = raw.post(CHAT, ASK, "x-request-id: marker")
IN_REQUESTS = {
    "CHAT": f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nx-request-id: attack\r\n".encode(),
    "BODY": BODY,
    "HIDDEN": HIDDEN,
    "SIZE": b"%d" % len(HIDDEN),
    "HEXSIZE": b"%x" % len(HIDDEN),
    "NINES": b"9" * 1000,
    "MANY": b"\r\n".join(b"x-%d: %b" % (number, b"y" * 30) for number in range(3000)),
    "LONG": b"x" * 70_000,
}
REQUESTS = attacks("requests.txt", IN_REQUESTS)
WHOLE = said("hello")
IN_RESPONSES = {
    "JSON": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n",
    "WHOLE": WHOLE,
    "SIZE": b"%d" % len(WHOLE),
    "HEXSIZE": b"%x" % len(WHOLE),
    "EVIL": framed(said("evil")),
    "FLOOD": b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n" * 30_000,
    "LONG": b"x" * 2_000_000,
}
RESPONSES = attacks("responses.txt", IN_RESPONSES)
HALF = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) ")


@pytest.fixture(scope="module")
def engine() -> Iterator[Witness]:
    with witness() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: Witness) -> Iterator[InferGateway]:
    with serve("--backend", f"vllm={engine.url}") as running:
        assert eventually(lambda: bool(fetch(running.address, "/v1/models")["data"]))
        yield running


@pytest.fixture(scope="module")
def doors(gateway: InferGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Address], Path]]:
    directory = tmp_path_factory.mktemp("nginx")
    with nginx(directory, gateway.ready["http"]) as running:
        yield running


def ids(engine: Witness) -> list[str]:
    """Of all that came; "-" for one that its client gave none."""
    given = (" ".join(asked.values("x-request-id")) for asked in engine.asked)
    return ["-" if id.startswith("req-") else id for id in given]


def heard(connection: socket.socket, until: bytes = b"", within_s: float = raw.DEADLINE_S) -> tuple[bytes, bool]:
    """What comes until those bytes do, or the end; whether it ended."""
    received = b""
    connection.settimeout(within_s)
    with suppress(TimeoutError, ConnectionError):
        while not until or until not in received:
            data = connection.recv(65536)
            if not data:
                return received, True
            received += data
        return received, False
    return received, False


@pytest.mark.parametrize("attack", REQUESTS, ids=[attack.name for attack in REQUESTS])
def test_the_gateway_alone(attack: Attack, gateway: InferGateway, engine: Witness) -> None:
    engine.forget()
    with raw.connect(gateway.address) as connection:
        more = MARKER if attack.verdict == "one" else b""
        with suppress(ConnectionError):
            connection.sendall(attack.data + more)
        received, ended = heard(connection, b'"marker"' if more else b"")
    statuses = [int(status) for status in HALF.findall(received)]
    assert "smuggled" not in ids(engine), received
    if attack.verdict == "refused":
        assert (len(statuses), ended, engine.asked) == (1, True, []), received
        assert statuses[0] in (400, 405, 413, 417, 431, 501, 505), received
    elif attack.verdict == "one":
        assert (len(statuses), ids(engine)[-1:], ended) == (2, ["marker"], False), received
    else:
        assert (statuses, ended) == ([200], True), received


@needs_nginx
def test_nginx_before_it(doors: tuple[list[Address], Path], engine: Witness) -> None:
    """Whatever arrives at the engine, nginx knows of; and what it is asked next is answered to whoever asked."""
    addresses, log = doors
    poisoned = []
    engine.forget()
    before = Counter(log.read_text().split("\n"))

    def accounted_for() -> bool:
        return Counter(ids(engine)) <= Counter(log.read_text().split("\n")) - before

    for number, (attack, door) in enumerate(product(REQUESTS, addresses)):
        mine = f"next-{number}"
        with raw.connect(door) as connection:
            with suppress(ConnectionError):
                connection.sendall(attack.data)
            heard(connection, b"HTTP/1.1", 0.05)
            answer = raw.exchange(door, raw.post(CHAT, ASK, f"x-request-id: {mine}", "connection: close"))
        if answer is None or mine.encode() not in answer.body or not eventually(accounted_for):
            poisoned.append((attack.name, door, answer, ids(engine)[-3:]))
    assert not poisoned


@pytest.mark.parametrize("attack", RESPONSES, ids=[attack.name for attack in RESPONSES])
def test_engines_that_say_more_than_they_were_asked(attack: Attack, gateway: InferGateway, engine: Witness) -> None:
    """What an engine says beyond its answer is nobody's answer; where it is not plain, nobody is answered with it."""
    engine.forget()

    def evil(asked: Asked) -> bytes:
        return attack.data if asked.values("x-request-id") == ["first"] else polite(asked)

    engine.answer = evil
    with raw.connect(gateway.address) as connection, raw.Reader(connection) as reader:
        connection.sendall(raw.post(CHAT, ASK, "x-request-id: first"))
        first = reader.answer()
        connection.sendall(raw.post(CHAT, ASK, "x-request-id: second"))
        second = reader.answer()
    assert first is not None
    assert second is not None
    assert b"evil" not in first.body
    assert (second.status, b'"second"' in second.body) == (200, True), second
    if attack.verdict == "failed":
        assert first.status >= 500, first
    else:
        assert (first.status, b'"hello"' in first.body) == (200, True), first
    by = {" ".join(asked.values("x-request-id")): asked.connection for asked in engine.asked}
    assert (by["first"] == by["second"]) is (attack.verdict == "kept")
