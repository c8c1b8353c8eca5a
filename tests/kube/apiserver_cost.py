"""What a CEL rule may cost, as the real server estimates it before it takes a definition. (P)

The server refuses rules that could be too dear for the largest object that their schema lets pass: lists, maps and
strings without a bound count as long as a request may be. Where its arithmetic is finer, this one errs to the cheap
side: what is refused here is refused there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Tree = dict[str, Any]
RULE_LIMIT, DEFINITION_LIMIT = 10_000_000, 100_000_000
REQUEST = 3 << 20
"""Bytes that a request may have."""
_TRAVERSAL, _REGEX = 0.1, 0.25
_TOKEN = re.compile(
    r"\s*(?:(?P<string>[rR]?(?:\"\"\".*?\"\"\"|'''.*?'''|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'))"
    r"|(?P<number>\d[\w.]*)|(?P<name>[A-Za-z_]\w*)|(?P<sign>&&|\|\||[=!<>]=|[-+*/%<>!?:.,()\[\]{}]))",
    re.DOTALL,
)
_MACROS = ("all", "exists", "exists_one", "map", "filter")
_LEVELS = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))


@dataclass(frozen=True)
class Cost:
    """Of a part of an expression. ``schema`` and ``size``: of its value, its size 0 where nothing is known."""

    units: float = 0
    schema: Tree | None = None
    size: float = 0


@dataclass
class Estimate:
    """One reading of an expression, from left to right."""

    tokens: list[tuple[str, str]]
    names: dict[str, Cost] = field(default_factory=dict)
    at: int = 0

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> tuple[str, str]:
        kind, text = self.tokens[self.at]
        if wanted and text != wanted:
            raise ValueError(f"{text!r} instead of {wanted!r}")
        self.at += 1
        return kind, text

    def whole(self) -> Cost:
        asked = self.level(0)
        if self.peek() != "?":
            return asked
        self.take("?")
        one = self.whole()
        self.take(":")
        other = self.whole()
        return Cost(asked.units + max(one.units, other.units), one.schema or other.schema, max(one.size, other.size))

    def level(self, level: int) -> Cost:
        if level == len(_LEVELS):
            return self.unary()
        left = self.level(level + 1)
        while self.peek() in _LEVELS[level]:
            _, sign = self.take()
            left = _joined(sign, left, self.level(level + 1))
        return left

    def unary(self) -> Cost:
        if self.peek() in ("!", "-"):
            self.take()
            return Cost(self.unary().units + 1)
        return self.member()

    def member(self) -> Cost:
        value = self.primary()
        while self.peek() in (".", "["):
            _, sign = self.take()
            if sign == "[":
                index = self.whole()
                self.take("]")
                value = _of(_element(value.schema), value.units + index.units + 1)
                continue
            _, name = self.take()
            if self.peek() != "(":
                value = _of(_property(value.schema, name), value.units + 1)
            elif name in _MACROS:
                value = self.macro(name, value)
            else:
                value = _called(name, [value, *self.arguments()])
        return value

    def macro(self, name: str, over: Cost) -> Cost:
        self.take("(")
        _, variable = self.take()
        self.take(",")
        before = self.names.get(variable)
        is_map = bool(over.schema) and (over.schema or {}).get("type") == "object"
        self.names[variable] = Cost(1) if is_map else _of(_element(over.schema), 1)
        units = self.whole().units
        while self.peek() == ",":
            self.take()
            units += self.whole().units
        self.take(")")
        self.names.pop(variable)
        if before is not None:
            self.names[variable] = before
        each = units + (12 if name in ("map", "filter") else 3)
        kept = over.schema if name == "filter" else None
        return Cost(over.units + over.size * each + 2, kept, over.size if name in ("map", "filter") else 0)

    def primary(self) -> Cost:
        kind, text = self.take()
        if text == "(":
            value = self.whole()
            self.take(")")
            return value
        if text in ("[", "{"):
            return self.listed("]" if text == "[" else "}")
        if kind == "string":
            return Cost(0, None, len(text) - 2)
        if kind == "number" or text in ("true", "false", "null"):
            return Cost()
        if self.peek() == "(":
            arguments = self.arguments()
            return Cost(1) if text == "has" else _called(text, arguments)
        return self.names.get(text, Cost(1))

    def listed(self, end: str) -> Cost:
        units, count = 10.0 if end == "]" else 30.0, 0
        while self.peek() != end:
            units += self.whole().units
            count += 1
            if self.peek() in (",", ":"):
                self.take()
        self.take(end)
        return Cost(units, None, count)

    def arguments(self) -> list[Cost]:
        found = []
        self.take("(")
        while self.peek() != ")":
            found.append(self.whole())
            if self.peek() == ",":
                self.take()
        self.take(")")
        return found


def _joined(sign: str, left: Cost, right: Cost) -> Cost:
    units = left.units + right.units
    if sign in ("&&", "||"):
        return Cost(units)
    if sign == "in":
        return Cost(units + right.size)
    text = [_is_text(side) for side in (left, right)]
    if sign == "+" and any(text):
        return Cost(units + (left.size + right.size) * _TRAVERSAL, None, left.size + right.size)
    if sign in ("==", "!=", "<", "<=", ">", ">=") and all(text):
        return Cost(units + max(1.0, min(left.size, right.size) * _TRAVERSAL))
    return Cost(units + 1)


def _is_text(value: Cost) -> bool:
    return value.size > 0 and (value.schema is None or value.schema.get("type") == "string")


def _called(name: str, arguments: list[Cost]) -> Cost:
    units = sum(each.units for each in arguments)
    size = arguments[0].size if arguments else 0
    second = arguments[1].size if len(arguments) > 1 else 0
    if name == "matches":
        return Cost(units + (size + 1) * _TRAVERSAL * max(1.0, second * _REGEX))
    if name == "contains":
        return Cost(units + max(1.0, size * _TRAVERSAL) * max(1.0, second * _TRAVERSAL))
    if name in ("startsWith", "endsWith"):
        return Cost(units + second * _TRAVERSAL)
    if name in ("lowerAscii", "upperAscii", "trim", "replace", "split", "substring", "join"):
        return Cost(units + size * _TRAVERSAL, None, size)
    return Cost(units + 1)


def _property(schema: Tree | None, name: str) -> Tree | None:
    if not schema:
        return None
    found: Tree | None = (schema.get("properties") or {}).get(name) or _element(schema)
    return found


def _element(schema: Tree | None) -> Tree | None:
    found = (schema or {}).get("items") or (schema or {}).get("additionalProperties")
    return found if isinstance(found, dict) else None


def _of(schema: Tree | None, units: float) -> Cost:
    return Cost(units, schema, largest(schema) if schema else 0)


def largest(schema: Tree) -> float:
    """Of how many items or bytes a value can be."""
    kind = schema.get("type")
    if kind == "string":
        if "enum" in schema:
            return max(len(str(each)) for each in schema["enum"])
        if schema.get("format") in ("date", "date-time", "duration"):
            return 32
        return schema["maxLength"] * 4 if "maxLength" in schema else REQUEST - 2
    if kind == "array":
        default = REQUEST / (smallest(schema.get("items") or {}) + 1)
        return float(schema.get("maxItems", default))
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        default = REQUEST / (smallest(schema["additionalProperties"]) + 6)
        return float(schema.get("maxProperties", default))
    return 0


def smallest(schema: Tree) -> int:
    """Bytes that a value needs at least."""
    if schema.get("type") == "object":
        properties = schema.get("properties") or {}
        return 2 + sum(len(name) + 4 + smallest(properties.get(name, {})) for name in schema.get("required", ()))
    return {"string": 2, "boolean": 4, "array": 2}.get(schema.get("type", ""), 1)


def units(rule: str, schema: Tree) -> float:
    """What a rule may cost on one value of ``schema``. Raises ValueError where it cannot be read."""
    tokens, at = [], 0
    text = rule.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"cannot be read from {text[at : at + 20]!r} on")
        tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
        at = found.end()
    value = _of(schema, 1)
    estimate = Estimate(tokens, {"self": value, "oldSelf": value})
    try:
        total = estimate.whole().units
    except IndexError:
        raise ValueError("ends too early") from None
    if estimate.at != len(tokens):
        raise ValueError(f"cannot be read from {estimate.peek()!r} on")
    return total


def costs(schema: Tree, path: str, often: float = 1) -> Iterator[tuple[str, float]]:
    """Of every rule in a schema: where it stands, and what it may cost on the largest object."""
    for at, rule in enumerate(schema.get("x-kubernetes-validations", ())):
        yield f"{path}.x-kubernetes-validations[{at}].rule", often * units(rule["rule"], schema)
    for name, each in (schema.get("properties") or {}).items():
        yield from costs(each, f"{path}.properties[{name}]", often)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from costs(schema[name], f"{path}.{name}", often * max(1.0, largest(schema)))
