"""Structs → OpenAPI v3 schemas as an API server wants them: structural, with the rules that code holds as CEL. (P)

Invariant: what a struct refuses by its types and bounds its schema refuses, and nothing else; unknown members are not
its business, because an API server drops them.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import NODEFAULT, Meta
from msgspec.structs import FieldInfo

from gateway.config import duration
from gateway.config.decode import Duration, Hidden, Limit, Section
from gateway.config.rules import RULES, SHAPES, Check

Schema = dict[str, Any]

_ANYTHING = "x-kubernetes-preserve-unknown-fields"
_POSITIVE = {"rule": "duration(self) > duration('0s')", "message": "must be above 0, and below 292 years"}
_DURATION: Schema = {
    "type": "string",
    "pattern": r"^([0-9]{1,18}([.][0-9]{1,18})?(ns|us|µs|μs|ms|s|m|h))+$",
    "x-kubernetes-validations": [_POSITIVE],
}
_LEAVES: Mapping[Any, Schema] = {
    str: {"type": "string"},
    Hidden: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int64"},
    float: {"type": "number"},
    Duration: _DURATION,
}
_BOUNDS = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}


def schema(kind: Any) -> Schema:
    """The schema of a type that members of a `Section` have, or of a Section. Raises TypeError for any other.

    A string or a Section becomes a schema without a type, which is the only form of a union that is structural: what
    it says of strings holds for strings, what it says of members for objects, and numbers pass.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in _LEAVES:
        return dict(_LEAVES[kind])
    if isinstance(kind, type) and issubclass(kind, Section):
        return _section(kind)
    if origin is typing.Annotated:
        return _bounded(schema(arguments[0]), arguments[1:])
    if origin is typing.Literal:
        return {**_LEAVES[type(arguments[0])], "enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": schema(arguments[0])}
    if origin is dict:
        return _mapping(arguments[1])
    if origin in (typing.Union, types.UnionType):
        return _union([each for each in arguments if each is not types.NoneType])
    raise TypeError(f"no schema for {kind}")


def _mapping(values: Any) -> Schema:
    if values is Any:
        return {"type": "object", _ANYTHING: True}
    return {"type": "object", "additionalProperties": schema(values)}


def _union(kinds: list[Any]) -> Schema:
    if len(kinds) == 1:
        return schema(kinds[0])
    made: Schema = {_ANYTHING: True}
    for kind in reversed(kinds):
        made |= {name: value for name, value in schema(kind).items() if name != "type"}
    return made


def _bounded(made: Schema, bounds: Iterable[Meta]) -> Schema:
    least, most = _BOUNDS.get(made["type"], ("", ""))
    for meta in bounds:
        given = {
            least: meta.min_length,
            most: meta.max_length,
            "minimum": meta.ge,
            "maximum": meta.le,
            "pattern": meta.pattern and portable(meta.pattern),
        }
        made |= {name: value for name, value in given.items() if value is not None}
    if made.get("maximum", 2**63) < 2**31:
        made["format"] = "int32"
    return made


def portable(pattern: str) -> str:
    """A pattern of Python's as RE2 reads it, where "$" means the end and nothing else does."""
    return pattern.replace(r"\Z", "$").replace("(?:", "(")


# --- sections ---------------------------------------------------------------------------------------------------------


def _section(kind: type[Section]) -> Schema:
    about, said = described(kind)
    fields = msgspec.structs.fields(kind)
    made: Schema = {"description": about} if about else {}
    made["type"] = "object"
    made["properties"] = {each.encode_name: _member(kind, each, said.get(each.name, "")) for each in fields}
    if required := [each.encode_name for each in fields if each.required]:
        made["required"] = required
    return _ruled(_shaped(made, SHAPES.get(kind, {})), RULES.get(kind, ()))


def _member(kind: type[Section], member: FieldInfo, said: str) -> Schema:
    place = kind, member.name
    made = _shaped(schema(member.type), SHAPES.get(place, {}))
    if (default := _default(member.default)) is not None:
        made["default"] = default
    if said:
        made = {"description": said, **{name: value for name, value in made.items() if name != "description"}}
    return _ruled(made, RULES.get(place, ()))


def _default(value: Any) -> Any:
    """What an API server fills in; nothing where the struct's default is as good as nothing."""
    if value is NODEFAULT or isinstance(value, Limit):
        return None
    if isinstance(value, Duration):
        return duration.render(value)
    return value if isinstance(value, int | str) and value else None


def _shaped(made: Schema, shape: Mapping[str, Any]) -> Schema:
    """``made`` with the keywords of ``shape``, at every depth."""
    for name, value in shape.items():
        made[name] = _shaped(dict(made[name]), value) if isinstance(made.get(name), dict) else value
    return made


def _ruled(made: Schema, checks: Iterable[Check]) -> Schema:
    """``made`` with rules behind those it has."""
    written = [
        {"rule": check.rule, "message": check.message} | ({"fieldPath": check.path} if check.path else {})
        for check in checks
    ]
    if written:
        made["x-kubernetes-validations"] = [*made.get("x-kubernetes-validations", ()), *written]
    return made


_SPOKEN = re.compile(r"(?:^|(?<=[.:;] ))``(\w+)``(:?) ")


def described(kind: type[Section]) -> tuple[str, dict[str, str]]:
    """What a struct's docstring says of it, and of each of its fields (by the field's name).

    A field's part begins with its name, "``name``: …" or "``name`` is …", where a sentence may begin.
    """
    names = {each.name: each.encode_name for each in msgspec.structs.fields(kind)}
    text = " ".join((kind.__dict__.get("__doc__") or "").split())
    starts = [match for match in _SPOKEN.finditer(text) if match[1] in names]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    said = {
        match[1]: _plain(text[match.end() if match[2] else match.start() : end], names)
        for match, end in zip(starts, ends, strict=False)
    }
    return _plain(text[: starts[0].start() if starts else len(text)], names), said


def _plain(text: str, names: Mapping[str, str]) -> str:
    """A sentence without marks, fields called as they are written in files."""
    bare = re.sub(r"`+(\w+)`+", lambda match: names.get(match[1], match[1]), text).strip()
    return bare if not bare or bare.split()[0] in names.values() else bare[0].upper() + bare[1:]
