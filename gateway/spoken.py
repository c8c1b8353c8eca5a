"""What was asked and answered, as OpenTelemetry's conventions write conversations, for who wants it in spans. (P)

Invariant: nothing in a request or an answer raises here: what makes no sense is left out. Media are named, not copied.

Source: gen_ai.input.messages and gen_ai.output.messages of the conventions for generative AI.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

_TEXTS: Final = ("text", "input_text", "output_text", "refusal", "summary_text")
"""Kinds of parts that are text, in chats, Messages and Responses."""


def asked(body: bytes, limit: int) -> str:
    """Of a request for text the messages as JSON, cut to some ``limit`` characters of text; "" if there are none."""
    request = _object(body)
    budget = _Budget(limit)
    messages: list[dict[str, object]] = [
        {"role": "system", "parts": _parts(request[key], budget)}
        for key in ("system", "instructions")
        if request.get(key)
    ]
    for given in _list(request.get("messages") or request.get("input") or request.get("prompt")):
        turn = given if isinstance(given, dict) else {"role": "user", "content": given}
        parts = _parts(turn.get("content"), budget) + _calls(turn.get("tool_calls"), budget)
        if turn.get("role") == "tool":
            parts = [{"type": "tool_call_response", "id": turn.get("tool_call_id"), "response": parts}]
        messages.append({"role": turn.get("role", "user"), "parts": parts})
    return _encoded(messages)


def answered(said: bytes, limit: int) -> str:
    """Likewise of what a client was sent, whole or as a stream of events, to its end or not."""
    budget = _Budget(limit)
    choices: dict[object, _Choice] = {}
    for event in _events(said):
        for index, piece in _pieces(event):
            choices.setdefault(index, _Choice()).add(piece, budget)
    return _encoded([choice.message() for choice in choices.values()])


class _Budget:
    """Characters that may still be kept."""

    def __init__(self, left: int) -> None:
        self._left = left

    def cut(self, text: str) -> str:
        kept = text[: self._left]
        self._left -= len(kept)
        return kept


class _Choice:
    """One answer, as it grows."""

    def __init__(self) -> None:
        self._parts: list[dict[str, object]] = []
        self._text: list[str] = []
        self._end: object = None

    def add(self, piece: dict[str, Any], budget: _Budget) -> None:
        for part in _parts(piece.get("content"), budget) + _calls(piece.get("tool_calls"), budget):
            if part["type"] == "text":
                self._text.append(str(part["content"]))
            else:
                self._parts.append(part)
        self._end = piece.get("end") or self._end

    def message(self) -> dict[str, object]:
        text = "".join(self._text)
        parts = [{"type": "text", "content": text}, *self._parts] if text else self._parts
        return {"role": "assistant", "parts": parts, "finish_reason": self._end}


def _events(said: bytes) -> Iterator[dict[str, Any]]:
    if said[:1] == b"{":
        yield _object(said)
        return
    for line in said.split(b"\n"):
        if line.startswith(b"data:"):
            yield _object(line[5:])


def _pieces(event: dict[str, Any]) -> Iterator[tuple[object, dict[str, Any]]]:
    """(index of the answer, what it gets): of a chat's or completion's chunk, of Responses' and Messages' events."""
    for choice in _list(event.get("choices")):
        if isinstance(choice, dict):
            said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            if isinstance(said, dict):
                yield str(choice.get("index")), {**said, "end": choice.get("finish_reason")}
    kind, delta = event.get("type"), event.get("delta")
    if kind == "response.output_text.delta":
        yield "", {"content": delta}
    elif kind in ("content_block_delta", "message_delta") and isinstance(delta, dict):
        yield "", {"content": delta.get("text"), "end": delta.get("stop_reason")}
    elif kind == "message":
        yield "", {"content": event.get("content"), "end": event.get("stop_reason")}
    elif event.get("object") == "response":
        for item in _list(event.get("output")):
            if isinstance(item, dict):
                yield "", {"content": item.get("content"), "end": event.get("status")}


def _parts(content: object, budget: _Budget) -> list[dict[str, object]]:
    parts: list[dict[str, object]] = []
    for part in _list(content):
        if isinstance(part, str):
            parts.append({"type": "text", "content": budget.cut(part)})
        elif isinstance(part, dict) and part.get("type", "text") in _TEXTS:
            text = part.get("text")
            parts.append({"type": "text", "content": budget.cut(text) if isinstance(text, str) else ""})
        elif isinstance(part, dict):
            parts.append({"type": budget.cut(str(part.get("type")))})
    return parts


def _calls(calls: object, budget: _Budget) -> list[dict[str, object]]:
    parts: list[dict[str, object]] = []
    for call in _list(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            words = {name: budget.cut(str(function.get(name) or "")) for name in ("name", "arguments")}
            parts.append({"type": "tool_call", "id": call.get("id"), **words})
    return parts


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _list(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _encoded(messages: list[dict[str, object]]) -> str:
    return msgspec.json.encode(messages).decode() if messages else ""
