"""Anthropic's Messages in front of engines that only know chats, on top of whatever chat dialect their adapter has. (P)

Invariant: an adapter sees an ordinary chat request and gives an ordinary chat answer; everything about Messages is done
before the one and after the other.
"""

from __future__ import annotations

import msgspec

from adapters import messages_request
from adapters.messages_reply import MessagesWhole
from adapters.messages_stream import MessagesStream
from gateway.errors import InvalidRequest
from gateway.ports import Adapter, Decoder
from gateway.types import Endpoint, InferenceRequest, Operation, UpstreamRequest


def encoded(adapter: Adapter, request: InferenceRequest, endpoint: Endpoint, model: str, limit: str) -> UpstreamRequest:
    """What ``adapter`` makes of the chat, whose tokens it wants limited by ``limit``. Raises as it does, and
    InvalidRequest and Unsupported for what no chat can say, in the words of who sent Messages. Usage is always asked
    for, as Messages tell it unasked.
    """
    try:
        body = messages_request.translated(request.body, stream=request.stream, limit=limit)
        return adapter.encode(_chat(request, body), endpoint, model)
    except InvalidRequest as error:
        raise messages_request.renamed(error, request.body) from None


def asked_as_chat(request: InferenceRequest) -> InferenceRequest:
    """The chat that was asked for, as far as reading its answer goes: what decoders look for in a body is called alike
    in both dialects.
    """
    return _chat(request, request.body)


def _chat(request: InferenceRequest, body: bytes) -> InferenceRequest:
    return msgspec.structs.replace(
        request,
        operation=Operation.CHAT,
        body=body,
        path=Operation.CHAT.value,
        include_usage=request.stream,
        view=None,
    )


def told(request: InferenceRequest, chat: Decoder) -> Decoder:
    """The decoder for an answer that ``chat`` makes a chat's. One that turns out to be a message goes through as it is:
    a proxy that forwards requests itself has not put them as chats, and an engine may be newer than its label says.
    """
    return MessagesStream(chat, request) if request.stream else MessagesWhole(chat, request)
