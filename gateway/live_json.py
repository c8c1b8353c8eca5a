"""Plain values as JSON, whatever text they hold. (P)"""

from __future__ import annotations

from typing import Any

import msgspec


def encode(value: Any) -> msgspec.Raw:
    """As JSON; what is no number is null. Halves of surrogate pairs, which UTF-8 cannot say and hostile names may hold,
    are shown as in a Python literal.
    """
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except UnicodeEncodeError:
        return msgspec.Raw(msgspec.json.encode(_escaped(value)))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_escaped(key): _escaped(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(each) for each in value]
    return _escaped(msgspec.to_builtins(value)) if isinstance(value, msgspec.Struct) else value
