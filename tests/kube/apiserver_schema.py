"""Structural schemas of custom resources: unknown fields go, defaults come, what is left is checked, by CEL too. (P)

Messages and field paths are worded as the real server words them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

import cel

Tree = dict[str, Any]
NOTHING: Final = object()
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
}
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


@dataclass(frozen=True)
class Cause:
    """One reason why an object is invalid."""

    field: str
    reason: str
    message: str

    def tree(self) -> Tree:
        return {"reason": self.reason, "message": self.message, "field": self.field}

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def _name(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(value), "null")


def _said(value: Any) -> str:
    """A value as the real server puts it into a message: what is not scalar by its type."""
    return json.dumps(_name(value) if isinstance(value, (dict, list)) else value)


def _below(path: str, step: str | int) -> str:
    return f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}" if path else step


def _within(schema: Tree, value: Any) -> Iterator[tuple[str | int, Tree]]:
    """Steps from a value to those in it, with their schemas."""
    if isinstance(value, dict):
        properties, further = schema.get("properties") or {}, schema.get("additionalProperties")
        for name in value:
            if name in properties:
                yield name, properties[name]
            elif isinstance(further, dict):
                yield name, further
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index in range(len(value)):
            yield index, schema["items"]


def prune(value: Any, schema: Tree, path: str = "") -> tuple[Any, list[str]]:
    """Without what the schema does not know, and the paths of that."""
    if isinstance(value, list):
        items = [prune(item, schema.get("items") or {}, _below(path, at)) for at, item in enumerate(value)]
        return [item for item, _ in items], [gone for _, each in items for gone in each]
    if not isinstance(value, dict):
        return value, []
    schemas = dict(_within(schema, value))
    embedded = schema.get("x-kubernetes-embedded-resource")
    left, gone = {}, []
    for name, item in value.items():
        if (not path or embedded) and name in ("apiVersion", "kind", "metadata"):
            left[name] = item
        elif name in schemas:
            left[name], below = prune(item, schemas[name], _below(path, name))
            gone += below
        elif schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("additionalProperties") is True:
            left[name] = item
        else:
            gone.append(_below(path, name))
    return left, gone


def with_defaults(value: Any, schema: Tree) -> Any:
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [with_defaults(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, each in (schema.get("properties") or {}).items():
        nulled = name in filled and filled[name] is None and not each.get("nullable")
        if "default" in each and (name not in filled or nulled):
            filled[name] = each["default"]
        elif nulled:
            del filled[name]
    for name, each in _within(schema, filled):
        filled[str(name)] = with_defaults(filled[str(name)], each)
    return filled


def problems(value: Any, schema: Tree, path: str = "", old: Any = NOTHING) -> Iterator[Cause]:
    """What a schema finds wrong, CEL apart. What was there before and has not changed is not looked at again."""
    if _is_same(value, old) or (value is None and schema.get("nullable")):
        return
    if schema.get("x-kubernetes-int-or-string"):
        if not (TYPES["integer"](value) or isinstance(value, str)):
            yield _mistyped(value, path, "integer,string")
        return
    kind = schema.get("type")
    if kind and not TYPES[kind](value):
        yield _mistyped(value, path, kind)
        return
    if "enum" in schema and value not in schema["enum"]:
        among = ", ".join(json.dumps(each) for each in schema["enum"])
        yield Cause(path, "FieldValueNotSupported", f"Unsupported value: {_said(value)}: supported values: {among}")
    if isinstance(value, str):
        yield from _string(value, schema, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number(value, schema, path)
    elif isinstance(value, list):
        yield from _list(value, schema, path)
    elif isinstance(value, dict):
        yield from _object(value, schema, path)
    yield from _combined(value, schema, path)
    for step, each in _within(schema, value):
        yield from problems(value[step], each, _below(path, step), _correlated(old, value, step, schema))


def _is_same(value: Any, old: Any) -> bool:
    return old is not NOTHING and bool(value == old)


def _mistyped(value: Any, path: str, kind: str) -> Cause:
    found = json.dumps(_name(value))
    said = f"Invalid value: {found}: {path} in body must be of type {kind}: {found}"
    return Cause(path, "FieldValueTypeInvalid", said)


def _invalid(value: Any, path: str, rest: str) -> Cause:
    return Cause(path, "FieldValueInvalid", f"Invalid value: {_said(value)}: {path} in body {rest}")


def _string(value: str, schema: Tree, path: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxLength", len(value)):
        said = f"Too long: may not be more than {schema['maxLength']} bytes"
        yield Cause(path, "FieldValueTooLong", said)
    if len(value) < schema.get("minLength", 0):
        yield _invalid(value, path, f"should be at least {schema['minLength']} chars long")
    if "pattern" in schema and not _re2(schema["pattern"]).search(value):
        yield _invalid(value, path, f"should match '{schema['pattern']}'")
    if schema.get("format") == "date-time" and not _DATE_TIME.fullmatch(value):
        yield _invalid(value, path, f"must be of type date-time: {json.dumps(value)}")


def _number(value: float, schema: Tree, path: str) -> Iterator[Cause]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value <= low if schema.get("exclusiveMinimum") else value < low):
        than = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield _invalid(value, path, f"should be {than} {low}")
    if high is not None and (value >= high if schema.get("exclusiveMaximum") else value > high):
        than = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield _invalid(value, path, f"should be {than} {high}")
    if schema.get("multipleOf") and value % schema["multipleOf"]:
        yield _invalid(value, path, f"should be a multiple of {schema['multipleOf']}")
    if schema.get("format") == "int32" and not -(2**31) <= value < 2**31:
        yield _invalid(value, path, f"must be of type int32: {json.dumps(value)}")


def _list(value: list[Any], schema: Tree, path: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxItems", len(value)):
        said = f"Too many: {len(value)}: must have at most {schema['maxItems']} items"
        yield Cause(path, "FieldValueTooMany", said)
    if len(value) < schema.get("minItems", 0):
        said = f"Invalid value: {len(value)}: {path} in body should have at least {schema['minItems']} items"
        yield Cause(path, "FieldValueInvalid", said)
    keys = schema.get("x-kubernetes-list-map-keys") if schema.get("x-kubernetes-list-type") == "map" else None
    if keys is None and schema.get("x-kubernetes-list-type") != "set":
        return
    seen = set()
    for index, item in enumerate(value):
        if keys and not isinstance(item, dict):
            continue
        mark = json.dumps({key: item.get(key) for key in keys} if keys else item, separators=(",", ":"))
        if mark in seen:
            yield Cause(_below(path, index), "FieldValueDuplicate", f"Duplicate value: {mark}")
        seen.add(mark)


def _object(value: Tree, schema: Tree, path: str) -> Iterator[Cause]:
    for name in schema.get("required", ()):
        if name not in value:
            yield Cause(_below(path, name), "FieldValueRequired", "Required value")
    if len(value) > schema.get("maxProperties", len(value)):
        said = f"Too many: {len(value)}: must have at most {schema['maxProperties']} items"
        yield Cause(path, "FieldValueTooMany", said)
    if len(value) < schema.get("minProperties", 0):
        said = f"should have at least {schema['minProperties']} properties"
        yield _invalid(value, path, said)


def _combined(value: Any, schema: Tree, path: str) -> Iterator[Cause]:
    for each in schema.get("allOf", ()):
        yield from problems(value, each, path)
    fits = [not any(problems(value, each, path)) for each in schema.get("anyOf", ())]
    if fits and not any(fits):
        yield _invalid(value, path, "must validate at least one schema (anyOf)")
    fits = [not any(problems(value, each, path)) for each in schema.get("oneOf", ())]
    if fits and fits.count(True) != 1:
        yield _invalid(value, path, f"must validate one and only one schema (oneOf). Found {fits.count(True)} valid")
    if "not" in schema and not any(problems(value, schema["not"], path)):
        yield _invalid(value, path, "must not validate the schema (not)")


@cache
def _re2(pattern: str) -> re.Pattern[str]:
    """A pattern whose end is the end of the text, before no line break either."""
    return re.compile(re.sub(r"(?<!\\)\$(?=$|\))", lambda _: r"\Z", pattern.replace(r"\z", r"\Z")))


@cache
def compiled(rule: str) -> Any:
    """A CEL expression, or ValueError."""
    return cel.compile(re.sub(r"\bduration\(", "_duration(", rule))  # the package's knows no µs, and wraps around


def _spread(value: Any, schema: Tree) -> Any:
    """A value as CEL sees it: durations and times are no strings."""
    if isinstance(value, dict):
        schemas = dict(_within(schema, value))
        return {name: _spread(item, schemas.get(name, {})) for name, item in value.items()}
    if isinstance(value, list):
        return [_spread(item, schema.get("items") or {}) for item in value]
    if isinstance(value, str) and schema.get("format") == "date-time":
        return datetime.fromisoformat(value)
    if isinstance(value, str) and schema.get("format") == "duration":
        return round(seconds(value) * 10**9)
    return value


def seconds(duration: str) -> float:
    """Of a duration as Go writes it."""
    units = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(count) * units[unit] for count, unit in re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", duration))


def _nanoseconds(duration: str) -> int:
    """Raises ValueError for what Go does not read as a duration, or not as one of 64 bits."""
    if not re.fullmatch(r"[-+]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)", duration):
        raise ValueError(f"no duration: {duration!r}")
    found = round(seconds(duration) * 10**9)
    if found >= 2**63:
        raise ValueError(f"too long a duration: {duration!r}")
    return -found if duration.startswith("-") else found


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_duration": _nanoseconds,
    "split": lambda text, by: text.split(by),
    "join": lambda items, by="": by.join(items),
    "lowerAscii": lambda text: text.lower(),
    "upperAscii": lambda text: text.upper(),
    "trim": lambda text: text.strip(),
    "replace": lambda text, old, new: text.replace(old, new),
    "indexOf": lambda text, part: text.find(part),
    "substring": lambda text, start, end=None: text[start:end],
    "find": lambda text, pattern: ((match := re.search(pattern, text)) and match[0]) or "",
    "sum": lambda items: sum(items),
    "min": lambda items: min(items),
    "max": lambda items: max(items),
    "isSorted": lambda items: items == sorted(items),
}
"""What the real server's CEL knows beyond the standard."""


