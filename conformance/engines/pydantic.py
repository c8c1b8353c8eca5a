"""Validation failures worded as the Python engines' web framework words them. (P)"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec


class Flaw(msgspec.Struct, frozen=True):
    """One failed check: pydantic's type, the member ("" is the body itself), the message and the value."""

    kind: str
    member: str | int
    message: str
    input: Any = None
    context: str = ""


def bad_json(body: bytes) -> Flaw:
    """Where and why the standard library's parser gives up."""
    try:
        json.loads(body)
    except RecursionError:
        return Flaw("json_invalid", 0, "JSON decode error", {}, "Nested too deeply")
    except ValueError as error:
        at = error.pos if isinstance(error, json.JSONDecodeError) else 0
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return Flaw("json_invalid", at, "JSON decode error", {}, why)
    return Flaw("json_invalid", 0, "JSON decode error", {}, "Expecting value")


def not_object(value: Any) -> Flaw:
    message = "Input should be a valid dictionary or object to extract fields from"
    return Flaw("model_attributes_type", "", message, value)


def missing(fields: dict[str, Any], *names: str) -> Flaw | None:
    """The first of ``names`` that is absent or null."""
    for name in names:
        if fields.get(name) is None:
            return Flaw("missing", name, "Field required", fields)
    return None


_INTEGERS = ("max_tokens", "max_completion_tokens", "n", "seed", "top_logprobs", "max_output_tokens")
_NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_KINDS = (
    ("messages", list, "list"),
    ("tools", list, "list"),
    ("stream_options", dict, "dictionary"),
    ("response_format", dict, "dictionary"),
    ("model", str, "string"),
)


def mistyped(fields: dict[str, Any]) -> Flaw | None:
    """The first known member of a wrong type."""
    for name in _INTEGERS:
        value = fields.get(name)
        if isinstance(value, str) and not value.lstrip("-").isdigit():
            message = "Input should be a valid integer, unable to parse string as an integer"
            return Flaw("int_parsing", name, message, value)
        if isinstance(value, str | dict | list):
            return Flaw("int_type", name, "Input should be a valid integer", value)
    for name in _NUMBERS:
        value = fields.get(name)
        if isinstance(value, str):
            message = "Input should be a valid number, unable to parse string as a number"
            return Flaw("float_parsing", name, message, value)
        if isinstance(value, dict | list):
            return Flaw("float_type", name, "Input should be a valid number", value)
    for name, kind, phrase in _KINDS:
        value = fields.get(name)
        if value is not None and not isinstance(value, kind):
            return Flaw(f"{phrase}_type", name, f"Input should be a valid {phrase}", value)
    return _union(fields) or _messages(fields.get("messages") or ())


def _union(fields: dict[str, Any]) -> Flaw | None:
    """Members that may be of several types, and flags."""
    for name in ("stream", "logprobs"):
        value = fields.get(name)
        if isinstance(value, str) and value.lower() not in ("true", "false"):
            message = "Input should be a valid boolean, unable to interpret input"
            return Flaw("bool_parsing", name, message, value)
    stop = fields.get("stop")
    if stop is not None and not isinstance(stop, str | list):
        return Flaw("string_type", "stop", "Input should be a valid string", stop)
    form = (fields.get("response_format") or {}).get("type", "text")
    if form not in _FORMATS:
        message = f"Input should be {', '.join(map(repr, _FORMATS[:-1]))} or {_FORMATS[-1]!r}"
        return Flaw("literal_error", "response_format.type", message, form)
    return None


_FORMATS = ("text", "json_object", "json_schema", "structural_tag")


def _messages(messages: Iterable[Any]) -> Flaw | None:
    """The first turn that is none."""
    for at, message in enumerate(messages):
        where = f"messages.{at}"
        if not isinstance(message, dict):
            return Flaw("dict_type", where, "Input should be a valid dictionary", message)
        if "role" not in message:
            return Flaw("missing", f"{where}.role", "Field required", message)
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            return Flaw("string_type", f"{where}.content", "Input should be a valid string", content)
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                return Flaw("missing", f"{where}.content.type", "Field required", part)
    return None


def out_of_range(fields: dict[str, Any]) -> tuple[str, float, str] | None:
    """The first sampling parameter that vLLM and SGLang refuse for its value: name, value, what it has to be."""
    for name, low, high in (("presence_penalty", -2, 2), ("frequency_penalty", -2, 2)):
        value = fields.get(name)
        if value is not None and not low <= value <= high:
            return name, float(value), "must be in [-2, 2]"
    top_p = fields.get("top_p")
    if top_p is not None and not 0 < top_p <= 1:
        return "top_p", float(top_p), "must be in (0, 1]"
    return None
