"""Clients that leave, vanish, stall and talk nonsense, over HTTP and HTTPS: each costs what it holds, for a bounded
time, and nobody else anything.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from tests.faults.peers import deafen, needs_filters, reset
from tests.faults.stage import CALM, held, unharmed
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import CHAT, pool, settings, state, written

PATIENCE_S = 1.0
"""For clients that do not read, as configured."""
MUTE_S = 0.7
"""For those that do not speak."""
NOTICED_S = 3.0
"""Ten times what it takes to notice one that hangs up: the machine may be busy."""
TIMES: dict[str, Any] = {"timeouts": {"clientWrite": f"{PATIENCE_S}s", "connect": "30s"}}
PHASES = ("connecting", "before the first token", "streaming", "unstreamed", "queued", "uploading", "idle")


class Stage(NamedTuple):
    """``context``: of who speaks to the gateway, where that is not plain. ``engines``: by the model."""

    gateway: InferGateway
    context: ssl.SSLContext | None
    engines: dict[str, InferGateway]

    def dial(self, **options: int) -> socket.socket:
        plain = socket.socket()
        for name, value in options.items():
            plain.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        plain.settimeout(raw.DEADLINE_S)
        plain.connect(self.gateway.address)
        if self.context is None:
            return plain
        return self.context.wrap_socket(plain, server_hostname="localhost")

    def unharmed(self, **options: Any) -> AbstractContextManager[None]:
        return unharmed(self.gateway, dial=self.dial, spare=1, **options)

    def running(self) -> int:
        """Requests that engines work for, or keep waiting, by their own account."""
        told = [state(engine) for name, engine in self.engines.items() if name != CALM]
        return sum(each["running"] + each["waiting"] for each in told)

    def freed(self) -> bool:
        return eventually(lambda: not self.running(), within_s=NOTICED_S)


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, InferGateway]]:
    size = ("--max-model-len", "1000000", "--kv-blocks", "100000")
    found = {
        CALM: simulate("vllm", "m"),
        "slow": simulate("vllm", "m", "--ttft", "0.3", "--itl", "0.05"),
        "narrow": simulate("vllm", "m", "--ttft", "0.01", "--itl", "0.5", "--max-running", "1"),
        "crowded": simulate("vllm", "m", "--itl", "1", *size),
        "quick": simulate("vllm", "m", "--itl", "0", *size),
    }
    with together(*found.values()):
        yield found


@pytest.fixture(scope="module")
def far() -> Iterator[str]:
    """Where no connection is refused, and none comes to stand."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        deafen(listening)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(scope="module")
