"""HTTP/1.1 codecs: strict about framing, indifferent to how the bytes are split."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import h1

HEAD = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\n"


def test_who_sends_is_not_at_fault_where_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_header(self: object, name: bytes, value: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(h1.RequestParser, "on_header", on_header)
    monkeypatch.setattr(h1.ResponseParser, "on_header", on_header)
    error = parse(HEAD + b"Content-Length: 3\r\n\r\nabc").error
    assert error is not None
    assert (error.status, error.message) == (503, "no memory is left for this request")
    with pytest.raises(MemoryError):
        h1.ResponseParser().feed(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")


def parse(data: bytes, cuts: list[int] | None = None, **limits: int) -> h1.RequestParser:
    parser = h1.RequestParser(**limits)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or [])})
    for start, end in itertools.pairwise(edges):
        parser.feed(data[start:end])
    return parser


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", 400, id="bare LF"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\nx: y\r\n\r\n", 400, id="bare LF after a field"),
        pytest.param(HEAD + b"x: y\r\n  z\r\n\r\n", 400, id="obs-fold"),
        pytest.param(HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, id="repeated length"),
        pytest.param(HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, id="conflicting length"),
        pytest.param(HEAD + b"Content-Length: 3, 3\r\n\r\nabc", 400, id="list of lengths"),
        pytest.param(HEAD + b"Content-Length: +3\r\n\r\nabc", 400, id="signed length"),
        pytest.param(HEAD + b"Content-Length: 99999999999999999999\r\n\r\n", 400, id="length overflow"),
        pytest.param(HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="CL+TE"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400, id="TE+CL"),
        pytest.param(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, id="another coding"),
        pytest.param(
            HEAD + b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            501,
            id="two fields of codings",
        ),
        pytest.param(HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, id="chunked twice"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n", 400, id="bad chunk size"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nab\r\n0\r\n\r\n", 400, id="negative chunk size"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2 \r\nab\r\n0\r\n\r\n", 400, id="space in chunk size"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\nab\n0\n\n", 400, id="LF chunk"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\nab", 400, id="chunk size overflow"
        ),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", 400, id="chunk longer than its size"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, id="space before colon"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no Host"),
        pytest.param(HEAD + b"Host: b\r\n\r\n", 400, id="two Hosts"),
        pytest.param(HEAD + b"x: a\x00b\r\n\r\n", 400, id="NUL"),
        pytest.param(b"GET /\r\n\r\n", 505, id="HTTP/0.9"),
        pytest.param(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, id="chunked in 1.0"),
        pytest.param(HEAD + b"Expect: magic\r\n\r\n", 417, id="unknown expectation"),
        pytest.param(b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405, id="CONNECT"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS to a plain port"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2 preface"),
    ],
)
def test_what_is_not_strict_http_is_refused(data: bytes, status: int) -> None:
    for cuts in ([], list(range(len(data)))):
        parser = parse(data, cuts)
        assert parser.error is not None
        assert parser.error.status == status, parser.error.message
        assert not parser.ready


def test_limits() -> None:
    big = b"x: " + b"y" * 2000 + b"\r\n\r\n"
    assert parse(HEAD + big, max_header=1000).error.status == 431  # type: ignore[union-attr]
    trickle = h1.RequestParser(max_header=1000)
    for byte in HEAD + b"x: " + b"y" * 2000:
        trickle.feed(bytes([byte]))
    assert trickle.error is not None
    assert trickle.error.status == 431


@given(st.lists(st.integers(0, 5000), max_size=6))
def test_a_header_is_bounded_wherever_it_begins(cuts: list[int]) -> None:
    """Behind another request in the same read, too; and that one does not count towards it."""
    before = HEAD + b"Content-Length: 2000\r\n\r\n" + b"b" * 2000
    fits, exceeds = (before + HEAD + b"x: " + b"y" * size + b"\r\n\r\n" for size in (900, 1000))
    parser = parse(fits, cuts, max_header=1000)
    assert (len(parser.ready), parser.error) == (2, None)
    parser = parse(exceeds, cuts, max_header=1000)
    assert parser.error is not None
    assert (len(parser.ready), parser.error.status) == (1, 431)
    assert parse(HEAD + b"Content-Length: 11\r\n\r\n", max_body=10).error.status == 413  # type: ignore[union-attr]
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\nB\r\nhello world\r\n0\r\n\r\n"
    assert parse(chunked, max_body=10).error.status == 413  # type: ignore[union-attr]
    assert parse(chunked, max_body=11).error is None


def test_an_offered_upgrade_is_ignored_and_the_body_read() -> None:
    data = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
    following = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    for cuts in ([], list(range(len(data)))):
        parser = parse(data + following, cuts)
        assert parser.error is None
        assert [(r.method, r.body) for r in parser.ready] == [(b"POST", b"abc"), (b"GET", b"")]


def test_bytes_after_connection_close_are_not_read() -> None:
    parser = parse(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nrubbish")
    assert parser.error is None
    assert [request.keep_alive for request in parser.ready] == [False]


def test_expect_continue_is_seen_before_the_body() -> None:
    parser = parse(HEAD + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert parser.continue_wanted
    parser.feed(b"abc")
    assert not parser.continue_wanted
    assert parser.ready[0].body == b"abc"


def test_trailers_do_not_become_headers() -> None:
    parser = parse(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nauthorization: x\r\n\r\n")
    assert parser.ready[0].body == b"ab"
    assert parser.ready[0].header(b"authorization") is None


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("more", [b"a" * 1000, b"a: b\r\n" * 200], ids=["one long", "many"])
def test_trailers_are_bounded(more: bytes) -> None:
    parser = h1.RequestParser(max_header=10_000)
    parser.feed(CHUNKED + b"0\r\nx: y\r\nz: ")
    fed = 0
    while parser.error is None:
        parser.feed(more)
        fed += len(more)
        assert fed < 20_000
    assert parser.error.status == 413
    assert not parser.ready


def test_a_body_may_not_be_wrapped_in_much_more_than_it_holds() -> None:
    parser = h1.RequestParser(max_header=10_000)
    parser.feed(CHUNKED)
    for _ in range(2000):
        parser.feed(b"1;" + b"a" * 100 + b"\r\nx\r\n")
    assert parser.error is not None
    assert parser.error.status == 413


def test_a_body_in_crumbs_takes_about_its_size() -> None:
    parser = h1.RequestParser()
    parser.feed(CHUNKED)
    tracemalloc.start()
    for _ in range(50):
        parser.feed(b"2\r\nxy\r\n" * 1000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 4 * 100_000
    parser.feed(h1.LAST_CHUNK)
    assert parser.ready[0].body == b"xy" * 50_000


def test_offers_to_upgrade_in_bulk_are_requests_like_others() -> None:
    offer = b"GET /%d HTTP/1.1\r\nHost:\r\nUpgrade:a\r\nConnection:upgrade\r\n\r\n"
    data = b"".join(offer % number for number in range(2000))
    parser = parse(data + b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [request.target for request in parser.ready] == [b"/%d" % number for number in range(2000)]
    assert parser.error is not None
    assert parser.error.status == 405


bodies = st.binary(max_size=60)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    data, sent = b"", []
    for _ in range(draw(st.integers(1, 3))):
        body = draw(bodies)
        sent.append(body)
        if draw(st.booleans()):
            data += HEAD + b"content-length: %d\r\n\r\n%b" % (len(body), body)
        else:
            parts = [body[i : i + 7] for i in range(0, len(body), 7)]
            chunks = b"".join(h1.chunk(part) for part in parts)
            data += HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + h1.LAST_CHUNK
    return data, sent


@given(requests(), st.lists(st.integers(0, 10_000), max_size=20))
def test_any_split_gives_the_same_requests(case: tuple[bytes, list[bytes]], cuts: list[int]) -> None:
    data, sent = case
    parser = parse(data, cuts)
    assert parser.error is None
    assert [request.body for request in parser.ready] == sent
    assert all(request.target == b"/v1/x?y=1" and request.header(b"host") == b"a" for request in parser.ready)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_no_bytes_crash_the_request_parser(data: bytes, cuts: list[int]) -> None:
    parse(data, cuts)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_no_bytes_after_a_good_head_crash_it(data: bytes) -> None:
    parse(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + data)
    parse(HEAD + data)


def respond(data: bytes, cuts: list[int]) -> tuple[h1.ResponseParser, bytes]:
    parser = h1.ResponseParser()
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    body = b""
    for start, end in itertools.pairwise(edges):
        parser.feed(data[start:end])
        body += parser.take()
    return parser, body


@given(bodies, st.lists(st.integers(0, 500), max_size=20), st.sampled_from(["length", "chunked", "close"]))
def test_any_split_gives_the_same_response(body: bytes, cuts: list[int], framing: str) -> None:
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-A: b \r\n"
    if framing == "length":
        data = head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    elif framing == "chunked":
        chunks = b"".join(h1.chunk(body[i : i + 5]) for i in range(0, len(body), 5))
        data = head + b"transfer-encoding: chunked\r\n\r\n" + chunks + h1.LAST_CHUNK
    else:
        data = b"HTTP/1.0 200 OK\r\nX-A: b \r\n\r\n" + body
    parser, got = respond(data, cuts)
    parser.feed_eof()
    assert (parser.status, got, parser.complete) == (200, body, True)
    assert (b"x-a", b"b") in parser.headers
    assert parser.keep_alive is (framing != "close")


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", b"HTTP/1.1 200 OK\r\n"])
def test_a_cut_response_is_not_taken_for_a_whole_one(data: bytes) -> None:
    parser, _ = respond(data, [])
    with pytest.raises(h1.ProtocolError):
        parser.feed_eof()


def test_a_parser_serves_one_response_after_another_and_nothing_unasked() -> None:
    parser = h1.ResponseParser()
    for text in (b"one", b"three"):
        parser.begin()
        parser.feed(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
        assert parser.complete
        assert parser.take() == text
    with pytest.raises(h1.ProtocolError):
        parser.feed(b"HTTP/1.1 200 OK\r\n")


def test_rubbish_is_not_a_response() -> None:
    with pytest.raises(h1.ProtocolError):
        h1.ResponseParser().feed(b"\x00\x01 not http\r\n\r\n")


@pytest.mark.parametrize("codings", [b"gzip", b"gzip, chunked", b"gzip\r\nTransfer-Encoding: chunked"])
def test_a_response_in_another_coding_is_none(codings: bytes) -> None:
    with pytest.raises(h1.ProtocolError):
        h1.ResponseParser().feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n0\r\n\r\n" % codings)


@pytest.mark.parametrize(
    "void", [b"ff;a=" + b"a" * 999, b"0\r\nx: " + b"a" * 999, b"0\r\n" + b"x: 1\r\n" * 300, b"0" * 999]
)
def test_what_surrounds_a_response_ends_somewhere(void: bytes) -> None:
    parser = h1.ResponseParser()
    parser.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
    assert parser.take() == b"a"
    parser.feed(void)
    more = b"x: 1\r\n" * 200 if void.endswith(b"\n") else void[-1:] * 1000
    with pytest.raises(h1.ProtocolError):
        fed(parser, more, 1100)


def fed(parser: h1.ResponseParser, data: bytes, times: int) -> None:
    for _ in range(times):
        parser.feed(data)


def test_response_head() -> None:
    assert h1.response_head(200, [(b"a", b"b")]) == b"HTTP/1.1 200 OK\r\na: b\r\n"
    assert h1.response_head(529, []).startswith(b"HTTP/1.1 529 ")
