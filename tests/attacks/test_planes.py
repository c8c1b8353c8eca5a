"""What a header field may carry from one side to the other, and that each listener answers for itself alone."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.attacks.witness import Witness, framed, said, witness
from tests.faults.stage import CALM, admin, unharmed
from tests.process import InferGateway, eventually, serve, simulate
from tests.whole import raw
from tests.whole.fleet import CHAT, fetch, settings, written

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
KNOWN = {"host", "via", "content-type", "accept-encoding", "user-agent", "accept", "x-request-id", "content-length",
         "traceparent", "tracestate"}  # fmt: skip
HOSTILE = ("a b", "a\tb", '"', "a;b", "é", "\x80", "%0d%0ax: y", "x" * 5000, "../..", "${x}")
FIELDS = ("x-request-id", "traceparent", "tracestate", "x-session-id", "user", "cookie", "authorization", "x-model",
          "x-gateway-model-name", "x-forwarded-for", "x-upstream", "connection", "te", "forwarded")  # fmt: skip
PRIVATE = ("/metrics", "/api/endpoints", "/api/config", "/debug/statistics", "/debug/profile", "/debug/tasks", "/login")


@pytest.fixture(scope="module")
def engine() -> Iterator[Witness]:
    with witness() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: Witness, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    limits = {"http": {"maxConnections": 120, "headerTimeout": "1s"}}
    file = written(tmp_path_factory.mktemp("planes"), settings(listeners=limits))
    with (
        simulate("vllm", CALM) as calm,
        serve("-c", file, "--backend", f"vllm={engine.url}", "--backend", f"vllm={calm.url}") as running,
    ):
        assert eventually(lambda: len(fetch(running.address, "/v1/models")["data"]) == 2)
        yield running


def test_clients_write_no_fields_of_their_own_upstream(gateway: InferGateway, engine: Witness) -> None:
    engine.forget()
    with raw.connect(gateway.address) as connection, raw.Reader(connection) as reader:
        for name in FIELDS:
            for value in HOSTILE:
                body = json.dumps({**ASK, "user": value + "\r\nx-evil: 1"}).encode()
                head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{name}: {value}\r\n\r\n"
                connection.sendall(head.encode("latin-1") + body)
                answer = reader.answer()
                assert answer is not None, (name, value)
                assert answer.status == 200, (name, value, answer)
    for asked in engine.asked:
        assert {name for name, _ in asked.fields} <= KNOWN, asked.head
        assert asked.path == CHAT
        assert all(character.isalnum() or character in "._:-" for character in asked.values("x-request-id")[0])


def test_engines_write_no_fields_of_their_own_to_clients(gateway: InferGateway, engine: Witness) -> None:
    engine.forget()
    fields = ("Set-Cookie: a=b", "Connection: x-request-id, content-type", "Location: http://evil", "Server: evil",
              "X-Request-Id: evil", "Transfer-Encoding-X: y", "Keep-Alive: timeout=9", "Via: 1.1 evil",
              "Alt-Svc: clear", "Access-Control-Allow-Origin: *", "X-Accel-Redirect: /etc")  # fmt: skip
    for status in (200, 400, 307):
        engine.answer = lambda _, status=status: framed(said(), *fields, status=status)
        answer = raw.exchange(gateway.address, raw.post(CHAT, ASK, "x-request-id: mine", "connection: close"))
        assert answer is not None
        assert answer.headers["x-request-id"] == "mine"
        ours = {"x-request-id", "content-type", "content-length", "date", "connection", "x-should-retry"}
        assert answer.headers.keys() <= ours, answer


def test_the_admin_plane_is_at_its_own_address_alone(gateway: InferGateway) -> None:
    there = gateway.ready["admin"]
    for path in PRIVATE:
        for target, host in ((path, there), (f"http://{there}{path}", there), (f"/{path}", "localhost")):
            request = f"GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode()
            answer = raw.exchange(gateway.address, request)
            assert answer is not None
            assert answer.status == 404, (target, answer)
    for target in (CHAT, "/v1/models"):
        answer = raw.exchange(admin(gateway), raw.post(target, ASK, "connection: close"))
        assert answer is not None
        assert answer.status in (404, 405), answer
    for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example"):
        request = f"GET /api/config HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n".encode()
        answer = raw.exchange(admin(gateway), request)
        assert answer is not None
        assert answer.status == 421, answer


def test_connections_that_trickle_are_ended_while_others_are_served(gateway: InferGateway) -> None:
    """As many as there is room for but a few, each of which sends a byte now and then."""
    begun = [b"G", b"POST ", b"POST / HTTP/1.1\r\nhost: x\r\nx: ", b"GET / HTTP/1.1\r\n", b"\r\n", b"\r\n\r\nP"]
    with unharmed(gateway), ExitStack() as stack:
        slow = [stack.enter_context(raw.connect(gateway.address)) for _ in range(100)]
        for number, connection in enumerate(slow):
            connection.sendall(begun[number % len(begun)])
            connection.settimeout(0.0)

        def trickle() -> bool:
            over = [ended(connection) for number, connection in enumerate(slow) if number % len(begun) != 4]
            return all(over)

        assert eventually(trickle, 8.0)


def ended(connection: socket.socket) -> bool:
    """Whether it has been answered or closed; else another byte of its header is sent."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        connection.send(b"x")
        return False
    except ConnectionError:
        pass
    return True
