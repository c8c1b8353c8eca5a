"""What an API server does with an object of a custom resource: dropping, filling in, schema, rules."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import cel
from jsonschema import Draft4Validator

from gateway.config import duration

PRESERVE = "x-kubernetes-preserve-unknown-fields"
RULES = "x-kubernetes-validations"


def stored(value: Any, schema: dict[str, Any]) -> Any:
    """``value`` without members that are unknown or null."""
    if isinstance(value, list) and "items" in schema:
        return [stored(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return value
    members = {
        name: (_of(schema, name), item)
        for name, item in value.items()
        if _of(schema, name) is not None or PRESERVE in schema
    }
    return {
        name: item if of is None else stored(item, of)
        for name, (of, item) in members.items()
        if item is not None or of is None
    }


def filled(value: Any, schema: dict[str, Any]) -> Any:
    """``value`` with defaults."""
    if isinstance(value, list) and "items" in schema:
        return [filled(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return value
    given = {
        name: deepcopy(of["default"]) for name, of in schema.get("properties", {}).items() if "default" in of
    } | value
    return {name: filled(item, _of(schema, name) or {}) for name, item in given.items()}


def _of(schema: dict[str, Any], name: str) -> dict[str, Any] | None:
    return schema.get("properties", {}).get(name, schema.get("additionalProperties"))


def refused(value: Any, schema: dict[str, Any], old: Any = None) -> list[str]:
    """Why an API server does not take ``value``, which has been `filled`; rules only where the rest is right."""
    problems = [
        f"{error.json_path}: {error.message}" for error in Draft4Validator(_pythonic(schema)).iter_errors(value)
    ]
    return problems or list(_broken(value, schema, old, "$"))


def _pythonic(schema: Any) -> Any:
    """Patterns as Python reads them: its "$" also goes before a newline at the end."""
    if isinstance(schema, list):
        return [_pythonic(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _pythonic(value) for name, value in schema.items()}
    if isinstance(made.get("pattern"), str) and made["pattern"].endswith("$"):
        made["pattern"] = made["pattern"][:-1] + r"\Z"
    return made


def _broken(value: Any, schema: dict[str, Any], old: Any, path: str) -> Iterator[str]:
    for rule in schema.get(RULES, ()):
        if old is not None or "oldSelf" not in rule["rule"]:
            yield from (f"{path}{rule.get('fieldPath', '')}: {each}" for each in _judged(rule, value, old))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _broken(item, schema.get("items", {}), None, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            before = old.get(name) if isinstance(old, dict) else None
            yield from _broken(item, _of(schema, name) or {}, before, f"{path}.{name}")


def _judged(rule: dict[str, str], value: Any, old: Any) -> Iterator[str]:
    context = cel.Context()
    context.add_function("lowerAscii", lambda text: "".join(c.lower() if c.isascii() else c for c in text))
    context.add_function("parsed", lambda text: round(duration.parse(text) * 10**9))
    context.add_variable("self", value)
    context.add_variable("oldSelf", old)
    try:
        held = _compiled(rule["rule"]).execute(context)
    except (RuntimeError, ValueError, TypeError) as error:
        yield f"{rule['message']} ({error})"
        return
    if held is not True:
        yield rule["message"]


@cache
def _compiled(rule: str) -> cel.Program:
    return cel.compile(rule.replace("duration(", "parsed("))  # the package's knows no µs, and wraps around