def broken_rules(
    value: Any, schema: Tree, old: Any = NOTHING, path: str = "", unchanged: bool = False
) -> Iterator[Cause]:
    """The CEL rules that a value breaks. Those that speak of oldSelf hold where there is no old value; the others are
    not asked again about what has not changed. ``unchanged``: what this is a part of has not.
    """
    unchanged = unchanged if old is NOTHING else bool(value == old)
    for rule in schema.get("x-kubernetes-validations", ()):
        if old is NOTHING if re.search(r"\boldSelf\b", rule["rule"]) else unchanged:
            continue
        cause = _judge(rule, _spread(value, schema), None if old is NOTHING else _spread(old, schema), value, path)
        if cause:
            yield cause
    for step, each in _within(schema, value):
        before = _correlated(old, value, step, schema)
        yield from broken_rules(value[step], each, before, _below(path, step), unchanged)


def _judge(rule: Tree, value: Any, old: Any, shown: Any, path: str) -> Cause | None:
    context = cel.Context(variables={"self": value, "oldSelf": old}, functions=FUNCTIONS)
    field = path + rule.get("fieldPath", "") if path else rule.get("fieldPath", "").lstrip(".")
    try:
        if compiled(rule["rule"]).execute(context) is True:
            return None
        said = rule.get("message") or f"failed rule: {' '.join(rule['rule'].split())}"
        if "messageExpression" in rule:
            said = compiled(rule["messageExpression"]).execute(context)
    except KeyError as absent:
        said = f"rule: {rule['rule']}: no such key: {absent.args[0]} evaluating rule: {rule.get('message', '')}"
    except (RuntimeError, TypeError, ValueError) as wrong:
        said = f"{wrong} evaluating rule: {rule.get('message', rule['rule'])}"
    reason = rule.get("reason", "FieldValueInvalid")
    return Cause(field or "<nil>", reason, f"Invalid value: {_said(shown)}: {said}")


