"""Engines as processes: every fault of the simulators by every protocol, killed, stopped and continued; and such as
cannot be reached: a full backlog, a broken handshake, a name without an address.
"""

from __future__ import annotations

import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from tests.faults.clients import PROTOCOLS, Outcome, means
from tests.faults.engines import acting, breaking, refusing
from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import Tally, pool, settings, state, written

SETTINGS = settings(
    timeouts={"betweenTokens": "500ms", "connect": "20s", "firstToken": "600ms"},
    retry={"attempts": 3, "budget": 1},
    health={"consecutiveFailures": 100000, "ejection": {"maxShare": 0}, "slowStart": 0, "hungAfter": 0},
)
BOTH = ("chat", "chat streamed", "grpc", "grpc streamed")
FAULTS = {
    "refuse": "upstream_error",
    "503": "overloaded",
    "500": "upstream_error",
    "hang": "upstream_timeout",
    "slow:5": "upstream_timeout",
    "stall:2": "upstream_timeout",
    "cut:2": "upstream_error",
    "cut:0": "upstream_error",
    "error-event:0": "upstream_error",
    "error-event:2": "upstream_error",
    "rubbish": "upstream_error",
    "rubbish:sse": "upstream_error",
    "rubbish:http": "upstream_error",
}
KINDS = {"vllm": "vLLM", "tgi": "TGI", "anthropic": "anthropic"}
"""One whose answers pass, one whose answers are mended, one whose answers are put into other words."""


class Stage:
    """A gateway, and the engines whose names are models."""

    def __init__(self, gateway: InferGateway, engines: dict[str, InferGateway]) -> None:
        self.gateway = gateway
        self.engines = engines


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    engines = {name: simulate(name, "m") for name in KINDS}
    engines |= {name: simulate("vllm", "m", "--itl", "0.01") for name in ("one", "two")}
    calm = simulate("vllm", CALM)
    with together(calm, *engines.values()):
        file = written(
            tmp_path_factory.mktemp("processes"),
            pool(CALM, [calm], model=CALM, trafficPolicy={"timeout": "20s"}),
            *(pool(name, [engines[name]], kind=kind) for name, kind in KINDS.items()),
            pool("pair", [engines["one"], engines["two"]]),
            SETTINGS,
        )
        with serve("-c", file) as gateway:
            yield Stage(gateway, engines)


def failing(engine: InferGateway, *specs: str) -> None:
    answer = raw.exchange(engine.address, raw.post("/sim/fail", {"fail": specs}, "connection: close"))
    assert answer is not None
    assert answer.status == 200


