"""A document's tree → frozen structs, reporting every fault with its exact path instead of only the first. (P)

Invariant: `Decoder.build` either returns a value of the type asked for, or has recorded at least one problem.
The struct is the schema: its field names, defaults, constraints and `__post_init__` are all there is to know.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final

import msgspec

from gateway.config import duration
from gateway.config.document import Tree

Path = str
"""JSONPath-like, from "$": `$.spec.rules[0].modelMatch`."""


class Section(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What every part of the configuration derives from: camelCase outside, frozen inside.

    ``__post_init__`` checks what spans members: it raises ValueError, or `Fault` to point at one member.
    """


class Fault(ValueError):
    """A ValueError about the member at ``path``, relative to the struct that raises it (such as ".a[0]").

    ``others`` are reported with it.
    """

    def __init__(self, path: str, message: str, others: Iterable[Fault] = ()) -> None:
        super().__init__(message)
        self.path = path
        self.others = tuple(others)

    @classmethod
    def together(cls, faults: Iterable[Fault]) -> None:
        """Raise them, if there are any, as one."""
        found = [each for fault in faults for each in (fault, *fault.others)]
        if found:
            raise cls(found[0].path, str(found[0]), found[1:])


class Duration(float):
    """Seconds, from a Go duration; above zero."""

    __slots__ = ()


class Limit(Duration):
    """Seconds, from a Go duration; 0 is written for "no limit" and read as infinity."""

    __slots__ = ()


class Hidden:
    """A secret. It shows itself as *** everywhere; `reveal` is the only way to the value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "'***'"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)


class _Invalid:
    """Stands for a value that could not be built; the reason has been recorded."""


INVALID: Final = _Invalid()
_SIMPLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_ABSENT: Final = object()


def member(path: Path, name: str) -> Path:
    """``path.name``, or ``path["na.me"]`` where the name would not read as one."""
    return f"{path}.{name}" if _SIMPLE.match(name) else f'{path}["{name}"]'


def suggestion(name: str, known: Iterable[str]) -> str:
    """'; did you mean "x"?' or nothing. Case alone never makes a name far."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f'; did you mean "{by_lower[near[0]]}"?' if near else ""


def described(value: Tree) -> str:
    """The JSON name of a value's type, as messages say it."""
    names = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", list: "array"}
    return names.get(type(value), "null")