def _correlated(old: Any, value: Any, step: str | int, schema: Tree) -> Any:
    """The old value that a new one's part is held against, where the two can be told to be the same part."""
    if isinstance(step, str):
        return old.get(step, NOTHING) if isinstance(old, dict) else NOTHING
    if not isinstance(old, list) or schema.get("x-kubernetes-list-type") != "map":
        return NOTHING
    keys = schema.get("x-kubernetes-list-map-keys", ())
    mark = [value[step].get(key) for key in keys]
    found = [item for item in old if [item.get(key) for key in keys] == mark]
    return found[0] if found else NOTHING


def check(tree: Tree, schema: Tree, old: Tree | None = None) -> list[Cause]:
    """Everything wrong with a whole object. CEL is asked only where the rest is right."""
    before = NOTHING if old is None else with_defaults(old, schema)  # as the real server reads what it has stored
    return list(problems(tree, schema, "", before)) or list(broken_rules(tree, schema, before))


def schema_problems(schema: Tree, path: str, *, correlatable: bool = True) -> Iterator[Cause]:
    """Why the real server would not take a schema as structural."""
    loose = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not schema.get("type") and not loose:
        yield Cause(
            f"{path}.type", "FieldValueRequired", "Required value: must not be empty for specified object fields"
        )
    if schema.get("type") and schema["type"] not in TYPES:
        yield Cause(f"{path}.type", "FieldValueNotSupported", f'Unsupported value: "{schema["type"]}"')
        return
    yield from _forbidden(schema, path)
    yield from _list_type(schema, path)
    for at, rule in enumerate(schema.get("x-kubernetes-validations", ())):
        yield from _rule(rule, f"{path}.x-kubernetes-validations[{at}]", correlatable)
    if "default" in schema:
        yield from problems(with_defaults(schema["default"], schema), schema, f"{path}.default")
    for name, each in (schema.get("properties") or {}).items():
        yield from schema_problems(each, f"{path}.properties[{name}]", correlatable=correlatable)
    if isinstance(schema.get("additionalProperties"), dict):
        below = schema["additionalProperties"]
        yield from schema_problems(below, f"{path}.additionalProperties", correlatable=correlatable)
    if isinstance(schema.get("items"), dict):
        can = correlatable and schema.get("x-kubernetes-list-type") == "map"
        yield from schema_problems(schema["items"], f"{path}.items", correlatable=can)