@pytest.mark.parametrize("engine", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_by_each_protocol(stage: Stage, engine: str, fault: str) -> None:
    outcomes: dict[str, Outcome] = {}

    def ask(protocol: str) -> None:
        outcomes[protocol] = PROTOCOLS[protocol](stage.gateway, engine)

    failing(stage.engines[engine], fault)
    with unharmed(stage.gateway), Tally([stage.engines[engine]]) as tally:
        threads = [threading.Thread(target=ask, args=(protocol,)) for protocol in PROTOCOLS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failing(stage.engines[engine])
    assert outcomes.keys() == PROTOCOLS.keys()
    assert sum(tally.counts) <= (2 if fault == "refuse" else 1) * len(PROTOCOLS)  # once more on a new connection
    for protocol, outcome in outcomes.items():
        late = fault == "rubbish:sse" and "streamed" not in protocol  # strikes streams alone
        assert late or outcome.kind in ("refused", "broken"), (protocol, outcome)
        assert late or outcome.code, (protocol, outcome)


@pytest.mark.parametrize("protocol", ["chat streamed", "grpc streamed", "chat", "grpc"])
def test_stopped_in_mid_answer_and_continued(stage: Stage, protocol: str) -> None:
    """What was under way is told as broken; who asks afterwards is served as soon as one is there again."""
    one, two = (stage.engines[name] for name in ("one", "two"))
    failing(one, "stall:2")
    failing(two, "stall:2")
    found: list[Outcome] = []
    with unharmed(stage.gateway):
        thread = threading.Thread(target=lambda: found.append(PROTOCOLS[protocol](stage.gateway, "pair")))
        thread.start()
        assert eventually(lambda: any(state(engine)["running"] for engine in (one, two)))
        with ExitStack() as stack:
            for engine in (one, two):
                engine.signal(signal.SIGSTOP)
                stack.callback(engine.signal, signal.SIGCONT)
            thread.join()
        failing(one)
        failing(two)
        assert found[0].kind in ("refused", "broken")
        assert means(found[0], "upstream_timeout")
        assert eventually(lambda: PROTOCOLS[protocol](stage.gateway, "pair").kind == "whole")


# -- out of reach -----------------------------------------------------------------------------------------------------


class Gate:
    """A listener that lets connections through to an engine while it is ``open``; else its backlog is full."""

    def __init__(self, to: tuple[str, int]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self._to = to
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.open = threading.Event()
        self.open.set()
        self._fillers: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def shut(self) -> None:
        """Nobody is let in any more, and the queue before the door is full."""
        self.open.clear()
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(self._listener.getsockname())
            self._fillers.append(filler)

    def close(self) -> None:
        self._listener.close()
        for filler in self._fillers:
            filler.close()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                if not self.open.wait(20.0):
                    return
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One request, one answer."""
        with suppress(OSError, ConnectionError), connection, socket.create_connection(self._to) as engine:
            engine.sendall(connection.recv(65536).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
            while data := engine.recv(65536):
                connection.sendall(data)


@contextmanager
def reached_by(gates: list[str], directory: Path, **spec: object) -> Iterator[InferGateway]:
    """A gateway whose model `m` is served by whatever is at these URLs."""
    with simulate("vllm", CALM) as calm:
        patient = {"timeout": "20s"}
        file = written(
            directory,
            pool(CALM, [calm], model=CALM, trafficPolicy=patient),
            pool("m", [], endpoints=gates, **spec),
            pool("both", [], endpoints=[*gates, calm.url], model=CALM, **{**spec, "trafficPolicy": patient}),
            SETTINGS,
        )
        with serve("-c", file) as gateway:
            yield gateway


def test_a_full_backlog_is_not_waited_for(tmp_path: Path) -> None:
    """Connecting ends when the first token is due, though it may take longer by itself."""
    with simulate("vllm", "m") as engine:
        gate = Gate(engine.address)
        try:
            with reached_by([gate.url], tmp_path, inferenceEngine="openai") as gateway:
                assert PROTOCOLS["chat"](gateway, "m").kind == "whole"
                gate.shut()
                with unharmed(gateway):
                    for protocol in BOTH:
                        outcome = PROTOCOLS[protocol](gateway, "m")
                        assert outcome.kind == "refused"
                        assert means(outcome, "upstream_timeout") or means(outcome, "no_endpoints"), outcome
                    gate.open.set()
        finally:
            gate.close()


HANDSHAKES: dict[str, Callable[[socket.socket], object]] = {
    "ends": lambda connection: None,
    "speaks plainly": lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "refuses": lambda connection: connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28"),
    "says half": lambda connection: connection.sendall(b"\x16\x03\x03\x40"),
    "is silent": lambda connection: connection.recv(1 << 20) and connection.recv(1),
    "babbles": lambda connection: connection.sendall(b"\x16\x03\x03\xff\xff" + bytes(1 << 20)),
}


@contextmanager
def secured(authority: trustme.CA, break_off: list[str]) -> Iterator[str]:
    """A port that does TLS as long as ``break_off`` names nothing else to do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_one(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(20.0)
            if break_off:
                HANDSHAKES[break_off[0]](connection)
                return
            with context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(65536)
                said = b'{"object":"list","data":[{"id":"m"}]}'
                head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(said)
                secure.sendall(head + said)

    def run() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve_one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    try:
        yield f"https://localhost:{listener.getsockname()[1]}"
    finally:
        listener.close()


def test_handshakes_that_break(tmp_path: Path) -> None:
    authority, how = trustme.CA(), list[str]()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    spec = {"caFile": str(tmp_path / "ca.pem"), "inferenceEngine": "openai"}
    with secured(authority, how) as url, reached_by([url], tmp_path, **spec) as gateway, unharmed(gateway):
        for kind in HANDSHAKES:
            how[:] = [kind]
            for protocol in ("chat", "grpc streamed"):
                outcome = PROTOCOLS[protocol](gateway, "m")
                assert outcome.kind == "refused", (kind, outcome)
                codes = ("upstream_error", "upstream_timeout", "no_endpoints")
                assert any(means(outcome, code) for code in codes), (kind, outcome)


def test_names_without_an_address_and_certificates_of_others(tmp_path: Path) -> None:
    with secured(trustme.CA(), []) as url:
        urls = [url, "http://nowhere.invalid:8000", "http://127.0.0.1:9"]
        with reached_by(urls, tmp_path) as gateway, unharmed(gateway):
            for protocol in BOTH:
                outcome = PROTOCOLS[protocol](gateway, "m")
                assert outcome.kind == "refused"
                assert means(outcome, "no_endpoints"), outcome
                assert outcome.retry_after
                assert PROTOCOLS[protocol](gateway, "both").kind == "whole"


# -- how often, and when again ----------------------------------------------------------------------------------------


def test_no_more_attempts_than_configured_and_the_budget_allows(tmp_path: Path) -> None:
    """Five engines that break, three attempts a request, and a fifth more than there are requests."""
    with acting() as engine, simulate("vllm", CALM) as calm:
        file = written(
            tmp_path,
            pool(CALM, [calm], model=CALM),
            pool("m", [], endpoints=[f"{engine.url}/{name}" for name in "abcde"]),
            settings(retry={"attempts": 3, "budget": 0.2}, health={"consecutiveFailures": 100000}),
        )
        with serve("-c", file) as gateway, unharmed(gateway, bystander=False):
            for count in (3, 60):
                engine.then(*[breaking("head", "ends")] * 1000)
                for number in range(count):
                    assert PROTOCOLS[BOTH[number % 4]](gateway, "m").kind == "refused"
                assert len(engine.asked) <= min(3 * count, count + 10 + 0.2 * count)
            assert engine.asked


def test_who_says_when_to_come_back_is_not_asked_before_that(tmp_path: Path) -> None:
    with acting() as engine:
        names = [protocol.replace(" ", "-") for protocol in PROTOCOLS]
        pools = [pool(name, [], endpoints=[f"{engine.url}/{name}/{one}" for one in "ab"]) for name in names]
        with serve("-c", written(tmp_path, *pools, SETTINGS)) as gateway, unharmed(gateway, bystander=False):
            for name, ask in zip(names, PROTOCOLS.values(), strict=True):
                engine.asked.clear()
                engine.then(refusing(503, "retry-after: 7"))
                assert [ask(gateway, name).kind for _ in range(4)] == ["whole"] * 4, name
                assert [call.path for call in engine.asked].count(engine.asked[0].path) == 1, name
                engine.then(refusing(429, "retry-after: 9"), refusing(429, "retry-after: 9"))
                outcome = ask(gateway, name)
                assert outcome.kind == "refused", name
                assert 6.0 < (outcome.retry_after or 0.0) <= 9.0, name
