"""What breaks gateways: both ends of a request played by hand, byte by byte, with the program between them."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import InferGateway, eventually, serve
from tests.whole import raw
from tests.whole.played import DONE, EVENTS, PlayedEngine, chunk, spoken, whole

CHAT = "/v1/chat/completions"
SETTINGS = """
apiVersion: infer-gateway.dev/v1alpha1
kind: GatewayConfiguration
listeners: {{http: {{maxBodyBytes: 1000000}}}}
retry: {{attempts: 3, budget: 1}}
streaming: {{keepAlive: {keep_alive}}}
timeouts: {{betweenTokens: {between_tokens}}}
---
"""
POOL = """
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {{name: {model}}}
spec: {{inferenceEngine: {engine}, endpoints: {urls}}}
---
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelRoute
metadata: {{name: {model}}}
spec: {{modelName: {model}, rules: [{{targetModels: [{{modelServerName: {model}}}]}}]}}
---
"""
SOLOS = [f"solo-{number}" for number in range(60)]
DEAD = "http://127.0.0.1:9"
PAIRS = [f"pair-{number}" for number in range(20)]


def written(directory: Path, engine: PlayedEngine, keep_alive: str = "15s", between_tokens: str = "60s") -> str:
    """A configuration with a pool for each test, so that no failure is held against the next one's endpoints."""
    text = SETTINGS.format(keep_alive=keep_alive, between_tokens=between_tokens)
    for model in SOLOS:
        text += POOL.format(model=model, engine="vLLM", urls=json.dumps([engine.url]))
    for model in PAIRS:
        text += POOL.format(model=model, engine="vLLM", urls=json.dumps([f"{engine.url}/a", f"{engine.url}/b"]))
    text += POOL.format(model="dead", engine="vLLM", urls=json.dumps([DEAD]))
    file = directory / "gateway.yaml"
    file.write_text(text)
    return str(file)


@pytest.fixture(scope="module")
def port() -> Iterator[PlayedEngine]:
    engine = PlayedEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def gateway(port: PlayedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    with serve("-c", written(tmp_path_factory.mktemp("patient"), port), "--access-log") as running:
        yield running


@pytest.fixture(scope="module")
def lively(port: PlayedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    """A gateway that comments on half a second of silence and bears two and a half."""
    file = written(tmp_path_factory.mktemp("lively"), port, "500ms", "2500ms")
    with serve("-c", file) as running:
        yield running


@pytest.fixture
def engine(port: PlayedEngine) -> Iterator[PlayedEngine]:
    """The played engine, which has to have been asked exactly what the test knows of."""
    yield port
    assert not port.called, "a request too many"


@pytest.fixture
def client(gateway: InferGateway) -> Iterator[Client]:
    with Client(gateway) as connection:
        yield connection


COMMENT = b": keep-alive\n\n"
NOTICED_S = 2.0
"""Far above the 250 ms in which a hang-up is noticed: the machine may be busy."""


class Client:
    """One connection to a gateway."""

    def __init__(self, gateway: InferGateway) -> None:
        self.socket = raw.connect(gateway.address)
        self.reader = raw.Reader(self.socket)

    def ask(self, model: str, *headers: str, **more: object) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        self.socket.sendall(raw.post(CHAT, body, *headers))

    def answer(self) -> raw.Answer:
        answer = self.reader.answer()
        assert answer is not None
        return answer

    def event(self) -> bytes:
        """The next chunk of a stream that is no comment: a slow machine gets more of these."""
        return next(chunk for chunk in iter(self.reader.chunk, None) if chunk != COMMENT)

    def error(self, status: int) -> dict[str, object]:
        answer = self.answer()
        assert answer.status == status, answer
        error = json.loads(answer.body)["error"]
        assert error.keys() >= {"message", "type", "param", "code"}
        assert error["code"] is None or isinstance(error["code"], str)
        assert isinstance(error, dict)
        return error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.__exit__()
        self.socket.close()


_counter = itertools.count()


@pytest.fixture
def solo() -> str:
    """A model that one endpoint serves, not used before."""
    return SOLOS[next(_counter) % len(SOLOS)]


_pair_counter = itertools.count()


@pytest.fixture
def pair() -> str:
    """A model that two endpoints serve, /a and /b of the same port."""
    return PAIRS[next(_pair_counter) % len(PAIRS)]


# -- 1 and 2: connections to engines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the request", "at the request"])
def test_1_a_burst_on_idle_connections_that_all_end_is_not_noticed(
    gateway: InferGateway, engine: PlayedEngine, solo: str, when: str
) -> None:
    clients = [Client(gateway) for _ in range(8)]
    for client in clients:
        client.ask(solo)
    idle = [engine.call() for _ in clients]
    for call in idle:
        call.answer(200, whole())
    for client in clients:
        assert client.answer().status == 200
    if when == "before the request":
        for call in idle:
            call.close()
    else:
        for call in idle:
            engine.keep(call)
    for client in clients:
        client.ask(solo)
    calls = [engine.call() for _ in clients]
    if when == "at the request":
        for call in calls:  # read, and then the connection ends as if it had not been
            assert call.connection in [before.connection for before in idle]
            call.close()
        calls = [engine.call() for _ in clients]
    for call in calls:
        with call:
            call.answer(200, whole())
    for client in clients:
        with client:
            assert client.answer().status == 200


@pytest.mark.parametrize("streamed", [True, False])
def test_2_the_way_to_the_engine_stays_open_until_it_has_answered(
    client: Client, engine: PlayedEngine, solo: str, streamed: bool
) -> None:
    client.ask(solo, stream=streamed)
    with engine.call() as call:
        assert not call.hung_up
        if streamed:
            call.stream(chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}))
            assert client.reader.head() is not None
            assert client.reader.chunk()
            assert not call.hung_up
            call.more(chunk({}, "stop"), DONE)
            call.end()
        else:
            call.answer(200, whole())
            assert client.answer().whole
        assert not call.hung_up


