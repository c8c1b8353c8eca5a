"""One HTTP request as Envoy's external processing tells it: messages in, replies and events out. (P)

`Session.receive` takes a message and says what to answer, what has to be decided and what is learned of the response;
`Session.routed` turns the decision into replies. How bodies come and go is Envoy's to say (``protocol_config``):

- duplex: nothing is answered before the request is whole; then headers, body in pieces, trailers.
- buffered: headers are answered at once, the one body with the decision.
- streamed, buffered in part, none: the decision is due at the headers, since Envoy heeds header mutations in the
  answer to a body only when buffered; no model is known but from a header.

Invariant: replies of either direction keep the order headers, body, trailers; out of duplex one reply answers one
message; in duplex a body is only ever answered by pieces of a body.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.errors import BodyTooLarge
from gateway.types import Headers
from protocols.extproc import fields, messages, subset
from protocols.extproc.messages import Mode, Mutation
from protocols.extproc.request import Wanted, renamed
from protocols.extproc.restore import Restorer


class Watch(enum.StrEnum):
    """What the picker sees of responses. ``skip``: nothing, its stream ends with the request, and tokens are estimated;
    ``usage``: all, as it is; ``full``: and a model's name that was rewritten is put back.
    """

    SKIP = "skip"
    USAGE = "usage"
    FULL = "full"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``subset``: heed the proxy's hint. ``steering``: heed the conformance suite's header that names endpoints, and
    tell in the response who served. ``scores``: tell the proxy. Modes are for proxies that do not say theirs.
    """

    response: Watch = Watch.FULL
    max_body: int = 32 * 1024 * 1024
    subset: bool = True
    steering: bool = False
    scores: bool = False
    request_mode: Mode = Mode.DUPLEX
    response_mode: Mode = Mode.DUPLEX


class Disorder(Exception):
    """The proxy sends what it must not, or what cannot be served: the stream is of no further use."""


class Responded(msgspec.Struct, frozen=True):
    """``served``: the "ip:port" that answered, "" if the proxy does not say."""

    status: int
    headers: Headers
    served: str = ""


class Step(msgspec.Struct, frozen=True):
    """What one message leads to. ``data`` is of the response's body; ``ended``: the response is whole."""

    wanted: Wanted | None = None
    responded: Responded | None = None
    data: bytes = b""
    replies: Sequence[Any] = ()
    ended: bool = False


class _Phase(enum.IntEnum):
    HEADERS = 0
    BODY = 1
    DECIDING = 2
    PASSING = 3
    ENDED = 4


_NOTHING: Final = Step()
_UNREAD: Final = (Mode.NONE, Mode.STREAMED, Mode.BUFFERED_PARTIAL)
_SERVED_HEADER: Final = "x-conformance-test-served-endpoint"


