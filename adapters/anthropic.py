"""Anthropic's own API: Messages as clients speak it, and chats translated into it and back. (P)

Invariant: Messages go through byte for byte, as far as the model's name allows; what a chat asks for is translated or
refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import msgspec

from adapters import anthropic_request, dialect, rations
from adapters.anthropic_reply import AnthropicRestreamed, AnthropicWhole
from adapters.anthropic_stream import AnthropicStream
from adapters.anthropic_turns import TITLE
from adapters.openai import OpenAI, content_type, fixed_headers, own_headers
from adapters.whole import Misframed
from gateway.ports import Decoder
from gateway.types import Endpoint, Headers, InferenceRequest, ModelCard, Operation, UpstreamRequest

VERSION = b"anthropic-version"
_DEFAULT_VERSION = b"2023-06-01"
_BETA = b"anthropic-beta"


class _Card(msgspec.Struct):
    id: str
    created_at: Any = None


class _Listing(msgspec.Struct):
    data: list[_Card]


class Anthropic(OpenAI):
    """The version is the client's if it speaks this API, else 2023-06-01, unless the endpoint's own fields have one."""

    name = "anthropic"
    title = TITLE
    rationed = rations.ANTHROPIC
    paths: ClassVar[Mapping[Operation, bytes]] = {
        Operation.MESSAGES: b"/v1/messages",
        Operation.CHAT: b"/v1/messages",
        Operation.COUNT_TOKENS: b"/v1/messages/count_tokens",
    }
    refused: ClassVar[Mapping[str, dialect.Refuses]] = anthropic_request.REFUSED

    def encode(self, request: InferenceRequest, endpoint: Endpoint, model: str, /) -> UpstreamRequest:
        if request.operation is not Operation.CHAT:
            sent = super().encode(request, endpoint, model)
            fields = (*sent.extra, *(field for field in request.headers if field[0] == _BETA))
            version = next((value for name, value in request.headers if name == VERSION), _DEFAULT_VERSION)
            extra = _told(fields, endpoint, version)
            return UpstreamRequest(sent.method, sent.path, sent.headers, sent.body, extra)
        watched = self._watch(request.body)
        if watched:
            self.refuse(watched, endpoint)
            dialect.check_choice(watched)
        body = anthropic_request.translated(request.body, model)
        extra = _told(own_headers(request), endpoint, _DEFAULT_VERSION)
        return UpstreamRequest(b"POST", self.path(request.operation, endpoint), fixed_headers(request), body, extra)

    def decoder(self, request: InferenceRequest, status: int, headers: Headers, /) -> Decoder:
        if request.operation is not Operation.CHAT:
            return super().decoder(request, status, headers)
        kind = content_type(headers)
        if not request.stream:
            return Misframed() if kind.startswith(b"text/event-stream") else AnthropicWhole(request, headers)
        if b"json" in kind or b"html" in kind:
            return AnthropicRestreamed(request, headers)
        return AnthropicStream(request, headers)

    def parse_models(self, body: bytes, /) -> Sequence[ModelCard]:
        created = {card.id: _seconds(card.created_at) for card in msgspec.json.decode(body, type=_Listing).data}
        return [msgspec.structs.replace(card, created=created[card.id]) for card in super().parse_models(body)]


def _seconds(moment: object) -> int:
    """Unix time of an RFC 3339 date and time; 0 for anything else."""
    try:
        return int(datetime.fromisoformat(moment).timestamp()) if isinstance(moment, str) else 0
    except ValueError:
        return 0


def _told(fields: Headers, endpoint: Endpoint, version: bytes) -> Headers:
    """The fields with the API's version, which has to be told once."""
    if any(name == VERSION for name, _ in endpoint.headers):
        return fields
    return (*fields, (VERSION, version))
