"""More than there is room for: connections, bytes, descriptors, requests. What is too much is refused at once and in
order, and what was let in is served.
"""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.stage import CALM, held, unharmed
from tests.process import ANY_PORT, InferGateway, Program, eventually, run, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import CHAT, admin, endpoints, pool, settings, written

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 500, "stream": True}
SHORT = {**ASK, "max_tokens": 2, "stream": False}
CONNECTIONS = 24
MEMORY = 2 << 20
DESCRIPTORS = 200
LIMITED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS // 2}, {DESCRIPTORS}))
from gateway.cli import main
sys.exit(main())
"""


class Confined(InferGateway):
    """`infer-gateway serve` in a process that may open few descriptors."""

    def __init__(self, *arguments: str) -> None:
        Program.__init__(self, "-c", LIMITED, "serve", *ANY_PORT, *arguments)


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[InferGateway, InferGateway]]:
    slow = simulate("vllm", "m", "--itl", "0.05", "--max-running", "256")
    calm = simulate("vllm", "m")
    with together(slow, calm):
        yield slow, calm


@pytest.fixture(scope="module")
def narrow(
    engines: tuple[InferGateway, InferGateway], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InferGateway]:
    """Few connections, few bytes."""
    slow, calm = engines
    limits = settings(listeners={"http": {"maxConnections": CONNECTIONS}, "maxBufferedBytes": MEMORY})
    config = written(tmp_path_factory.mktemp("narrow"), limits, pool("m", [slow]), pool(CALM, [calm]))
    with serve("-c", config) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def confined(engines: tuple[InferGateway, InferGateway]) -> Iterator[InferGateway]:
    with Confined("--backend", f"vllm={engines[0].url}") as gateway:
        yield gateway


def sample(gateway: InferGateway, name: str) -> float:
    answer = raw.exchange(admin(gateway), raw.get("/metrics", "connection: close"))
    assert answer is not None
    found = re.search(rf"^{re.escape(name)} (\S+)$", answer.body.decode(), re.MULTILINE)
    assert found, name
    return float(found[1])


def shed(gateway: InferGateway, why: str) -> float:
    return sample(gateway, f'infer_gateway_shed_total{{why="{why}"}}')


def overloaded(answer: raw.Answer | None) -> bool:
    assert answer is not None
    assert answer.whole
    return (
        answer.status == 503
        and json.loads(answer.body)["error"]["code"] == "overloaded"
        and int(answer.headers["retry-after"]) >= 1
    )


def head(size: int) -> bytes:
    """Of a request whose body has so many bytes."""
    return raw.post(CHAT, b"x" * size)[:-size]


def test_bytes_in_all_are_bounded_and_a_body_too_many_is_refused_before_it_is_read(narrow: InferGateway) -> None:
    size, before = 700 * 1024, shed(narrow, "bytes")
    with ExitStack() as stack, unharmed(narrow, clients=0):
        with ExitStack() as uploads:
            for _ in range(2):
                slow = uploads.enter_context(raw.connect(narrow.address))
                slow.sendall(head(size) + b" " * (size - 1000))
            assert eventually(lambda: held(narrow)["buffered_bytes"] > 2 * size - 4000)
            declared = stack.enter_context(raw.connect(narrow.address))
            declared.sendall(head(size))
            with raw.Reader(declared) as reader:
                assert overloaded(reader.answer())
            chunked = stack.enter_context(raw.connect(narrow.address))
            chunked.sendall(head(1).replace(b"content-length: 1", b"transfer-encoding: chunked"))
            piece = b"%x\r\n%b\r\n" % (65536, b" " * 65536)
            with raw.Reader(chunked) as reader:
                for _ in range(8):
                    try:
                        chunked.sendall(piece)
                    except OSError:
                        break
                assert overloaded(reader.answer())
            assert held(narrow)["buffered_bytes"] <= MEMORY
        assert eventually(lambda: held(narrow)["buffered_bytes"] < size)
        with raw.connect(narrow.address) as again, raw.Reader(again) as reader:
            again.sendall(raw.post(CHAT, {**SHORT, "messages": [{"role": "user", "content": "long " * 60_000}]}))
            assert reader.answer().status in (200, 400)
    assert shed(narrow, "bytes") == before + 2


def test_a_connection_too_many_is_told_so_and_those_there_are_go_on(narrow: InferGateway) -> None:
    with unharmed(narrow, bystander=False, clients=0), ExitStack() as stack:
        first = stack.enter_context(raw.connect(narrow.address))
        reader = stack.enter_context(raw.Reader(first))
        others = [stack.enter_context(raw.connect(narrow.address)) for _ in range(2 * CONNECTIONS)]
        refused = 0
        for other in others[CONNECTIONS:]:
            with raw.Reader(other) as told:
                refused += overloaded(told.answer())
        assert refused == CONNECTIONS
        assert held(narrow)["connections"]["http"] == CONNECTIONS
        first.sendall(raw.post(CHAT, SHORT))
        assert reader.answer().status == 200
    assert shed(narrow, "connections") >= CONNECTIONS


def test_clients_are_turned_away_before_descriptors_run_out(confined: InferGateway) -> None:
    assert sample(confined, "process_max_fds") == DESCRIPTORS
    assert confined.stderr.count("descriptors may be open") == 1
    with unharmed(confined, bystander=False), ExitStack() as stack:
        first = stack.enter_context(raw.connect(confined.address))
        reader = stack.enter_context(raw.Reader(first))
        for name in ("http", "grpc"):
            host, _, port = confined.ready[name].rpartition(":")
            for _ in range(DESCRIPTORS):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=raw.DEADLINE_S))
        assert eventually(lambda: shed(confined, "descriptors") > DESCRIPTORS)
        assert held(confined)["descriptors"] < DESCRIPTORS - 20
        answer = raw.exchange(admin(confined), raw.get("/healthz", "connection: close"))
        assert answer is not None
        assert answer.status == 200
        first.sendall(raw.post(CHAT, SHORT))
        assert reader.answer().status == 200
    assert "cannot accept" not in confined.stderr


def test_engines_are_not_blamed_where_descriptors_are_what_is_missing(confined: InferGateway) -> None:
    """Each stream takes two: those for which there is none are refused."""
    before = shed(confined, "descriptors")
    with unharmed(confined, bystander=False), ExitStack() as stack:
        clients = [stack.enter_context(raw.connect(confined.address)) for _ in range(100)]
        assert eventually(lambda: held(confined)["connections"]["http"] == len(clients))
        for client in clients:
            client.sendall(raw.post(CHAT, ASK))
        streams = [stack.enter_context(raw.Reader(client)) for client in clients]
        statuses = [reader.head() for reader in streams]
        told = {found[0] for found in statuses if found is not None}
        assert told == {200, 503}
        assert all(seen["state"] == "ready" for seen in endpoints(confined).values()), endpoints(confined)
    assert shed(confined, "descriptors") == before, "all were let in, and then there was none for the engine"
    assert raw.exchange(confined.address, raw.post(CHAT, SHORT, "connection: close")).status == 200
    assert "set aside" not in confined.stderr
    assert "does not answer" not in confined.stderr


def test_ten_times_what_engines_can_do_is_refused_quickly_and_the_rest_served(tmp_path: Path) -> None:
    """Two slots and a tenth of a second an answer: 20 requests a second."""
    slow, calm = simulate("vllm", "m", "--itl", "0.01", "--max-running", "2"), simulate("vllm", "m")
    with together(slow, calm):
        patience = settings(fairness={"enabled": True, "queueTimeout": "300ms"})
        config = written(tmp_path, patience, pool("m", [slow]), pool(CALM, [calm]))
        report = tmp_path / "report.json"
        with serve("-c", config) as gateway:
            with unharmed(gateway):
                load = ("--rate", "200", "--duration", "2", "--max-tokens", "10", "--prompt-tokens", "8", "--seed", "1")
                url = ("--url", gateway.url, "--model", "m", "--allow-errors", "--json", str(report), "--no-progress")
                assert run("bench", *url, *load).returncode == 0
            measured = json.loads(report.read_text())
    assert set(measured["statuses"]) == {"200", "503"}
    assert measured["errors"] == {"http_503": measured["statuses"]["503"]}
    assert 15 <= measured["statuses"]["200"] < 200, measured


def asking(gateway: InferGateway, body: object, times: int) -> list[int]:
    """The statuses of so many whole answers, asked for without waiting for any."""
    with raw.connect(gateway.address) as connection, raw.Reader(connection) as reader:
        connection.sendall(raw.post(CHAT, body) * times)
        answers = [reader.answer() for _ in range(times)]
    assert all(answer.whole for answer in answers)
    return [answer.status for answer in answers]


def test_a_core_that_is_full_sheds_some_and_serves_the_rest_whole(
    engines: tuple[InferGateway, InferGateway], tmp_path: Path
) -> None:
    """Turns of a third of a millisecond are long while many ask for what is long to read, never while few do."""
    slow, calm = engines
    eager = written(tmp_path, settings(listeners={"maxLateness": "1ms"}), pool("m", [slow]), pool(CALM, [calm]))
    long = {"model": "nobody's", "messages": [{"role": "user", "content": "hi"}] * 4000}
    with serve("-c", eager) as gateway, unharmed(gateway, bystander=False), ThreadPoolExecutor(16) as threads:
        told = Counter(
            status for statuses in threads.map(asking, [gateway] * 16, [long] * 16, [60] * 16) for status in statuses
        )
        assert set(told) == {404, 503}
        assert shed(gateway, "late") == told[503]
    with serve("--backend", f"vllm={slow.url}") as gateway:
        assert set(asking(gateway, SHORT, 10)) == {200}
        assert shed(gateway, "late") == 0