# -- 3: clients that leave -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["before the head", "before the first token", "mid-stream", "not streaming"])
def test_3_a_client_that_leaves_closes_the_connection_to_the_engine(
    gateway: InferGateway, engine: PlayedEngine, solo: str, phase: str
) -> None:
    with Client(gateway) as client:
        client.ask(solo, stream=phase != "not streaming")
        call = engine.call()
        if phase == "before the first token":
            call.stream(chunk({"role": "assistant", "content": ""}))
        elif phase == "mid-stream":
            call.stream(chunk({"content": "a"}))
            assert client.reader.head() is not None
            assert client.reader.chunk()
    with call:
        assert eventually(lambda: call.hung_up, within_s=NOTICED_S)


@pytest.mark.parametrize("how", ["close", "half-close"])
def test_3_a_stuck_client_that_leaves_closes_the_connection_to_the_engine(
    gateway: InferGateway, engine: PlayedEngine, solo: str, how: str
) -> None:
    """It stops reading until everything between it and the engine is full, and then goes."""
    with Client(gateway) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.ask(solo, stream=True)
        call = engine.call()
        call.stream()
        call.connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            call.more(*[chunk({"content": "x" * 65536})] * 1000)
        if how == "half-close":
            client.socket.shutdown(socket.SHUT_WR)
            assert eventually(lambda: call.hung_up, within_s=NOTICED_S)
    with call:
        assert eventually(lambda: call.hung_up, within_s=NOTICED_S)


# -- 4 and 5: silence ------------------------------------------------------------------------------------------------


def test_5_silence_is_commented_on_only_between_events(lively: InferGateway, engine: PlayedEngine, solo: str) -> None:
    first, second = chunk({"content": "one"}), chunk({"content": "two"})
    with Client(lively) as client:
        client.ask(solo, stream=True)
        with engine.call() as call:
            head = client.reader.head()  # before the engine has said anything
            assert head is not None
            assert head[0] == 200
            assert head[1]["cache-control"] == "no-cache"
            assert head[1]["x-accel-buffering"] == "no"
            assert client.reader.chunk() == COMMENT
            call.stream(first, second[:40])
            assert client.event() == first
            assert client.reader.chunk() == COMMENT  # half an event is in the gateway's hands
            call.more(second[40:])
            assert client.event() == second
            call.more(chunk({}, "stop"), DONE)
            call.end()
            assert client.reader.chunk()


