"""What exactly is wrong with a body that did not decode, in the words the OpenAI API uses. (P)

Only failed requests come here. It walks the same struct that refused the body, so that schema and messages agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import msgspec
from msgspec import Raw, inspect

from gateway.errors import InvalidRequest
from gateway.types import Headers
from protocols.openai.view import empty, json_type

_UNREADABLE = "We could not parse the JSON body of your request: "
_EXPECTED: dict[type[inspect.Type], str] = {
    inspect.StrType: "a string",
    inspect.IntType: "an integer",
    inspect.BoolType: "a boolean",
    inspect.ListType: "an array",
    inspect.StructType: "an object",
    inspect.NoneType: "null",
}
_ARRAY = msgspec.json.Decoder(list[Raw])
_ABSENT = Raw()


class _Object(msgspec.Struct):
    """Any object, whatever its members: none is kept."""


_OBJECT = msgspec.json.Decoder(_Object)


def diagnose(body: bytes, view: type[msgspec.Struct], error: Exception, headers: Headers = ()) -> InvalidRequest:
    """The error to answer with, given that decoding ``body`` as ``view`` raised ``error``."""
    if isinstance(error, RecursionError):
        return InvalidRequest(_UNREADABLE + "it is nested too deeply.")
    broken = _syntax(body, headers)
    if broken:
        return InvalidRequest(_UNREADABLE + broken)
    for fault in _faults(inspect.type_info(view), body, ""):
        return fault
    return InvalidRequest(_UNREADABLE + f"{error}.")


def _syntax(body: bytes, headers: Headers) -> str:
    """Why ``body`` is not JSON at all, or "" if it is. Offsets count bytes from 0."""
    if not body.strip():
        return "it is empty."
    for name, value in headers:
        if name == b"content-encoding" and value.lower() != b"identity":
            return "compressed bodies (Content-Encoding) are not supported."
    try:
        body.decode()
        _OBJECT.decode(body + b" " * 16)  # padded: msgspec takes a lone surrogate at the end for a truncated body
    except UnicodeDecodeError as error:
        return f"it is not valid UTF-8 (byte {error.start})."
    except RecursionError:
        return "it is nested too deeply."
    except msgspec.ValidationError:
        return f"it must be an object, but is {json_type(body)}."
    except msgspec.DecodeError as error:
        if "truncated" in str(error):
            return f"it ends before the JSON does (byte {len(body)})."
        return str(error).removeprefix("JSON is malformed: ") + "."
    return ""


def _faults(expected: inspect.Type, raw: bytes, path: str) -> Iterator[InvalidRequest]:
    """Every way in which ``raw``, valid JSON found at ``path``, is not what is expected."""
    kinds = expected.types if isinstance(expected, inspect.UnionType) else (expected,)
    got = json_type(raw)
    for kind in kinds:
        if type(kind) not in _EXPECTED:  # Raw: anything
            return
        if got == _EXPECTED[type(kind)]:
            yield from _inside(kind, raw, path)
            return
    wanted = " or ".join(_EXPECTED[type(kind)] for kind in kinds if not isinstance(kind, inspect.NoneType))
    yield InvalidRequest(f"Invalid type for '{path}': expected {wanted}, but got {got} instead.", param=path)


def _inside(kind: inspect.Type, raw: bytes, path: str) -> Iterator[InvalidRequest]:
    if isinstance(kind, inspect.StrType):
        if kind.min_length and raw.strip() == b'""':
            yield empty("string", path)
    elif isinstance(kind, inspect.IntType):
        yield from _range(kind, raw, path)
    elif isinstance(kind, inspect.ListType):
        items = _ARRAY.decode(raw)
        if kind.min_length and not items:
            yield empty("array", path)
        if kind.max_length is not None and len(items) > kind.max_length:
            yield InvalidRequest(
                f"Invalid '{path}': array too long. Expected at most {kind.max_length} items, but got {len(items)}.",
                param=path,
            )
        for index, item in enumerate(items):
            if not _sound(kind.item_type, item):
                yield from _faults(kind.item_type, bytes(item), f"{path}[{index}]")
    elif isinstance(kind, inspect.StructType):
        members = _members(kind.cls).decode(raw)
        for field in kind.fields:
            name = f"{path}.{field.encode_name}" if path else field.encode_name
            value = getattr(members, field.name)
            if value is not _ABSENT:
                yield from _faults(field.type, bytes(value), name)
            elif field.required:
                yield InvalidRequest(f"Missing required parameter: '{name}'.", param=name)


def _sound(kind: inspect.Type, raw: Raw) -> bool:
    """Whether there is no need to look closer: of a million turns few are at fault, and others wait meanwhile."""
    if not isinstance(kind, inspect.StructType):
        return False
    try:
        _decoder(kind.cls)(raw)
    except msgspec.DecodeError:
        return False
    return True


@cache
def _decoder(struct: type[msgspec.Struct]) -> Callable[[Raw], object]:
    return msgspec.json.Decoder(struct).decode


@cache
def _members(struct: type[msgspec.Struct]) -> msgspec.json.Decoder[msgspec.Struct]:
    """Of an object, the members that the struct names, unread; all others are skipped, however many."""
    fields = [(field.name, Raw, _ABSENT) for field in msgspec.structs.fields(struct)]
    return msgspec.json.Decoder(msgspec.defstruct("Members", fields))


def _range(kind: inspect.IntType, raw: bytes, path: str) -> Iterator[InvalidRequest]:
    value = raw[:24].decode()  # beyond every limit already, and Python reads no number of thousands of digits
    for limit, relation, which in ((kind.ge, ">=", "below minimum"), (kind.le, "<=", "above maximum")):
        if limit is not None and (int(value) < limit if relation == ">=" else int(value) > limit):
            message = f"Invalid '{path}': integer {which} value. Expected a value {relation} {limit}, but got {value}"
            yield InvalidRequest(f"{message} instead.", param=path)
