"""Messages as one prompt, as a chat template would render them. (P)

Invariant: a conversation's prompt begins with the prompt of its earlier turns, so prefix reuse behaves as with a real
template.
"""

from __future__ import annotations

from typing import Any

import msgspec


def render(messages: list[Any], tools: Any = None) -> bytes:
    """The prompt of a conversation. Anything that is not text is represented by its JSON."""
    parts: list[str] = []
    if tools:
        parts.append(f"<|im_start|>tools\n{msgspec.json.encode(tools).decode()}<|im_end|>\n")
    for message in messages:
        role = message.get("role", "user") if isinstance(message, dict) else "user"
        parts.append(f"<|im_start|>{role}\n{content(message)}<|im_end|>\n")
    parts.append("<|im_start|>assistant\n")
    return "".join(parts).encode()


def content(message: Any) -> str:
    """A message's text; with the calls it made, if it made some."""
    if not isinstance(message, dict):
        return str(message)
    body = flat(message.get("content"))
    calls = message.get("tool_calls")
    return body + msgspec.json.encode(calls).decode() if calls else body


def flat(value: Any) -> str:
    """Content as text: a string, nothing, or parts."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        return "".join(part.get("text") or _other(part) if isinstance(part, dict) else str(part) for part in value)
    return _other(value)


def _other(part: Any) -> str:
    return msgspec.json.encode(part).decode()


def said(messages: list[Any]) -> str:
    """What the user said last: decides whether a tool is asked for by name."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return content(message)
    return ""