def test_5_after_a_comment_an_engines_refusal_goes_into_the_stream(
    lively: InferGateway, engine: PlayedEngine, solo: str
) -> None:
    with Client(lively) as client:
        client.ask(solo, stream=True)
        with engine.call() as call:
            assert client.reader.head() is not None
            assert client.reader.chunk() == COMMENT
            call.answer(400, b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}')
            rest = b"".join(iter(client.reader.chunk, b""))
    error = json.loads(raw.events(rest)[-1])["error"]
    assert error["message"] == "too long"
    assert b"[DONE]" not in rest


def test_5_a_comment_does_not_stand_in_the_way_of_another_engine(
    lively: InferGateway, engine: PlayedEngine, pair: str
) -> None:
    with Client(lively) as client:
        client.ask(pair, stream=True)
        with engine.call() as call:
            assert client.reader.head() is not None
            assert client.reader.chunk() == COMMENT
            call.answer(503, b"{}")
        with engine.call() as call:
            call.stream(spoken("saved"))
            call.end()
        assert b'"saved"' in client.event()


def test_4_silence_between_tokens_is_bounded_comments_or_not(
    lively: InferGateway, engine: PlayedEngine, solo: str
) -> None:
    with Client(lively) as client:
        client.ask(solo, stream=True)
        with engine.call() as call:
            call.stream(chunk({"content": "one"}))
            rest = client.answer().body
            assert eventually(lambda: call.hung_up)
    assert json.loads(raw.events(rest)[-1])["error"]["code"] == "upstream_timeout"
    assert rest.count(COMMENT) >= 2
    assert b"[DONE]" not in rest


# -- 6 and 7: bytes --------------------------------------------------------------------------------------------------

ODDLY_FRAMED = (
    ": comment\r\n\r\n"
    'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\r\n\r\n'
    'data:{"id":"c","choices":[{"index":0,"delta":{"content":"Grüße, 世界 🎉"},"finish_reason":null}]}\n\n'
    'other: field\ndata: {"id":"c",\ndata: "choices":[{"index":0,"delta":{"content":"two"},"finish_reason":null}]}\r\r'
    'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    "data: [DONE]\n\n"
).encode()


@pytest.mark.parametrize("chunked", [True, False])
def test_6_an_engine_that_sends_single_bytes(client: Client, engine: PlayedEngine, solo: str, chunked: bool) -> None:
    client.ask(solo, stream=True)
    singles = [ODDLY_FRAMED[i : i + 1] for i in range(len(ODDLY_FRAMED))]
    with engine.call() as call:
        if chunked:
            call.stream(*singles)
            call.end()
        else:
            head = f"HTTP/1.1 200 OK\r\n{EVENTS}\r\ncontent-length: {len(ODDLY_FRAMED)}\r\n\r\n".encode()
            call.send(*(head[i : i + 1] for i in range(len(head))), *singles)
        answer = client.answer()
    said = raw.events(answer.body)
    assert said.pop() == "[DONE]"
    texts = [json.loads(event)["choices"][0]["delta"].get("content") for event in said]
    assert texts == ["", "Grüße, 世界 🎉", "two", None]


@pytest.mark.parametrize("place", ["first", "later"])
def test_7_an_event_of_five_megabytes(client: Client, engine: PlayedEngine, solo: str, place: str) -> None:
    huge = chunk({"content": "x" * 5_000_000})
    sent = [huge] if place == "first" else [chunk({"content": "a"}), huge]
    client.ask(solo, stream=True)
    with engine.call() as call:
        call.stream(*sent, chunk({}, "stop"), DONE)
        call.end()
        answer = client.answer()
    assert answer.whole
    assert answer.body == b"".join([*sent, chunk({}, "stop"), DONE])


