"""Validation failures worded as the Python engines' web framework words them. (P)"""

from __future__ import annotations

import json
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


def mistyped(fields: dict[str, Any]) -> Flaw | None:
    """The first known member of a wrong type."""
    for name in ("max_tokens", "max_completion_tokens", "n", "seed", "top_logprobs", "max_output_tokens"):
        value = fields.get(name)
        if isinstance(value, str) and not value.lstrip("-").isdigit():
            message = "Input should be a valid integer, unable to parse string as an integer"
            return Flaw("int_parsing", name, message, value)
        if isinstance(value, str | dict | list):
            return Flaw("int_type", name, "Input should be a valid integer", value)
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        value = fields.get(name)
        if isinstance(value, str):
            message = "Input should be a valid number, unable to parse string as a number"
            return Flaw("float_parsing", name, message, value)
    for name, kind, phrase in (
        ("messages", list, "list"),
        ("tools", list, "list"),
        ("stream_options", dict, "dictionary"),
    ):
        value = fields.get(name)
        if value is not None and not isinstance(value, kind):
            return Flaw(f"{phrase}_type", name, f"Input should be a valid {phrase}", value)
    return None
