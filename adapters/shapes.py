"""What both translators between chats and Messages share: members read by type, pictures, arguments of calls. (P)

Invariant: what a client wrote is translated or refused with the path of the member at fault; arguments that a model
has made a mess of are kept as text, so that a conversation survives them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from gateway.errors import InvalidRequest

_T = TypeVar("_T")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[^;,]*)*;base64,")
_OBJECT: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
SPOILT = "INVALID_JSON"
"""The member that holds arguments which are no JSON object, as Anthropic advises."""


def read(decoder: msgspec.json.Decoder[_T], raw: bytes | msgspec.Raw, name: str = "") -> _T:
    """``raw``, which is the member ``name`` (or a whole body), decoded. Raises InvalidRequest with its path."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        message, _, at = str(error).partition(" - at `$")
        param = f"{name}{at.removesuffix('`')}".lstrip(".")
        raise invalid(param, f"{message[:1].lower()}{message[1:]}") from None
    except (ValueError, RecursionError):
        raise invalid(name, "no JSON that can be read") from None


def invalid(param: str, why: str) -> InvalidRequest:
    """The caller's mistake in the member at that path; "" is the body as a whole."""
    return InvalidRequest(f"Invalid value for '{param or 'body'}': {why}.", param=param or None)


def data_url(url: str) -> tuple[str, str] | None:
    """Media type and base64 text of a ``data:`` URL; None for any other."""
    head = _DATA_URL.match(url)
    return None if head is None else (head.group(1), url[head.end() :])


def arguments(text: object) -> Any:
    """A call's arguments, which OpenAI has as text, as the JSON object that Anthropic has."""
    if isinstance(text, Mapping):
        return text
    if not isinstance(text, str) or not text.strip():
        return {}
    try:
        _OBJECT.decode(text)
    except (ValueError, RecursionError):
        return {SPOILT: text}
    return msgspec.Raw(text.encode())


def arguments_text(given: msgspec.Raw) -> str:
    """A call's input as OpenAI has it; what `arguments` had to pack is unpacked."""
    text = bytes(given).decode() or "{}"
    if SPOILT in text:
        try:
            packed = msgspec.json.decode(text, type=dict[str, str])
        except (ValueError, RecursionError):
            return text
        if list(packed) == [SPOILT]:
            return packed[SPOILT]
    return text


def absent(raw: msgspec.Raw) -> bool:
    """Whether a member typed `Raw` is missing or null."""
    return bytes(raw) in (b"", b"null")