def test_7_an_event_without_end_is_an_error(client: Client, engine: PlayedEngine, solo: str) -> None:
    client.ask(solo, stream=True)
    with engine.call() as call:
        call.stream(chunk({"content": "a"}), b"data: {")
        try:
            for _ in range(40):
                call.more(b"x" * (1 << 20))
        except ConnectionError:
            pass
        answer = client.answer()
    assert json.loads(raw.events(answer.body)[-1])["error"]["code"] == "upstream_error"


# -- 8: compression --------------------------------------------------------------------------------------------------

REFUSAL = b'{"error":{"message":"no such thing","type":"BadRequestError","param":"n","code":400}}'


def test_8_nothing_compressed_is_asked_for_whatever_the_client_takes(
    client: Client, engine: PlayedEngine, solo: str
) -> None:
    client.ask(solo, "accept-encoding: gzip, br", stream=True)
    with engine.call() as call:
        assert call.headers["accept-encoding"] == "identity"
        call.stream(spoken("a"))
        call.end()
        assert "content-encoding" not in client.answer().headers


@pytest.mark.parametrize("status", [200, 400])
def test_8_a_compressed_answer_is_decoded(client: Client, engine: PlayedEngine, solo: str, status: int) -> None:
    client.ask(solo)
    with engine.call() as call:
        call.answer(status, gzip.compress(whole("packed") if status == 200 else REFUSAL), "content-encoding: gzip")
        answer = client.answer()
    assert answer.status == status
    assert "content-encoding" not in answer.headers
    assert len(answer.body) == int(answer.headers["content-length"])
    assert (b"packed" if status == 200 else b"no such thing") in answer.body


def test_8_a_compressed_stream_is_decoded(client: Client, engine: PlayedEngine, solo: str) -> None:
    packed = gzip.compress(spoken("packed", "words"))
    client.ask(solo, stream=True)
    with engine.call() as call:
        head = f"HTTP/1.1 200 OK\r\n{EVENTS}\r\ncontent-encoding: gzip\r\ncontent-length: {len(packed)}\r\n\r\n"
        call.send(head.encode(), *(packed[i : i + 7] for i in range(0, len(packed), 7)))
        answer = client.answer()
    assert "content-encoding" not in answer.headers
    assert answer.body == spoken("packed", "words")


# -- 9 to 11: usage, ends and errors of streams ----------------------------------------------------------------------

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
USAGE_CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","choices":[],"usage":%b}\n\n' % json.dumps(USAGE).encode()
)


@pytest.mark.parametrize("asked", [True, False])
def test_9_usage_is_asked_for_and_shown_to_who_asked(
    client: Client, engine: PlayedEngine, solo: str, asked: bool
) -> None:
    client.ask(solo, stream=True, **({"stream_options": {"include_usage": True}} if asked else {}))
    with engine.call() as call:
        assert json.loads(call.body)["stream_options"] == {"include_usage": True}
        # not the finish reason ends a stream: the usage may come long after it
        call.stream(chunk({"content": "a"}), chunk({}, "stop"))
        assert client.reader.head() is not None
        seen = client.reader.chunk() or b""
        while b'"stop"' not in seen:
            seen += client.reader.chunk() or b""
        call.more(USAGE_CHUNK, DONE)
        call.end()
        rest = b"".join(iter(client.reader.chunk, b""))
    assert rest == (USAGE_CHUNK if asked else b"") + DONE


def test_9_what_a_leaving_client_was_given_is_counted(gateway: InferGateway, engine: PlayedEngine, solo: str) -> None:
    with Client(gateway) as client:
        client.ask(solo, "x-request-id: gone-early", stream=True)
        call = engine.call()
        call.stream(*[chunk({"content": "a"})] * 3)
        assert client.reader.head() is not None
        seen = b""
        while seen.count(b"data:") < 3:
            seen += client.reader.chunk() or b""
    with call:
        assert eventually(lambda: "gone-early" in gateway.stderr)
    record = json.loads(next(line for line in gateway.stderr.splitlines() if "gone-early" in line))
    assert (record["status"], record["reason"], record["tokens_out"]) == (499, "client_gone", 3)