class Decoder:
    """Builds values and collects problems as ``path: message`` lines. One per document."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def refuse(self, path: Path, message: str) -> _Invalid:
        self.problems.append(f"{path}: {message}")
        return INVALID

    def build(self, value: Tree, kind: Any, path: Path = "$") -> Any:
        """A value of type ``kind``, or INVALID."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind is Any:
            return value
        if isinstance(kind, type) and issubclass(kind, Section):
            return self._section(value, kind, path)
        if origin is typing.Literal:
            return self._choice(value, arguments, path)
        if origin in (typing.Union, types.UnionType):
            return self._union(value, arguments, path)
        if origin is tuple:
            return self._array(value, arguments[0], path)
        if origin is dict or origin is Mapping:
            return self._object(value, arguments[1], path)
        if origin is typing.Annotated and typing.get_origin(arguments[0]) in (dict, tuple):
            return self._constrained(value, kind, arguments, path)
        return self._leaf(value, kind, path)

    def _section(self, value: Tree, kind: type[Section], path: Path) -> Any:
        if not isinstance(value, dict):
            return self.refuse(path, f"expected an object, got {described(value)}")
        fields = _fields(kind)
        before = len(self.problems)
        for name in value:
            if name not in fields:
                self.refuse(member(path, name), f"unknown field{suggestion(name, fields)}")
        members: dict[str, Any] = {}
        for name, field in fields.items():
            given = value.get(name, _ABSENT)
            if given is None and not _nullable(field.type):
                given = _ABSENT  # as in Kubernetes: a null member is one that was left out
            if given is not _ABSENT:
                members[field.name] = self.build(given, field.type, member(path, name))
            elif field.required:
                self.refuse(path, f'missing required field "{name}"')
        return INVALID if len(self.problems) > before else self._construct(kind, members, path)

    def _construct(self, kind: type[Section], members: dict[str, Any], path: Path) -> Any:
        try:
            return kind(**members)
        except Fault as fault:
            for each in (fault, *fault.others):
                self.refuse(path + each.path, str(each))
            return INVALID
        except ValueError as error:
            return self.refuse(path, str(error))

    def _choice(self, value: Tree, choices: tuple[Any, ...], path: Path) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        shown = " or ".join(json.dumps(choice) for choice in choices)
        return self.refuse(path, f"expected {shown}, got {json.dumps(value, default=str)[:60]}")

    def _union(self, value: Tree, kinds: tuple[Any, ...], path: Path) -> Any:
        if value is None and type(None) in kinds:
            return None
        rest = [kind for kind in kinds if kind is not type(None)]
        if len(rest) == 1:
            return self.build(value, rest[0], path)
        # the one ambiguity the schema has: a name, or an object that holds the name and more
        wanted = [kind for kind in rest if _is_section(kind) == isinstance(value, dict)]
        return self.build(value, wanted[0] if wanted else rest[0], path)

    def _array(self, value: Tree, kind: Any, path: Path) -> Any:
        if not isinstance(value, list):
            return self.refuse(path, f"expected an array, got {described(value)}")
        built = tuple(self.build(item, kind, f"{path}[{index}]") for index, item in enumerate(value))
        return INVALID if any(item is INVALID for item in built) else built

    def _object(self, value: Tree, kind: Any, path: Path) -> Any:
        if not isinstance(value, dict):
            return self.refuse(path, f"expected an object, got {described(value)}")
        built = {name: self.build(item, kind, member(path, name)) for name, item in value.items()}
        return INVALID if any(item is INVALID for item in built.values()) else built

    def _constrained(self, value: Tree, kind: Any, arguments: tuple[Any, ...], path: Path) -> Any:
        built = self.build(value, arguments[0], path)
        if built is INVALID:
            return INVALID
        for meta in arguments[1:]:
            if meta.min_length is not None and len(built) < meta.min_length:
                return self.refuse(path, "must not be empty" if meta.min_length == 1 else f"needs {meta.min_length}")
            if meta.max_length is not None and len(built) > meta.max_length:
                return self.refuse(path, f"at most {meta.max_length} entries, got {len(built)}")
        return built

    def _leaf(self, value: Tree, kind: Any, path: Path) -> Any:
        made = _LEAVES.get(kind)
        try:
            return msgspec.convert(value, kind) if made is None else made(value)
        except msgspec.ValidationError as error:
            unquoted = "; write true or false, without quotes" if kind is bool and isinstance(value, str) else ""
            return self.refuse(path, _plain(str(error)) + unquoted)
        except ValueError as error:
            return self.refuse(path, str(error))


@cache
def _fields(kind: type[Section]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """By the names they have outside. Finding them out takes ten times as long as going by them."""
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def _hidden(value: Tree) -> Hidden:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {described(value)}")
    return Hidden(value)


def _duration(value: Tree) -> Duration:
    seconds = duration.parse(value)
    if seconds == 0:
        raise ValueError("must be above 0")
    return Duration(seconds)


_LEAVES: Mapping[Any, Callable[[Tree], Any]] = {
    Duration: _duration,
    Limit: lambda value: Limit(duration.parse(value) or math.inf),
    Hidden: _hidden,
}


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _nullable(kind: Any) -> bool:
    return type(None) in typing.get_args(kind) or kind is Any


def _plain(message: str) -> str:
    """msgspec's wording in ours: lower case, no back-ticks."""
    return message[:1].lower() + message[1:].replace("`", "")