class Session:
    """One stream, one request. `receive` raises Disorder, and BodyTooLarge."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._phase = _Phase.HEADERS
        self._response = _Phase.HEADERS
        self._mode_in = settings.request_mode
        self._mode_out = settings.response_mode
        self._head = fields.Head()
        self._only: tuple[str, ...] | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._due = ""
        self._restored: tuple[str, str] | None = None
        self._restorer: Restorer | None = None
        self._extra: Headers = ()

    @property
    def responding(self) -> bool:
        """Whether the response's head has been let through: too late for another answer."""
        return self._response is not _Phase.HEADERS

    @property
    def complete(self) -> bool:
        """Whether a stream that the proxy ends now has told all it was to tell: bodies it does not show it cannot."""
        return self._mode_out is Mode.NONE

    def receive(self, message: Any) -> Step:
        kind = message.WhichOneof("request")
        if kind is None:
            raise Disorder("a message that holds no part of a request")
        return _HANDLERS[kind](self, message, getattr(message, kind))

    # -- the request --------------------------------------------------------------------------------------------

    def _request_headers(self, message: Any, part: Any) -> Step:
        if self._phase is not _Phase.HEADERS:
            raise Disorder("request_headers twice")
        self._configure(message)
        self._head = fields.read(part.headers)
        self._hint(message)
        if part.end_of_stream or self._mode_in in _UNREAD:
            return self._decide("request_headers", None, bodiless=part.end_of_stream)
        self._phase = _Phase.BODY
        return _CONTINUE if self._mode_in is not Mode.DUPLEX else _NOTHING

    def _request_body(self, message: Any, part: Any) -> Step:
        if self._phase is _Phase.PASSING and self._mode_in in _UNREAD:
            return _PASS_REQUEST
        if self._phase is not _Phase.BODY:
            raise Disorder("request_body without request_headers, or after its end")
        if self._only is None:
            self._hint(message)
        self._size += len(part.body)
        if self._size > self._settings.max_body:
            raise BodyTooLarge(f"The request's body exceeds {self._settings.max_body} bytes.")
        self._body.append(part.body)
        if self._mode_in is Mode.DUPLEX and not part.end_of_stream:
            return _NOTHING
        return self._decide("request_body", b"".join(self._body) if len(self._body) > 1 else part.body)

    def _request_trailers(self, message: Any, part: Any) -> Step:
        if self._phase is _Phase.BODY:
            return self._decide("request_trailers", b"".join(self._body))
        if self._phase is not _Phase.PASSING:
            raise Disorder("request_trailers out of order")
        self._phase = _Phase.ENDED
        return _PASS_REQUEST_TRAILERS

    def _configure(self, message: Any) -> None:
        if not message.HasField("protocol_config"):
            return
        config = message.protocol_config
        try:
            self._mode_in, self._mode_out = Mode(config.request_body_mode), Mode(config.response_body_mode)
        except ValueError:
            raise Disorder("a body mode other than none, streamed, buffered and full duplex") from None

    def _hint(self, message: Any) -> None:
        if self._settings.subset:
            self._only = subset.parsed(messages.metadata(message, fields.SUBSET_HINT, fields.SUBSET))
        steering = self._head.named.get(fields.STEERING) if self._settings.steering else None
        if steering is not None:
            self._only = subset.within(subset.parsed(steering.decode("latin-1")) or (), self._only)

    def _decide(self, due: str, body: bytes | None, *, bodiless: bool = False) -> Step:
        """``due``: what is to be answered with the decision."""
        self._phase = _Phase.DECIDING
        self._due = due
        self._body = [] if body is None else [body]
        path = self._head.named.get(":path", b"").decode("latin-1")
        return Step(wanted=Wanted(self._head, path, body, self._only, bodiless))

    # -- the decision -------------------------------------------------------------------------------------------

    def routed(
        self,
        addresses: Sequence[str],
        request_id: str,
        *,
        asked: str = "",
        model: str = "",
        extra: Headers = (),
        scores: Mapping[str, float] | None = None,
    ) -> list[Any]:
        """Replies that send the request to ``addresses``, best first. ``asked``: the model as the body names it, ""
        where none was read; ``model``: what the endpoint knows it by. ``extra``: fields for the response.
        """
        self._phase = _Phase.ENDED if self._due == "request_trailers" else _Phase.PASSING
        self._extra = extra
        body = self._body.pop() if self._body else None
        rewritten = body is not None and bool(asked and model) and model != asked
        if body is not None and rewritten:
            body = renamed(body, model)
            self._restored = (model, asked)
        destination = ",".join(addresses)
        mutation = self._mutation(destination, request_id, body)
        replies = self._replies(mutation, body, rewritten)
        messages.annotate(replies[0], fields.DESTINATION, destination)
        if scores:
            messages.annotate(replies[0], fields.SCORES, scores)
        return replies

    def _mutation(self, destination: str, request_id: str, body: bytes | None) -> Mutation:
        changed = [(fields.DESTINATION, destination.encode())]
        if body:
            changed.append(("content-length", b"%d" % len(body)))
        if self._head.named.get("x-request-id") != request_id.encode():  # none, or one not fit for logs
            changed.append(("x-request-id", request_id.encode()))
        return Mutation(changed, self._head.control)

    def _replies(self, mutation: Mutation, body: bytes | None, rewritten: bool) -> list[Any]:
        at_headers = self._mode_in is Mode.DUPLEX or self._due == "request_headers"
        if not at_headers and self._due == "request_body":
            return [messages.body("request_body", body if rewritten else None, mutation, reroute=True)]
        replies = [messages.headers("request_headers", mutation, reroute=True)] if at_headers else []
        if at_headers and body is not None:
            replies += messages.streamed("request_body", body, self._due == "request_body")
        if self._due == "request_trailers":  # buffered without a body: only metadata can still name the endpoint
            replies.append(messages.trailers("request_trailers"))
        return replies

    # -- the response -------------------------------------------------------------------------------------------

    def _response_headers(self, message: Any, part: Any) -> Step:
        if self.responding:
            raise Disorder("response_headers twice")
        head = fields.read(part.headers)
        served = messages.metadata(message, messages.LB, fields.SERVED)
        served = served if isinstance(served, str) else ""
        self._response = _Phase.ENDED if part.end_of_stream else _Phase.BODY
        mutation = self._response_mutation(head, served, part.end_of_stream)
        reply = _PASS_RESPONSE_HEADERS if mutation is None else messages.headers("response_headers", mutation)
        status = head.named.get(":status") or head.named.get("status") or b""
        responded = Responded(int(status) if status.isdigit() and len(status) == 3 else 200, head.fields, served)
        return Step(responded=responded, replies=(reply,), ended=part.end_of_stream)

    def _response_mutation(self, head: fields.Head, served: str, ended: bool) -> Mutation | None:
        """None: as it is. The length of a body in which a name is put back is known too late."""
        changed = [(name.decode(), value) for name, value in self._extra]
        if self._settings.steering and served:
            changed.append((_SERVED_HEADER, served.encode()))
        removed: tuple[str, ...] = ()
        if self._restored and not ended and self._readable(head):
            self._restorer = Restorer(*self._restored)
            removed = ("content-length",)
        return Mutation(changed, removed) if changed or removed else None

    def _readable(self, head: fields.Head) -> bool:
        """Whether a name can be put back into this body: JSON or its events, shown and not compressed."""
        if self._settings.response is not Watch.FULL or self._mode_out is Mode.NONE:
            return False
        if head.named.get("content-encoding", b"identity") != b"identity":
            return False
        kind = next((value for name, value in head.fields if name == b"content-type"), b"")
        return b"json" in kind or kind.startswith(b"text/event-stream")

    def _response_body(self, message: Any, part: Any) -> Step:
        if self._response is not _Phase.BODY:
            raise Disorder("response_body without response_headers, or after its end")
        data, end = part.body, part.end_of_stream
        if end:
            self._response = _Phase.ENDED
        passed = data
        if self._restorer is not None:
            passed = self._restorer.feed(data)
            if end:
                passed += self._restorer.finish()
        if self._mode_out is Mode.DUPLEX:
            return Step(data=data, replies=tuple(messages.streamed("response_body", passed, end)), ended=end)
        reply = _PASS_RESPONSE if passed is data else messages.body("response_body", passed)
        return Step(data=data, replies=(reply,), ended=end)

    def _response_trailers(self, message: Any, part: Any) -> Step:
        if self._response is not _Phase.BODY:
            raise Disorder("response_trailers out of order")
        self._response = _Phase.ENDED
        held = self._restorer.finish() if self._restorer is not None else b""
        if held and self._mode_out is Mode.DUPLEX:
            return Step(replies=(*messages.streamed("response_body", held, False), _RESPONSE_TRAILERS), ended=True)
        return Step(replies=(_RESPONSE_TRAILERS,), ended=True)


_HANDLERS: Final[dict[str, Callable[[Session, Any, Any], Step]]] = {
    "request_headers": Session._request_headers,
    "request_body": Session._request_body,
    "request_trailers": Session._request_trailers,
    "response_headers": Session._response_headers,
    "response_body": Session._response_body,
    "response_trailers": Session._response_trailers,
}
# Replies that are always the same are made once; nobody changes them.
_CONTINUE: Final = Step(replies=(messages.headers("request_headers"),))
_PASS_REQUEST: Final = Step(replies=(messages.body("request_body"),))
_PASS_REQUEST_TRAILERS: Final = Step(replies=(messages.trailers("request_trailers"),))
_PASS_RESPONSE_HEADERS: Final = messages.headers("response_headers")
_PASS_RESPONSE: Final = messages.body("response_body")
_RESPONSE_TRAILERS: Final = messages.trailers("response_trailers")