def plain(engines: dict[str, InferGateway], far: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(engines, far, tmp_path_factory.mktemp("http"), tls=False) as stage:
        yield stage


@pytest.fixture(scope="module")
def secure(engines: dict[str, InferGateway], far: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(engines, far, tmp_path_factory.mktemp("https"), tls=True) as stage:
        yield stage


@pytest.fixture(params=["plain", "secure"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """Where TLS makes a difference."""
    found: Stage = request.getfixturevalue(request.param)
    return found


@contextmanager
def staged(engines: dict[str, InferGateway], far: str, directory: Path, *, tls: bool) -> Iterator[Stage]:
    listener: dict[str, Any] = {"headerTimeout": f"{MUTE_S}s", "idleTimeout": f"{MUTE_S}s"}
    context = None
    if tls:
        listener["tls"], context = certified(directory)
    servers = [pool(name, [engine]) for name, engine in engines.items()]
    config = written(
        directory,
        *servers,
        pool("far", [], endpoints=[far]),
        settings(listeners={"http": listener}, fairness={"enabled": True}, **TIMES),
    )
    with serve("-c", config) as gateway:
        yield Stage(gateway, context, engines)


def certified(directory: Path) -> tuple[dict[str, str], ssl.SSLContext]:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    issued.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return {"certFile": str(directory / "cert.pem"), "keyFile": str(directory / "key.pem")}, context


def ask(model: str, *, stream: bool = True, **more: object) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 500, "stream": stream}
    return raw.post(CHAT, {**body, **more})


def arrive(stage: Stage, phase: str, stack: ExitStack) -> list[socket.socket]:
    """Clients in that phase; for a queue, as many as it takes."""
    model = {"queued": "narrow", "connecting": "far"}.get(phase, "slow")
    request = ask(model, stream=phase != "unstreamed")
    clients: list[socket.socket] = []
    while not clients or (phase == "queued" and not held(stage.gateway)["queued"]):
        client = stack.enter_context(stage.dial())
        client.sendall(request[:-20] if phase == "uploading" else request if phase != "idle" else b"")
        clients.append(client)
    if phase == "streaming":
        received = b""
        while b"data: " not in received:
            received += client.recv(65536)
    elif phase == "connecting":
        assert eventually(lambda: held(stage.gateway)["placed"] > stage.running())
    elif phase not in ("queued", "uploading", "idle"):
        assert eventually(lambda: stage.running() > 0)
    return clients


def hang_up(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_RDWR)
    client.close()


def half_close(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("phase", PHASES)
def test_who_leaves_frees_what_was_done_for_it(stage: Stage, phase: str) -> None:
    for leave in (hang_up, half_close, reset):
        with ExitStack() as stack, stage.unharmed(clients=0, within_s=NOTICED_S):
            for client in arrive(stage, phase, stack):
                leave(client)
        assert stage.freed(), leave


@needs_filters
def test_who_vanishes_is_noticed_whether_it_is_sent_anything_or_not(plain: Stage) -> None:
    """Its connections stand; what it is sent is never acknowledged. It never speaks again."""
    with ExitStack() as stack, plain.unharmed(clients=0):
        for phase in PHASES:
            for client in arrive(plain, phase, stack):
                deafen(client)
        assert held(plain.gateway)["calls"] > 4


def test_who_does_not_read_is_cut(secure: Stage) -> None:
    """Over TLS, which has a buffer of its own. Of streams and whole answers, nothing or a byte now and then."""
    with ExitStack() as stack, secure.unharmed(clients=0):
        clients = [stack.enter_context(secure.dial(SO_RCVBUF=4096)) for _ in range(4)]
        for stream, client in zip((True, False, True, False), clients, strict=True):
            client.sendall(ask("quick", stream=stream, max_tokens=30_000 if stream else 100_000, ignore_eos=True))
        assert eventually(lambda: held(secure.gateway)["unsent_bytes"] > 0, within_s=30)
        most = 0

        def cut() -> bool:
            nonlocal most
            for client in clients[:2]:
                client.setblocking(False)
                with suppress(OSError):
                    client.recv(1)
            found = held(secure.gateway)
            most = max(most, found["unsent_bytes"])
            return bool(found["connections"]["http"] <= 1)  # the bystander's

        assert eventually(cut, within_s=10 * PATIENCE_S)
    assert most < 4 << 20, "what nobody reads is not gathered"


def test_who_writes_slowly_is_served_if_it_comes_to_an_end(plain: Stage) -> None:
    with plain.unharmed():
        for piece in (3, 40):
            request = ask(CALM, max_tokens=2)
            head, _, body = request.partition(b"\r\n\r\n")
            with plain.dial() as client, raw.Reader(client) as reader:
                client.sendall(head + b"\r\n\r\n")
                for at in range(0, len(body), piece):
                    client.sendall(body[at : at + piece])
                    time.sleep(0.001)
                answer = reader.answer()
                assert answer is not None
                assert answer.status == 200
                assert raw.events(answer.body)[-1] == "[DONE]"
                # the same again, in chunks of a byte
                chunked = head.replace(b"content-length: %d" % len(body), b"transfer-encoding: chunked")
                client.sendall(chunked + b"\r\n\r\n")
                for at in range(len(body)):
                    client.sendall(b"1\r\n%b\r\n" % body[at : at + 1])
                client.sendall(b"0\r\n\r\n")
                answer = reader.answer()
                assert answer is not None
                assert answer.status == 200


def test_who_never_ends_a_header_is_told_and_closed(plain: Stage) -> None:
    with plain.unharmed(clients=0), plain.dial() as client, raw.Reader(client) as reader:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        for _ in range(200):
            time.sleep(0.02)
            try:
                client.sendall(b"x-a: b\r\n")
            except OSError:
                break
        else:
            pytest.fail("it was let write on")
        answer = reader.answer()
        assert answer is not None
        assert answer.status == 408
        assert json.loads(answer.body)["error"]["code"] == "request_timeout"


def test_who_says_nothing_is_closed(stage: Stage) -> None:
    with stage.unharmed(clients=0):
        with socket.create_connection(stage.gateway.address, timeout=raw.DEADLINE_S) as mute:
            assert mute.recv(1) == b""
        if stage.context is not None:
            with socket.create_connection(stage.gateway.address, timeout=raw.DEADLINE_S) as half:
                half.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # a greeting's first bytes
                assert half.recv(1) == b""


GREETING = bytes.fromhex("16030100f8010000f40303") + bytes(256)
"""How TLS begins."""


@pytest.mark.parametrize(
    "said",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        GREETING,
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\0" * 70_000,
        b"SSH-2.0-x\r\n",
    ],
    ids=["HTTP/2", "TLS", "HTTP", "zeros", "SSH"],
)
def test_who_speaks_something_else_is_told_or_closed(stage: Stage, said: bytes) -> None:
    """On a plain port an HTTP answer; on one with TLS what TLS has for it."""
    reach = partial(socket.create_connection, stage.gateway.address, raw.DEADLINE_S)
    with stage.unharmed(clients=0), reach() as client:
        received = b""
        with suppress(ConnectionError):
            client.sendall(said)
            with suppress(OSError):  # one that was reset has no end to send (ENOTCONN)
                client.shutdown(socket.SHUT_WR)
            while data := client.recv(65536):
                received += data
        if stage.context is not None:
            assert received[:1] in (b"", b"\x15"), received  # an alert
        elif received:
            assert received.startswith(b"HTTP/1.1 4"), received


def test_who_asks_ahead_and_leaves(stage: Stage) -> None:
    with stage.unharmed(clients=0, within_s=NOTICED_S):
        for leave in (hang_up, half_close, reset):
            with stage.dial() as client:
                client.sendall(ask("slow") * 3 + ask("slow", stream=False) * 3)
                assert eventually(lambda: stage.running() == 1)
                leave(client)
    assert stage.freed()


def test_a_crowd_leaves_at_once(stage: Stage) -> None:
    """Some in mid-stream, some before the first token, some in the queue."""
    count = 1000 if stage.context is None else 100
    with ExitStack() as stack, stage.unharmed(clients=0, within_s=2 * NOTICED_S):
        crowd = []
        for _ in range(count):
            crowd.append(stack.enter_context(stage.dial()))
            crowd[-1].sendall(ask("crowded"))
        assert eventually(lambda: held(stage.gateway)["calls"] >= count, within_s=30)
        for client in crowd:
            reset(client)
        assert eventually(lambda: held(stage.gateway)["calls"] <= 1, within_s=2 * NOTICED_S)
    assert stage.freed()