def _forbidden(schema: Tree, path: str) -> Iterator[Cause]:
    for name in ("$ref", "definitions", "dependencies", "patternProperties", "deprecated", "id", "const"):
        if name in schema:
            yield Cause(f"{path}.{name}", "FieldValueForbidden", f"Forbidden: {name} is not supported")
    if schema.get("uniqueItems"):
        yield Cause(f"{path}.uniqueItems", "FieldValueForbidden", "Forbidden: uniqueItems cannot be set to true")
    if schema.get("additionalProperties") is False:
        said = "Forbidden: additionalProperties cannot be set to false"
        yield Cause(f"{path}.additionalProperties", "FieldValueForbidden", said)
    if schema.get("properties") and schema.get("additionalProperties"):
        said = "Forbidden: additionalProperties and properties are mutual exclusive"
        yield Cause(f"{path}.additionalProperties", "FieldValueForbidden", said)
    if schema.get("type") == "array" and not isinstance(schema.get("items"), dict):
        yield Cause(f"{path}.items", "FieldValueRequired", "Required value: must be specified")
    for several in ("allOf", "anyOf", "oneOf"):
        for at, each in enumerate(schema.get(several, ())):
            for name in {"type", "default", "description", "nullable", "additionalProperties"} & each.keys():
                if not (schema.get("x-kubernetes-int-or-string") and name == "type"):
                    where = f"{path}.{several}[{at}].{name}"
                    yield Cause(where, "FieldValueForbidden", "Forbidden: must be empty to be structural")


def _list_type(schema: Tree, path: str) -> Iterator[Cause]:
    kind, items = schema.get("x-kubernetes-list-type"), schema.get("items") or {}
    if kind == "map":
        keys = schema.get("x-kubernetes-list-map-keys")
        if not keys:
            said = "Required value: must not be empty if x-kubernetes-list-type is map"
            yield Cause(f"{path}.x-kubernetes-list-map-keys", "FieldValueRequired", said)
        for key in keys or ():
            each = (items.get("properties") or {}).get(key)
            if each is None or (key not in items.get("required", ()) and "default" not in each):
                said = (
                    "Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a "
                    "required property"
                )
                yield Cause(f"{path}.items.properties[{key}]", "FieldValueRequired", said)
    if kind == "set" and items.get("type") in ("object", "array") and items.get("x-kubernetes-map-type") != "atomic":
        said = "Forbidden: items must be scalar, atomic lists or atomic maps for x-kubernetes-list-type set"
        yield Cause(f"{path}.items", "FieldValueForbidden", said)


def _rule(rule: Tree, path: str, correlatable: bool) -> Iterator[Cause]:
    for name in ("rule", "messageExpression"):
        if name in rule:
            try:
                compiled(rule[name])
            except ValueError as wrong:
                said = f"Invalid value: {json.dumps(rule[name])}: compilation failed: {wrong}"
                yield Cause(f"{path}.{name}", "FieldValueInvalid", said)
    if "\n" in rule.get("rule", "") and not rule.get("message"):
        said = "Required value: message must be specified if rule contains line breaks"
        yield Cause(f"{path}.message", "FieldValueRequired", said)
    if "\n" in rule.get("message", ""):
        yield Cause(f"{path}.message", "FieldValueInvalid", "Invalid value: message must not contain line breaks")
    if not correlatable and re.search(r"\boldSelf\b", rule.get("rule", "")):
        said = "Invalid value: oldSelf cannot be used on the uncorrelatable portion of the schema"
        yield Cause(f"{path}.rule", "FieldValueInvalid", said)