@pytest.mark.parametrize("end", ["a last chunk", "an end", "a reset"])
def test_10_a_stream_that_ends_without_a_finish_reason_is_an_error(
    client: Client, engine: PlayedEngine, solo: str, end: str
) -> None:
    client.ask(solo, stream=True)
    with engine.call() as call:
        call.stream(chunk({"content": "a"}))
        assert client.reader.head() is not None
        assert client.reader.chunk()
        if end == "a last chunk":
            call.end()
        elif end == "a reset":
            call.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    rest = b"".join(iter(client.reader.chunk, b""))
    assert json.loads(raw.events(rest)[-1])["error"]["code"] == "upstream_error"
    assert b"[DONE]" not in rest
    assert client.reader.rest() == b""


@pytest.mark.parametrize("body", ["content-length: 500", "transfer-encoding: chunked"])
def test_10_an_answer_cut_short_is_no_answer(client: Client, engine: PlayedEngine, solo: str, body: str) -> None:
    client.ask(solo)
    with engine.call() as call:
        half = whole()[:40]
        framed = b"%x\r\n%b\r\n" % (len(half), half) if body.startswith("transfer") else half
        call.send(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{body}\r\n\r\n".encode() + framed)
    assert client.error(502)["code"] == "upstream_error"


@pytest.mark.parametrize("done", [0, 1, 2])
def test_10_one_done_however_many_the_engine_says(client: Client, engine: PlayedEngine, solo: str, done: int) -> None:
    client.ask(solo, stream=True)
    with engine.call() as call:
        call.stream(chunk({"content": "a"}), chunk({}, "stop"), *[DONE] * done)
        call.end()
        answer = client.answer()
    assert answer.whole
    assert raw.events(answer.body)[2:] == ["[DONE]"]


FAILURES_INSIDE = {
    "vLLM": b'data: {"error":{"message":"busy","type":"InternalServerError","param":null,"code":503}}\n\n' + DONE,
    "SGLang": b'data: {"error":{"object":"error","message":"The request queue is full.",'
    b'"type":"SERVICE_UNAVAILABLE","param":null,"code":503}}\n\n' + DONE,
    "TGI": b'data: {"error":{"message":"Model is overloaded","http_status_code":422}}\n\n' + DONE,
}


@pytest.mark.parametrize("shape", FAILURES_INSIDE)
def test_11_an_error_inside_a_200_is_tried_elsewhere_or_a_real_status(
    client: Client, engine: PlayedEngine, solo: str, pair: str, shape: str
) -> None:
    client.ask(pair, stream=True)
    with engine.call() as first:
        first.stream(chunk({"role": "assistant", "content": ""}), FAILURES_INSIDE[shape])
        first.end()
        with engine.call() as second:
            assert second.path != first.path
            second.stream(spoken("saved"))
            second.end()
            assert client.answer().body == spoken("saved")
    client.ask(solo, stream=True)
    with engine.call() as call:
        call.stream(FAILURES_INSIDE[shape])
        call.end()
        client.error(429 if shape == "TGI" else 503)


# -- 12 and 13: framing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
def test_12_an_engine_that_speaks_http_1_0(client: Client, engine: PlayedEngine, solo: str, streamed: bool) -> None:
    client.ask(solo, stream=streamed)
    with engine.call() as call:
        kind = EVENTS if streamed else "content-type: application/json"
        call.send(f"HTTP/1.0 200 OK\r\n{kind}\r\n\r\n".encode(), spoken("a") if streamed else whole())
    assert client.answer().body == (spoken("a") if streamed else whole())


def test_12_a_close_delimited_stream_cut_short_is_an_error(client: Client, engine: PlayedEngine, solo: str) -> None:
    client.ask(solo, stream=True)
    with engine.call() as call:
        call.send(f"HTTP/1.1 200 OK\r\n{EVENTS}\r\nconnection: close\r\n\r\n".encode(), chunk({"content": "a"}))
    answer = client.answer()
    assert "error" in json.loads(raw.events(answer.body)[-1])


def test_12_interim_answers_odd_names_repeated_fields_and_trailers(
    client: Client, engine: PlayedEngine, solo: str
) -> None:
    client.ask(solo)
    with engine.call() as call:
        call.send(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nset-cookie: b\r\nCONTENT-TYPE: application/json\r\nServer: x\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"%x;extension=1\r\n%b\r\n0\r\nx-trailer: late\r\n\r\n" % (len(whole()), whole()),
        )
        answer = client.answer()
        engine.keep(call)
        client.ask(solo)
        with engine.call() as again:
            assert again.connection is call.connection, "the connection was not in order"
            again.answer(200, whole())
            assert client.answer().status == 200
    assert (answer.status, answer.body) == (200, whole())
    assert not {"set-cookie", "server", "x-trailer", "link"} & answer.headers.keys()


def test_13_the_gateway_itself_says_continue(client: Client, engine: PlayedEngine, solo: str) -> None:
    body = json.dumps({"model": solo, "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = raw.post(CHAT, body, "expect: 100-continue")
    client.socket.sendall(request[: -len(body)])
    assert client.reader.head() == (100, {})
    assert not engine.called
    client.socket.sendall(body)
    with engine.call() as call:
        assert "expect" not in call.headers
        call.answer(200, whole())
        assert client.answer().status == 200


# -- 14 and 15: what reaches the engine ------------------------------------------------------------------------------


def test_14_a_body_passes_byte_for_byte(client: Client, engine: PlayedEngine, solo: str) -> None:
    text = (
        '{ "model":"MODEL", "seed": 9223372036854775807, "big":123456789012345678901234567890, "f": 1.10e-7,\t"f": 2E0,'
        '"logit_bias":{"50256":-100,"050":1}, "messages" : ['
        '{"role":"user","content":"\\ud83c\\udf89 \\u00fc/ü","x":{}}],'
        '"some_new_option":{"nested":[1.0,null,true]},"temperature":1.0 }\r\n'
    )
    body = text.replace("MODEL", solo).encode()
    client.socket.sendall(raw.post(CHAT, body))
    with engine.call() as call:
        assert call.body == body
        call.answer(200, whole())
        assert client.answer().body == whole()


def test_14_only_the_usage_option_is_spliced_into_a_stream(client: Client, engine: PlayedEngine, solo: str) -> None:
    inner = b'"model":"%b" , "stream":true,"seed": 18446744073709551615,"messages":[ {"role":"user"}],"f":1.0,"f":2.50'
    inner %= solo.encode()
    client.socket.sendall(raw.post(CHAT, b"{%b}" % inner))
    with engine.call() as call:
        assert inner in call.body
        assert json.loads(call.body)["stream_options"] == {"include_usage": True}
        call.stream(spoken("a"))
        call.end()
        assert client.answer().whole


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_14_a_body_over_the_limit_is_413_and_the_engine_hears_nothing(
    client: Client, engine: PlayedEngine, framing: str
) -> None:
    if framing == "chunked":
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        client.socket.sendall(head + b"1e8480\r\n" + b" " * 2_000_000 + b"\r\n0\r\n\r\n")
    else:
        client.socket.sendall(raw.post(CHAT, b" " * 1_000_001))
    assert client.error(413)["type"] == "invalid_request_error"


def test_15_what_reaches_the_engine(client: Client, engine: PlayedEngine, solo: str) -> None:
    odd = [
        "authorization: Bearer secret", "cookie: a=b", "connection: keep-alive, x-hop", "x-hop: 1", "keep-alive: 5",
        "te: trailers", "proxy-authorization: Basic eA==", "x-forwarded-for: 1.2.3.4", "forwarded: for=x", "via: 1.1 x",
        "x-data-parallel-rank: 1", "x-vllm-priority: 1", "x-override-y: 1", "x-sglext-ids-framed: 1", "user-agent: me",
        "x-smg-routing-key: 1", "x-session-id: 1", "openai-organization: o", "x-stainless-retry-count: 0", "user: root",
        "x-request-id: mine-1", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x-tenant: t",
        "tracestate: a=b", "accept: text/html", "accept-encoding: gzip", "upgrade: h2c", "origin: http://evil",
    ]  # fmt: skip
    steering = ("kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room", "priority", "cache_salt")
    steering += ("vllm_xargs", "rid", "request_id", "lora_path", "custom_logit_processor")
    client.ask(solo, *odd, **dict.fromkeys(steering, "x"), user="u")
    with engine.call() as call:
        call.answer(200, whole())
        answer = client.answer()
        length, via = call.headers.pop("content-length"), call.headers.pop("via")
        assert re.fullmatch("1.1 x, 1.1 infer-gateway-[0-9a-f]+", via)
        assert call.headers == {
            "host": engine.url.removeprefix("http://"),
            "content-type": "application/json",
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "infer-gateway",
            "x-request-id": "mine-1",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "tracestate": "a=b",
        }
        assert int(length) == len(call.body)
        assert json.loads(call.body).keys() == {"model", "messages", "user"}
    assert answer.headers["x-request-id"] == "mine-1"


def test_15_ids_of_requests_in_flight_do_not_collide(gateway: InferGateway, engine: PlayedEngine, solo: str) -> None:
    clients = [Client(gateway) for _ in range(3)]
    for client in clients:
        client.ask(solo, "x-request-id: same")
    calls = [engine.call() for _ in clients]
    assert len({call.headers["x-request-id"] for call in calls}) == 3
    for call in calls:
        with call:
            call.answer(200, whole())
    for client in clients:
        with client:
            assert client.answer().headers["x-request-id"] == "same"


@pytest.mark.parametrize("given", ["a b", "x" * 129, "<script>", "ünïcode", '"'])
def test_15_an_odd_request_id_is_replaced(client: Client, engine: PlayedEngine, solo: str, given: str) -> None:
    client.ask(solo, f"x-request-id: {given}")
    with engine.call() as call:
        call.answer(200, whole())
        answer = client.answer()
        assert call.headers["x-request-id"] == answer.headers["x-request-id"] != given


# -- 16: retries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("status", [408, 429, 502, 503, 529])
def test_16_refused_here_and_asked_there(
    client: Client, engine: PlayedEngine, pair: str, status: int, streamed: bool
) -> None:
    client.ask(pair, stream=streamed)
    with engine.call() as first:
        first.answer(status, b"{}")
        with engine.call() as second:
            assert second.path != first.path
            assert second.body == first.body
            assert second.headers["x-request-id"] != first.headers["x-request-id"]
            if streamed:
                second.stream(spoken("a"))
                second.end()
            else:
                second.answer(200, whole())
            assert client.answer().status == 200


@pytest.mark.parametrize("how", ["an end", "a reset", "rubbish"])
def test_16_broken_here_and_asked_there(client: Client, engine: PlayedEngine, pair: str, how: str) -> None:
    client.ask(pair)
    with engine.call() as first:
        if how == "rubbish":
            first.send(b"\x00\x01\x02\r\n\r\n")
        elif how == "a reset":
            first.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with engine.call() as second:
        assert second.path != first.path
        second.answer(200, whole())
        assert client.answer().status == 200


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 415, 422, 500, 501, 504])
def test_16_asked_once(client: Client, engine: PlayedEngine, pair: str, status: int) -> None:
    client.ask(pair)
    with engine.call() as call:
        call.answer(status, b'{"error":{"message":"as it is","type":"x","param":"n","code":%d}}' % status)
        if status == 403:
            with engine.call() as other:
                other.answer(403, b"")
            error = client.error(502)
        else:
            error = client.error(status)
            assert error["message"] == "as it is"
        assert error["code"] != str(status)


def test_16_an_engine_that_does_not_offer_something_is_well(client: Client, engine: PlayedEngine, solo: str) -> None:
    for _ in range(12):
        client.ask(solo)
        with engine.call() as call:
            call.answer(501, b'{"error":{"message":"not implemented"}}')
            assert client.error(501)["code"] == "not_implemented"
    client.ask(solo)
    with engine.call() as call:
        call.answer(200, whole())
        assert client.answer().status == 200


def test_16_when_all_refuse_the_client_learns_when_to_come_back(
    client: Client, engine: PlayedEngine, pair: str
) -> None:
    client.ask(pair)
    for _ in range(2):
        with engine.call() as call:
            call.answer(429, b'{"error":"slow down"}', "retry-after: 7")
    answer = client.answer()
    assert answer.status == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["retry-after-ms"] == "7000"
    assert "x-should-retry" not in answer.headers
    error = json.loads(answer.body)["error"]
    assert (error["message"], error["type"], error["code"]) == ("slow down", "rate_limit_error", "rate_limit_exceeded")


def test_16_an_engine_that_says_when_to_come_back_is_left_alone_until_then(
    client: Client, engine: PlayedEngine, pair: str
) -> None:
    client.ask(pair)
    with engine.call() as first:
        first.answer(503, b"{}", "retry-after: 30")
    for _ in range(6):
        with engine.call() as other:
            assert other.path != first.path
            other.answer(200, whole())
            assert client.answer().status == 200
        client.ask(pair)
    with engine.call() as other:
        assert other.path != first.path
        other.answer(200, whole())
        assert client.answer().status == 200


def test_16_clients_are_told_not_to_repeat_what_was_repeated(client: Client, engine: PlayedEngine, pair: str) -> None:
    client.ask(pair)
    for _ in range(2):
        with engine.call() as call:
            call.answer(502, b"{}")
    answer = client.answer()
    assert answer.status == 502
    assert answer.headers["x-should-retry"] == "false"


def test_16_nothing_is_repeated_once_a_token_was_seen(client: Client, engine: PlayedEngine, pair: str) -> None:
    client.ask(pair, stream=True)
    with engine.call() as call:
        call.stream(chunk({"content": "a"}))
        assert client.reader.head() is not None
        assert client.reader.chunk() == chunk({"content": "a"})
    assert b"error" in (client.reader.chunk() or b"")
    assert client.reader.chunk() == b""


@pytest.mark.parametrize("status", [401, 403])
def test_an_engine_that_refuses_the_gateway_is_the_operators_affair(
    client: Client, engine: PlayedEngine, solo: str, status: int
) -> None:
    client.ask(solo)
    with engine.call() as call:
        call.answer(status, b'{"error":"Unauthorized"}')
        error = client.error(502)
    assert error["code"] == "upstream_error"


def test_an_answer_that_is_none_is_the_engines_failure(client: Client, engine: PlayedEngine, solo: str) -> None:
    """Redirects are not followed: they would take prompts to wherever an engine points."""
    for status in (204, 301, 304, 200):
        client.ask(solo)
        with engine.call() as call:
            call.answer(status, b"", f"location: {engine.url}/elsewhere")
            assert client.error(502)["code"] == "upstream_error"
        client.ask(solo)
        with engine.call() as call:
            call.answer(200, whole())
            assert client.answer().status == 200


def test_nobody_to_ask(client: Client) -> None:
    client.ask("dead")
    answer = client.answer()
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert json.loads(answer.body)["error"]["code"] == "no_endpoints"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/rerank", {"query": "q", "documents": ["a"]}),
        ("/v1/responses", {"input": "x"}),
        ("/tokenize", {"prompt": "x"}),
    ],
)
def test_14_other_answers_pass_byte_for_byte(
    client: Client, engine: PlayedEngine, solo: str, path: str, body: dict[str, object]
) -> None:
    sent = b'{"data":[{"embedding":[0.10, 1e-9,18446744073709551616]}],"usage":{"prompt_tokens":1} }'
    client.socket.sendall(raw.post(path, {"model": solo, **body}))
    with engine.call() as call:
        assert call.path == path
        call.answer(200, sent)
        assert client.answer().body == sent
