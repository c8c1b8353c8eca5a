"""HTTP/1.1: where a message ends, judged by h11 as well. (P)

Property: any split of the bytes gives the same messages and the same end; what the gateway takes, h11 takes too, or
refuses for other reasons than framing, and then method, target, fields and body are the same and so is whether the
connection goes on: the gateway may be stricter than another reader, never see another end. Under tight limits no
message exceeds them. Only ProtocolError is ever raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import h11

from gateway.wire import h1
from tests.fuzz.pieces import cut

_FRAMING = (
    "bad Content-Length",
    "conflicting Content-Length",
    "multiple Transfer-Encoding",
    "Only Transfer-Encoding",
    "illegal chunk header",
    "malformed chunk footer",
    "peer closed connection",
)
"""How h11's words begin where it does not know where a message ends."""
_MAX = 1 << 20
Headers = list[tuple[bytes, bytes]]
Message = tuple[bytes, bytes, Headers, bytes, bool]


def target(data: bytes) -> None:
    """First byte: requests or a response, and how they are cut; the rest are the connection's bytes."""
    if not data:
        return
    choice, wire = data[0], data[1:]
    if choice & 1:
        _response(wire, choice >> 2)
    elif choice & 2:
        _limited(wire, choice >> 2)
    else:
        _requests(wire, choice >> 2)


# -- requests ----------------------------------------------------------------------------------------------------------


def _requests(wire: bytes, seed: int) -> None:
    whole, pieces = h1.RequestParser(), h1.RequestParser()
    whole.feed(wire)
    for piece in cut(wire, seed):
        pieces.feed(piece)
    ready = list(whole.ready)
    assert ready == list(pieces.ready), (ready, pieces.ready)
    assert (whole.error and whole.error.status) == (pieces.error and pieces.error.status), (whole.error, pieces.error)
    for request, other in zip(ready, _others(wire), strict=False):
        _alike(request, other)


def _alike(request: h1.Request, other: Message | str) -> None:
    if isinstance(other, str):
        assert not _about_framing(other, request.headers), (other, request)
        return
    method, target, headers, body, keeps = other
    assert (request.method, request.target, request.body) == (method, target, body), (request, other)
    assert _plain(request.headers) == headers or b"upgrade" in dict(headers), (request, other)
    assert keeps or request.http10 or not request.keep_alive, (request, other)


def _about_framing(complaint: str, headers: Headers) -> bool:
    """Zeros before a length, which h11 counts as digits of it, leave no doubt about it."""
    lengths = [value for name, value in headers if name == b"content-length"]
    if len(lengths) == 1 and lengths[0].isdigit() and complaint.startswith("bad Content-Length"):
        return False
    return complaint.startswith(_FRAMING)


def _plain(headers: Headers) -> Headers:
    """As h11 gives them, which spells the one transfer coding there is in its own way."""
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers]


def _others(wire: bytes) -> Iterator[Message | str]:
    """The requests as h11 reads them, the last one perhaps the reason why it does not."""
    while wire:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX)
        connection.receive_data(wire)
        try:
            request, body = _read(connection)
        except h11.RemoteProtocolError as error:
            yield str(error)
            return
        if not isinstance(request, h11.Request):
            yield "peer closed connection"
            return
        keeps = connection.their_state is not h11.MUST_CLOSE
        yield request.method, request.target, list(request.headers), body, keeps
        wire = connection.trailing_data[0]


def _read(connection: h11.Connection) -> tuple[h11.Request | h11.Response | None, bytes]:
    """The head and the body of one message; None if it is not whole."""
    head, body = None, []
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            if head is not None and str(error).startswith(_FRAMING[:4]):  # of trailers, which nobody heeds
                raise h11.RemoteProtocolError("trailers") from None
            raise
        if isinstance(event, (h11.Request, h11.Response)):
            head = event
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return head, b"".join(body)
        elif not isinstance(event, h11.InformationalResponse):
            return None, b""


def _limited(wire: bytes, seed: int) -> None:
    parser = h1.RequestParser(max_header=64, max_body=32)
    for piece in cut(wire, seed):
        parser.feed(piece)
        assert sum(map(len, parser._body)) + len(parser._crumbs or b"") <= 32 + 200
        assert parser.error or sum(len(n) + len(v) for n, v in parser._headers) <= 64 + 200
    for request in parser.ready:
        assert len(request.body) <= 32, request


# -- a response --------------------------------------------------------------------------------------------------------


def _response(wire: bytes, seed: int) -> None:
    whole, pieces = _taken([wire]), _taken(cut(wire, seed))
    assert whole[:-1] == pieces[:-1], (whole, pieces)
    complete, status, headers, body, _ = whole
    if not complete:
        return
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(wire)
    connection.receive_data(b"")
    try:
        other, others_body = _read(connection)
    except h11.RemoteProtocolError as error:
        complaint = str(error)
    else:
        complaint = ""
    assert not _about_framing(complaint, headers), (complaint, whole)
    if complaint:
        return
    assert isinstance(other, h11.Response), whole
    assert (status, body, _plain(headers)) == (other.status_code, others_body, list(other.headers)), (whole, other)


def _taken(pieces: Iterable[bytes]) -> tuple[bool, int, Headers, bytes, bool]:
    """What becomes of a response; it is complete only if nothing was wrong until it was."""
    parser, body = h1.ResponseParser(), []
    try:
        for piece in pieces:
            parser.feed(piece)
            body.append(parser.take())
        parser.feed_eof()
    except h1.ProtocolError:
        if not parser.complete:
            return False, 0, [], b"", False
    return True, parser.status, parser.headers, b"".join([*body, parser.take()]), parser.keep_alive
