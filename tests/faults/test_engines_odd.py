"""Engines that say what no engine should: twice, too much, without end, too slowly, in codings nobody asked for."""

from __future__ import annotations

import gzip
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults import engines
from tests.faults.clients import PROTOCOLS, Outcome, means
from tests.faults.engines import (
    BODY,
    DONE,
    HEAD,
    LAST,
    ROLE,
    STREAM,
    TEXT,
    TOKENS,
    WHOLE,
    Act,
    Engine,
    acting,
    endless,
    ends,
    framed,
    headed,
    in_turn,
    saying,
    trickling,
)
from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, serve, simulate
from tests.whole.fleet import pool, settings, written
from tests.whole.played import Call, chunk

FOUR = ("chat", "chat streamed", "grpc", "grpc streamed")
STREAMS = ("chat streamed", "messages streamed", "grpc streamed")
MANY = 1 << 16
EVENTS = HEAD.partition(b"transfer-encoding")[0]
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
FLOOD_MAX = 1 << 30
"""Resident bytes at most, whatever engines send: the longest answer that is taken, while it is put together."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with acting() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    with simulate("vllm", CALM) as calm:
        both = [f"{engine.url}/a", f"{engine.url}/b"]
        file = written(
            tmp_path_factory.mktemp("odd"),
            pool(CALM, [calm], model=CALM),
            pool("solo", [], endpoints=both[:1]),
            pool("hasty", [], endpoints=both[:1], trafficPolicy={"timeout": "400ms"}),
            pool("pair", [], endpoints=both),
            settings(
                timeouts={"betweenTokens": "400ms", "firstToken": "20s"},
                retry={"attempts": 3, "budget": 1},
                health={"consecutiveFailures": 100000, "ejection": {"maxShare": 0}, "slowStart": 0},
            ),
        )
        with serve("-c", file) as running:
            yield running


@pytest.fixture(autouse=True)
def peace(gateway: InferGateway) -> Iterator[None]:
    with unharmed(gateway):
        yield


def all_at_once(gateway: InferGateway, engine: Engine, model: str, act: Act, *protocols: str) -> list[Outcome]:
    engine.then(*[act] * len(protocols))
    with ThreadPoolExecutor(len(protocols)) as threads:
        outcomes = list(threads.map(lambda name: PROTOCOLS[name](gateway, model), protocols))
    assert len(engine.asked) == len(protocols), "asked too often"
    return outcomes


# -- answers that are whole all the same ------------------------------------------------------------------------------


def chunked(data: bytes) -> bytes:
    return JSON + b"transfer-encoding: chunked\r\n\r\n" + framed(data) + b"0\r\n\r\n"


def coded(coding: str, data: bytes) -> bytes:
    return b"content-encoding: %b\r\ncontent-length: %d\r\n\r\n%b" % (coding.encode(), len(data), data)


SAID = b"".join((ROLE, *TOKENS, LAST, DONE))
EXTENDED = b"".join(b'%X;name=value;q="a;b"\r\n%b\r\n' % (len(part), part) for part in (ROLE, *TOKENS, LAST, DONE))
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 5
WRONG = WHOLE.replace(b"one", b"wrong"), STREAM.replace(b"one", b"wrong")
FINE: dict[str, Act] = {
    "extensions of chunks": saying(HEAD + EXTENDED + b"0;last\r\nx-trailer: 1\r\n\r\n", chunked(BODY)),
    "interim answers first": saying(INTERIM + STREAM, INTERIM + WHOLE),
    "a length for a stream": saying(EVENTS + b"content-length: %d\r\n\r\n%b" % (len(SAID), SAID), WHOLE),
    "until the end of the connection": saying(EVENTS + b"\r\n" + SAID, JSON + b"\r\n" + BODY, ends),
    "gzip": saying(EVENTS + coded("gzip", gzip.compress(SAID)), JSON + coded("gzip", gzip.compress(BODY))),
    "one byte at a time": trickling(STREAM, WHOLE, 0.0),
    "rubbish after the end": saying(STREAM + b"\x00rubbish" * 1000, WHOLE + b"\x00rubbish" * 1000),
    "twice at once": saying(STREAM + WRONG[1], WHOLE + WRONG[0]),
    "twice, one after the other": in_turn([saying(STREAM, WHOLE, lambda call: None), saying(*WRONG[::-1])]),
    "a length that is too short for what follows": saying(STREAM, headed(BODY + WRONG[0], length=len(BODY))),
    "end of the stream, and on and on": saying(STREAM, WHOLE, lambda call: engines.forever(call, WRONG[1])),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("what", FINE)
def test_answers_that_are_whole(gateway: InferGateway, engine: Engine, what: str, protocol: str) -> None:
    """…and of what is beside them nothing reaches the next request, if it is there before that is sent: of bytes that
    come later nobody could tell.
    """
    said = threading.Event()

    def act(call: Call) -> object:
        try:
            return FINE[what](call)
        finally:
            said.set()

    engine.then(act)
    for _ in range(3):
        outcome = PROTOCOLS[protocol](gateway, "solo")
        assert (outcome.kind, outcome.text) == ("whole", TEXT), outcome
        assert said.wait(engines.PATIENCE_S)


# -- answers that are none --------------------------------------------------------------------------------------------


def stuttering(stream: bytes, body: bytes) -> Act:
    """What makes no answer, at a pace at which something always comes."""

    def act(call: Call) -> None:
        data = stream if engines.streamed(call) else body
        call.send(data[:-1])
        until = time.monotonic() + engines.PATIENCE_S
        while time.monotonic() < until:
            call.send(data[-1:])
            time.sleep(0.02)

    return act


HALF = HEAD + framed(ROLE, *TOKENS[:2])
LIVELY = trickling(*[framed(b":\n\n") * 500] * 2, 0.02, 8)
"""Comments."""


def begun(start: bytes) -> Act:
    return saying(start, start, lambda call: None)


SLOW: dict[str, tuple[Act, str]] = {
    "bytes of an answer": (trickling(STREAM, WHOLE, 0.02), ""),
    "interim answers": (trickling(INTERIM * 50, INTERIM * 50, 0.02, len(INTERIM)), ""),
    "header fields": (trickling(*[HEAD[:17] + b"x-a: 1\r\n" * 1000] * 2, 0.02, 8), ""),
    "comments": (in_turn([begun(HEAD), LIVELY]), ""),
    "comments after tokens": (in_turn([begun(HALF), LIVELY]), "one two"),
    "an event after tokens": (stuttering(HALF + b"ffffff\r\ndata: x", HEAD), "one two"),
    "extensions of a chunk after tokens": (stuttering(HALF + b"ff;x", HEAD), "one two"),
    "trailers without a finish": (stuttering(HALF + b"0\r\nx: 1", HEAD), "one two"),
    "a refusal": (stuttering(*[b"HTTP/1.1 503 No\r\ncontent-length: 10000\r\n\r\n{{"] * 2), ""),
}


@pytest.mark.parametrize("what", SLOW)
def test_whatever_trickles_ends_in_time(gateway: InferGateway, engine: Engine, what: str) -> None:
    act, text = SLOW[what]
    outcomes = all_at_once(gateway, engine, "hasty", act, *(STREAMS if text or what == "comments" else PROTOCOLS))
    for outcome in outcomes:
        assert (outcome.kind, outcome.text) == ("broken" if text else "refused", text)
        assert means(outcome, "upstream_timeout"), outcome


ONLY_TIME = ("of roles", "of comments", "of empty texts")
"""Of these nothing is kept where an answer is told in other words: only the wait for a token ends them."""
BOMB = gzip.compress(b" " * (1 << 26))
FLOODS: dict[str, tuple[bytes, bytes, tuple[str, ...]]] = {
    "of interim answers": (b"", INTERIM * 300, FOUR),
    "of header fields": (HEAD[:17], b"x-a: 1\r\n" * 8000, FOUR),
    "of one header field": (HEAD[:17] + b"x-a: ", b"a" * MANY, FOUR),
    "of a status line": (HEAD[:15], b"a" * MANY, FOUR),
    "of a whole answer": (JSON + b"\r\n" + b'{"a":"', b"a" * MANY, ("chat",)),
    "of chunks of a whole answer": (JSON + b"transfer-encoding: chunked\r\n\r\n", framed(b" " * MANY), ("grpc",)),
    "of one event": (HEAD, framed(b"data: " + b"a" * MANY), STREAMS),
    "of one event after tokens": (HALF, framed(b"a" * MANY), STREAMS),
    "of roles": (HEAD + framed(ROLE), framed(ROLE * 300), STREAMS),
    "of comments": (HEAD, framed(b": here\n\n" * 8000), STREAMS),
    "of empty texts": (HEAD, framed(chunk({"content": ""}) * 300), STREAMS),
    "of trailers": (HALF + b"0\r\n", b"x-a: 1\r\n" * 8000, STREAMS),
    "of one trailer": (HALF + b"0\r\nx-a: ", b"a" * MANY, STREAMS),
    "of an extension": (HALF + b"ff;", b"a" * MANY, STREAMS),
    "of zeros of a chunk's size": (HALF, b"0" * MANY, STREAMS),
    "of a compressed answer": (
        JSON + b"content-encoding: gzip\r\n\r\n" + zlib.compressobj(wbits=31).compress(b"{"),
        BOMB,
        ("chat",),
    ),
    "of a compressed stream": (
        EVENTS + b"content-encoding: gzip\r\n\r\n",
        BOMB,
        ("chat streamed",),
    ),
    "of a refusal": (b"HTTP/1.1 400 No\r\n\r\n", b"a" * MANY, FOUR),
    "of a compressed refusal": (
        b"HTTP/1.1 400 No\r\ncontent-encoding: gzip\r\n\r\n",
        BOMB,
        ("chat",),
    ),
}


@pytest.mark.parametrize("what", FLOODS)
def test_floods_are_cut(gateway: InferGateway, engine: Engine, what: str) -> None:
    start, more, protocols = FLOODS[what]
    engine.then()
    for protocol in protocols:
        engine.then(endless(start, more))
        outcome = PROTOCOLS[protocol](gateway, "hasty" if what in ONLY_TIME else "solo")
        assert outcome.kind in ("refused", "broken"), outcome
        assert outcome.text in ("", "one two")
        assert len(engine.asked) == 1
    peak = Path(f"/proc/{gateway.process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    assert int(peak) * 1024 < FLOOD_MAX


PACKED = gzip.compress(SAID), gzip.compress(BODY)
LENGTH = b"content-length: %d\r\n\r\n"
TWO = b"content-length: 5\r\ncontent-length: 6\r\n\r\n"
LYING: dict[str, Act] = {
    "gzip that is none": saying(EVENTS + coded("gzip", SAID), JSON + coded("gzip", BODY)),
    "gzip cut short": saying(EVENTS + coded("gzip", PACKED[0][:40]), JSON + coded("gzip", PACKED[1][:-20])),
    "a coding nobody knows": saying(EVENTS + coded("br", SAID), JSON + coded("br", BODY)),
    "two codings": saying(EVENTS + coded("gzip, gzip", SAID), JSON + coded("gzip, gzip", BODY)),
    "a length that is too short": saying(EVENTS + LENGTH % 300 + SAID, headed(BODY, length=len(BODY) - 5)),
    "a length that is too long": saying(EVENTS + LENGTH % 9999 + SAID[:300], headed(BODY, length=9999), ends),
    "two lengths": saying(EVENTS + TWO + SAID, JSON + TWO + BODY),
    "a length that is no number": saying(*[b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n" + BODY] * 2),
    "a size that is no number": saying(HEAD + b"xyz\r\n" + SAID, JSON + b"transfer-encoding: chunked\r\n\r\nxyz\r\n"),
    "another protocol": saying(*[b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n\x81\x02"] * 2),
    "HTTP/2": saying(*[b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"] * 2),
    "HTTP/0.9": saying(*[BODY] * 2, ends),
    "TLS": saying(*[b"\x15\x03\x01\x00\x02\x02\x46"] * 2, ends),
    "an interim answer and the end": saying(*[INTERIM] * 2, ends),
    "empty": saying(HEAD + b"0\r\n\r\n", headed(b"")),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("what", LYING)
def test_answers_that_lie_about_themselves(gateway: InferGateway, engine: Engine, what: str, protocol: str) -> None:
    engine.then(LYING[what])
    outcome = PROTOCOLS[protocol](gateway, "solo")
    assert outcome.kind in ("refused", "broken"), outcome
    assert means(outcome, "upstream_error"), outcome
    assert TEXT.startswith(outcome.text)
    assert len(engine.asked) == 1
    assert PROTOCOLS[protocol](gateway, "solo").text == TEXT


# -- refusals that break off ------------------------------------------------------------------------------------------

NO = b"HTTP/1.1 400 No\r\n"
CUT: dict[str, bytes] = {
    "short": NO + b"content-length: 500\r\n\r\n{}",
    "chunked": NO + b"transfer-encoding: chunked\r\n\r\n5\r\n{",
    "not gzip": NO + coded("gzip", b"{}"),
    "a coding nobody knows": NO + coded("br", b"\x0b\x01"),
}


@pytest.mark.parametrize("what", CUT)
def test_a_refusal_stands_though_the_rest_of_it_is_broken(gateway: InferGateway, engine: Engine, what: str) -> None:
    """Its client is told that it erred, and nobody else is asked the same."""
    for protocol in FOUR:
        engine.then(saying(CUT[what], CUT[what], ends))
        outcome = PROTOCOLS[protocol](gateway, "pair")
        assert (outcome.kind, outcome.status) == ("refused", "INVALID_ARGUMENT" if "grpc" in protocol else 400)
        assert len(engine.asked) == 1
