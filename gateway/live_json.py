"""Plain values as JSON in which everything can be seen, whatever text they hold. (P)"""

from __future__ import annotations

from typing import Any

import msgspec


def encode(value: Any) -> msgspec.Raw:
    """As JSON; what is no number is null, and what is not printable is escaped: a terminal shows just that. Halves of
    surrogate pairs, which UTF-8 cannot say and hostile names may hold, are shown as in a Python literal.
    """
    try:
        data = msgspec.json.encode(value)
    except UnicodeEncodeError:
        data = msgspec.json.encode(_escaped(value))
    return msgspec.Raw(visible(data))


def visible(data: bytes) -> bytes:
    """JSON on one line, with what is not printable escaped."""
    if data.isascii() and b"\x7f" not in data:
        return data
    text = data.decode()
    return data if text.isprintable() else "".join(map(_character, text)).encode()


def _character(character: str) -> str:
    if character.isprintable():
        return character
    point = ord(character)
    if point < 0x10000:
        return f"\\u{point:04x}"
    return f"\\u{0xD7C0 + (point >> 10):04x}\\u{0xDC00 + (point & 0x3FF):04x}"


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_escaped(key): _escaped(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(each) for each in value]
    return _escaped(msgspec.to_builtins(value)) if isinstance(value, msgspec.Struct) else value
