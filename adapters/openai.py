"""The OpenAI dialect: what most engines and providers speak, and the base of the others. (P)

Invariant: the client's bytes go through as they are unless the model's name, the usage option or a member that is not
the client's to set has to change; nothing of the client's headers but the trace goes upstream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar
from urllib.parse import quote

import msgspec

from adapters import constraint, dialect, failure, messages, rations, turns
from adapters.named import MessagesDecoder, ResponsesDecoder
from adapters.one_call import OneCall, wanted
from adapters.stream import StreamDecoder
from adapters.vocabulary import Vocabulary
from adapters.whole import AnswerDecoder, Misframed, Restreamed, WholeDecoder
from gateway.errors import NotFound, UpstreamError
from gateway.ports import Decoder
from gateway.types import Endpoint, Headers, InferenceRequest, Load, ModelCard, Operation, Ration, UpstreamRequest
from gateway.wire import splice
from gateway.wire.exposition import Layout

_STREAMED = frozenset({Operation.CHAT, Operation.COMPLETIONS})
_COMMON = (
    (b"content-type", b"application/json"),
    (b"accept-encoding", b"identity"),  # events of a compressed stream would be held back until a block is full
    (b"user-agent", b"infer-gateway"),
)
_JSON = (*_COMMON, (b"accept", b"application/json"))
_EVENTS = (*_COMMON, (b"accept", b"text/event-stream"))
_PASSED = frozenset({b"traceparent", b"tracestate", b"via"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


class _Card(msgspec.Struct):
    id: str
    parent: str | None = None
    max_model_len: int | None = None
    owned_by: str | None = None
    created: int | float | None = None
    context_length: int | None = None


class _Listing(msgspec.Struct):
    data: list[_Card]


class OpenAI:
    """One instance serves every endpoint of its kind. ``trusted`` names steering members that clients may set."""

    name = "openai"
    title = "the engine"
    paths: ClassVar[Mapping[Operation, bytes]] = {
        Operation.CHAT: b"/v1/chat/completions",
        Operation.COMPLETIONS: b"/v1/completions",
        Operation.EMBEDDINGS: b"/v1/embeddings",
        Operation.RESPONSES: b"/v1/responses",
    }
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {}
    """Members of chat and completion requests that this engine would drop without a word."""
    strange: ClassVar[frozenset[str]] = frozenset()
    """Members of such requests that change nothing here, and that this engine complains about."""
    constraints: ClassVar[Mapping[str, constraint.Writer] | None] = None
    """What this engine calls what holds an answer to a form; None: nobody knows, and all pass."""
    thoughts: ClassVar[str] = ""
    """What this engine calls an assistant's thoughts in a chat's messages, if it insists on a name."""
    spoken: ClassVar[frozenset[str]] = frozenset()
    """Members of that kind that it knows by their name."""
    vocabulary: ClassVar[Vocabulary | None] = None
    """Of its metrics page; providers have none."""
    limit: ClassVar[str] = "max_completion_tokens"
    """The member by which a chat's tokens are limited where the limit does not come from a chat's client."""
    calls_one: ClassVar[bool] = True
    """Whether ``parallel_tool_calls: false`` is heeded; else it is not sent, and further calls are left out."""
    rationed: ClassVar[rations.Names | None] = rations.OPENAI
    """How answers tell what the provider will still take; engines of one's own do not ration."""

    def __init__(self, trusted: frozenset[str] = frozenset()) -> None:
        self.trusted = trusted
        foreign = constraint.MEMBERS if self.constraints is not None else ()
        self._idle = self.strange if self.calls_one else self.strange | {"parallel_tool_calls"}
        self._watch = dialect.Watch(self.title, self.refused, also=("tools", *foreign, *self._idle))
        self._stolen = frozenset(dialect.STEERING) - trusted

    def encode(self, request: InferenceRequest, endpoint: Endpoint, model: str, /) -> UpstreamRequest:
        operation = request.operation
        if operation is Operation.MESSAGES and self.in_chats(endpoint):
            return messages.encoded(self, request, endpoint, model, self.limit)
        path = self.path(operation, endpoint)
        if endpoint.deployments:
            path = deployed(operation, path, endpoint, model)
        watched = self._watch(request.body)
        body = request.body
        if watched:
            unwanted = self._stolen.intersection(watched)
            if operation in _STREAMED:
                self.refuse(watched, endpoint)
                dialect.check_choice(watched)
                body = self.constrained(operation, body, watched, endpoint)
                unwanted = unwanted.union(self._idle.intersection(watched), dialect.idle_tools(watched))
            if unwanted:
                body = splice.remove(body, unwanted)
        body = self.translate(request, body, endpoint, model)
        return UpstreamRequest(b"POST", path, fixed_headers(request), body, own_headers(request))

    def in_chats(self, endpoint: Endpoint | None = None) -> bool:
        """Whether Messages are asked for as chats: at this endpoint, or (None) at some."""
        return Operation.MESSAGES not in self.paths and Operation.CHAT in self.paths

    def path(self, operation: Operation, endpoint: Endpoint) -> bytes:
        """Where this engine does it. A base path that names a version, as SDKs take it, is not followed by another."""
        path = self.paths.get(operation)
        if path is None:
            raise NotFound(f"{self.title} behind this model does not offer {operation.value}")
        if (endpoint.versioned or endpoint.base_path.endswith("/v1")) and path.startswith(b"/v1/"):
            return path[3:]
        return path

    def refuse(self, watched: dialect.Members, endpoint: Endpoint) -> None:
        """Raises Unsupported for members this engine would drop; a subclass may know better by ``endpoint``."""
        self._watch.refuse(watched)

    def constrained(self, operation: Operation, body: bytes, watched: dialect.Members, endpoint: Endpoint) -> bytes:
        """``body`` with what is to hold the answer to a form in this engine's words. Raises Unsupported."""
        if self.constraints is None:
            return body
        found = constraint.foreign(watched, self.spoken)
        return constraint.written(self.title, found, self.constraints, body) if found else body

    def translate(self, request: InferenceRequest, body: bytes, endpoint: Endpoint, model: str) -> bytes:
        """The body in the engine's dialect; here only the model's name and the usage option may change."""
        if model != request.model:
            body = splice.replace(body, "model", msgspec.json.encode(model), present=bool(request.model))
        if self.thoughts and request.operation is Operation.CHAT:
            body = turns.with_thoughts_named(body, self.thoughts, "reasoning")
        if request.stream and not request.include_usage and request.operation in _STREAMED:
            body = splice.merge(body, "stream_options", "include_usage", b"true")
        return body

    def decoder(self, request: InferenceRequest, status: int, headers: Headers, /) -> Decoder:
        if request.operation is Operation.MESSAGES and self.in_chats():
            return messages.told(request, self._decoder(messages.asked_as_chat(request), headers))
        return self._decoder(request, headers)

    def _decoder(self, request: InferenceRequest, headers: Headers) -> Decoder:
        found = self._framed(request, headers)
        return found if self.calls_one or not wanted(request) else OneCall(found, request)

    def _framed(self, request: InferenceRequest, headers: Headers) -> Decoder:
        """By how the engine answers, which need not be how it was asked to."""
        kind = content_type(headers)
        if not request.stream:
            return Misframed() if kind.startswith(b"text/event-stream") else self.whole(request, headers)
        if b"json" in kind or b"html" in kind:
            return Restreamed(request) if request.operation in _STREAMED else self.whole(request, headers)
        return self.events(request, headers)

    def whole(self, request: InferenceRequest, headers: Headers) -> Decoder:
        """For an answer in one JSON body."""
        return AnswerDecoder(request, headers) if request.operation in _STREAMED else WholeDecoder()

    def events(self, request: InferenceRequest, headers: Headers) -> Decoder:
        """For an answer in events."""
        if request.operation is Operation.RESPONSES:
            return ResponsesDecoder()
        if request.operation is Operation.MESSAGES:
            return MessagesDecoder()
        return StreamDecoder(request, headers)

    def error(self, status: int, headers: Headers, body: bytes, /) -> UpstreamError:
        error = failure.of_answer(status, headers, body)
        if status == 429 and error.retry_after is None:
            left = self.ration(headers)
            error.retry_after = left.wait or None if left is not None else None
        return error

    def ration(self, headers: Headers, /) -> Ration | None:
        return None if self.rationed is None else rations.read(headers, self.rationed)

    def metrics_path(self) -> bytes:
        return b"" if self.vocabulary is None else self.vocabulary.path

    def parse_load(self, exposition: bytes, now: float, layout: Layout | None = None, /) -> Load:
        if self.vocabulary is None:
            raise ValueError(f"{self.title} has no metrics page")
        return self.vocabulary.parse(exposition, now, layout)

    def models_path(self) -> bytes:
        return b"/v1/models"

    def parse_models(self, body: bytes, /) -> Sequence[ModelCard]:
        listing = msgspec.json.decode(body, type=_Listing)
        return [
            ModelCard(
                id=card.id,
                parent=card.parent,
                max_model_len=card.max_model_len or card.context_length,
                owned_by=card.owned_by or "",
                created=int(card.created or 0),
            )
            for card in listing.data
        ]


def deployed(operation: Operation, path: bytes, endpoint: Endpoint, model: str) -> bytes:
    """The path of a model that is deployed under a name of its own, as at Azure; responses name it in the body."""
    root = b"" if endpoint.base_path.endswith("/openai") else b"/openai"
    path = path.removeprefix(b"/v1")
    if operation is Operation.RESPONSES:
        return root + path
    return b"%b/deployments/%b%b" % (root, quote(model, safe="").encode(), path)


def fixed_headers(request: InferenceRequest) -> tuple[tuple[bytes, bytes], ...]:
    """What every request of a kind says upstream."""
    return _EVENTS if request.stream else _JSON


def own_headers(request: InferenceRequest) -> Headers:
    """What goes upstream of this request besides what all have: id, trace and where it was. An id of odd characters
    stays here.
    """
    out = [field for field in request.headers if field[0] in _PASSED]
    if _REQUEST_ID.fullmatch(request.id):
        out.append((b"x-request-id", request.id.encode()))
    return out


def content_type(headers: Headers) -> bytes:
    """The lower-cased media type with its parameters; b"" if none was sent."""
    for name, value in headers:
        if name == b"content-type":
            return value.lower()
    return b""
