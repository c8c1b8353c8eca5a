"""A chat's messages as engines want them that want them otherwise: thoughts by another name, results with a name. (P)

Invariant: a message in which nothing has to change keeps its bytes, and so does a body in which no message does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from adapters import dialect
from gateway.wire import splice

Turn = dict[str, msgspec.Raw]
_TURNS = msgspec.json.Decoder(list[Turn])
_ASSISTANT, _TOOL = b'"assistant"', b'"tool"'


def mended(body: bytes, mend: Callable[[Turn], Turn | None]) -> bytes:
    """``body`` with each message as ``mend`` makes it; None: as it is. What is no list of messages is left alone."""
    try:
        turns = _TURNS.decode(dialect.members(body).get("messages", b"[]"))
    except msgspec.DecodeError:
        return body
    made = [mend(turn) for turn in turns]
    if not any(made):
        return body
    whole = msgspec.json.encode([new or old for new, old in zip(made, turns, strict=True)])
    return splice.replace(body, "messages", whole, present=True)


def with_thoughts_named(body: bytes, name: str, other: str) -> bytes:
    """What an assistant thought, as vLLM and Ollama (``reasoning``) or all others (``reasoning_content``) call it."""
    if b'"%b"' % other.encode() not in body:
        return body

    def mend(turn: Turn) -> Turn | None:
        if bytes(turn.get("role", b"")) != _ASSISTANT or other not in turn or name in turn:
            return None
        return {name if key == other else key: value for key, value in turn.items()}

    return mended(body, mend)


def with_thoughts(body: bytes, name: str) -> bytes:
    """With a blank thought in each assistant's message that has none, for who insists on getting thoughts back."""

    def mend(turn: Turn) -> Turn | None:
        if bytes(turn.get("role", b"")) != _ASSISTANT or name in turn:
            return None
        return {**turn, name: msgspec.Raw(b'" "')}

    return mended(body, mend)


def with_result_names(body: bytes) -> bytes:
    """Each tool's result with the name of the function that was called, which OpenAI's API tells by the call's id."""
    if b'"tool_call_id"' not in body:
        return body
    names: dict[str, msgspec.Raw] = {}

    def mend(turn: Turn) -> Turn | None:
        names.update(_calls(turn))
        if bytes(turn.get("role", b"")) != _TOOL or "name" in turn:
            return None
        called = names.get(str(dialect.value(turn, "tool_call_id")))
        return None if called is None else {**turn, "name": called}

    return mended(body, mend)


class _Function(msgspec.Struct):
    name: msgspec.Raw = msgspec.Raw(b'""')


class _Call(msgspec.Struct):
    function: _Function
    id: Any = None


_CALLS = msgspec.json.Decoder(list[_Call] | None)


def _calls(turn: Turn) -> list[tuple[str, msgspec.Raw]]:
    """Ids and functions' names of the calls in a message."""
    try:
        calls = _CALLS.decode(turn.get("tool_calls", b"null")) or []
    except msgspec.DecodeError:
        return []
    return [(str(call.id), call.function.name.copy()) for call in calls]
