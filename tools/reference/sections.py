"""Every field of the configuration: path, type, default, range and meaning, as the structs have them. (P)

Invariant: a struct is described where it appears first; wherever else it is used, a link leads there.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import NODEFAULT, Meta
from msgspec.structs import FieldInfo

from gateway.config import duration
from gateway.config.crds import DEFINITIONS
from gateway.config.decode import Duration, Hidden, Limit, Section
from gateway.config.envelope import KINDS
from gateway.config.rules import RULES
from gateway.config.schema import described
from gateway.config.settings import Settings
from gateway.schedule.registry import BUILT_IN
from tools.reference.markdown import NOTE, anchor, code, plain, table

HEADS = ("Field", "Type", "Default", "Range", "Meaning")
LEAVES: Mapping[Any, str] = {
    str: "string", Hidden: "string, secret", bool: "boolean", int: "integer", float: "number", Any: "anything",
    Duration: "duration", Limit: "duration, 0 for none",
}  # fmt: skip
_SETTINGS = """# Settings

Every field of a `GatewayConfiguration`. How files are read, what is checked and what may be spread over several of them
is told in [Configuration](../configuration.md#gatewayconfiguration); `infer-gateway check FILE` says what is wrong with
one. Durations are written as `100ms`, `30s`, `1h30m`; a field without a default in this table has to be given.

"""
_RESOURCES = """# Resources

Every field of the objects that say where requests go, in files or in a cluster. What they do together is told in
[Configuration](../configuration.md#modelroute), and what is said of those in a cluster in
[Kubernetes](../kubernetes.md#status).

"""


class Book:
    """A page under construction. ``lacking``: paths of fields that nothing is said of."""

    def __init__(self, head: str) -> None:
        self.text = NOTE + head
        self.lacking: list[str] = []
        self._places: dict[type[Section], str] = {}

    def add(self, kind: type[Section], path: str, heading: str, level: int) -> None:
        """``kind``, which stands at ``path``, and below it what it consists of."""
        self._places[kind] = anchor(heading)
        about, said = described(kind)
        self.text += f"{'#' * level} {heading}\n\n" + (f"{plain(about)}\n\n" if about else "")
        fields = msgspec.structs.fields(kind)
        inner = [(each, new) for each in fields for new in _inner(each.type) if self._new(new, path, each)]
        if rows := [self._row(kind, path, each, said) for each in fields if not _rate(each)]:
            self.text += table(HEADS, [*rows, *_rates(fields)])
        self.text += "".join(f"- {plain(check.message)}\n" for check in RULES.get(kind, ())) + "\n"
        for member, new in inner:
            below = _below(path, member)
            self.add(new, below, _heading(below, member, new), min(level + 1, 4))

    def _new(self, kind: type[Section], path: str, member: FieldInfo) -> bool:
        """Whether it is to be described here: then its place is known from now on."""
        fresh = kind not in self._places
        self._places.setdefault(kind, anchor(_heading(_below(path, member), member, kind)))
        return fresh

    def _row(self, kind: type[Section], path: str, member: FieldInfo, said: Mapping[str, str]) -> tuple[str, ...]:
        meaning = said.get(member.name) or next((described(each)[0] for each in _inner(member.type)), "")
        if not meaning:
            self.lacking.append(f"{_below(path, member)} ({kind.__name__}.{member.name})")
        kind_of, bounds = self._type(member.type), "; ".join(_bounds(member.type))
        return code(member.encode_name), kind_of, _default(member), bounds, plain(meaning)

    def _type(self, kind: Any) -> str:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind in LEAVES:
            return LEAVES[kind]
        if isinstance(kind, type) and issubclass(kind, Section):
            return f"[object](#{self._places[kind]})"
        if origin is typing.Annotated:
            return self._type(arguments[0])
        if origin is typing.Literal:
            return ", ".join(code(str(each).lower() if isinstance(each, bool) else each) for each in arguments)
        if origin is tuple:
            return f"list of: {self._type(arguments[0])}"
        if origin is dict:
            return f"by name: {self._type(arguments[1])}"
        if origin in (typing.Union, types.UnionType):
            return " or ".join(self._type(each) for each in arguments if each is not types.NoneType)
        raise TypeError(f"no words for {kind}")


def _below(path: str, member: FieldInfo) -> str:
    """The path of what ``member`` holds: of an item where it holds several."""
    kind = member.type
    for origin in (typing.get_origin(each) for each in (kind, *typing.get_args(kind))):
        if origin is tuple:
            return f"{path}.{member.encode_name}[]".removeprefix(".")
        if origin is dict:
            return f"{path}.{member.encode_name}.NAME".removeprefix(".")
    return f"{path}.{member.encode_name}".removeprefix(".")


def _heading(path: str, member: FieldInfo, kind: type[Section]) -> str:
    """``path``, and which one ``kind`` is where the member holds one of several."""
    if len(set(_inner(member.type))) < 2:
        return path
    return f"{path} ({next((name for name, plugin in BUILT_IN.items() if plugin is kind), kind.__name__)})"


def _inner(kind: Any) -> Iterator[type[Section]]:
    """The structs that a type consists of."""
    if isinstance(kind, type) and issubclass(kind, Section):
        yield kind
    for each in typing.get_args(kind):
        yield from _inner(each)


def _default(member: FieldInfo) -> str:
    value = member.default
    if value is NODEFAULT:
        return "none" if member.default_factory is not NODEFAULT else "**needed**"
    if isinstance(value, Duration):
        return code(duration.render(value))
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, int | float):
        return code("0" if value == math.inf else f"{value:g}" if isinstance(value, float) else str(value))
    return code(value) if isinstance(value, str) and value else "" if isinstance(value, Section) else "none"


def _bounds(kind: Any) -> Iterator[str]:
    """In words, those of list items and values included."""
    if typing.get_origin(kind) is typing.Annotated:
        for meta in kind.__metadata__:
            if isinstance(meta, Meta):
                yield from _said(meta)
    for each in typing.get_args(kind):
        yield from _bounds(each)


def _said(meta: Meta) -> Iterator[str]:
    for bound, sign in ((meta.ge, "≥"), (meta.gt, "above"), (meta.le, "≤"), (meta.lt, "below")):
        if bound is not None:
            yield f"{sign} {bound:.12g}"
    least, most = meta.min_length, meta.max_length
    if least is not None or most is not None:
        yield f"{least or 0} to {most} long" if most is not None else "not empty" if least == 1 else f"≥ {least} long"
    if meta.pattern is not None:
        yield code(meta.pattern.replace(r"\Z", "$").replace("(?:", "("))


# --- twenty fields that are one ---------------------------------------------------------------------------------------


def _rate(member: FieldInfo) -> bool:
    return "_per_" in member.name and member.name.rpartition("_")[2] in ("second", "minute", "hour", "day", "month")


def _rates(fields: tuple[FieldInfo, ...]) -> Iterator[tuple[str, ...]]:
    """A row for each kind of rate, for all its units."""
    names: dict[str, list[FieldInfo]] = {}
    for each in filter(_rate, fields):
        names.setdefault(each.encode_name.partition("Per")[0], []).append(each)
    for what, members in names.items():
        units = ", ".join(code(each.encode_name) for each in members)
        words = {"requests": "requests", "inputTokens": "tokens of prompts", "outputTokens": "tokens of answers"}
        said = f"{words.get(what, 'tokens of both')} in such a time; a month has 30 days"
        yield units, "integer", "none", "; ".join(_bounds(members[0].type)), said


# --- pages ------------------------------------------------------------------------------------------------------------


def settings() -> tuple[str, list[str]]:
    """The page of GatewayConfiguration, and what lacks a meaning."""
    book = Book(_SETTINGS)
    book.add(Settings, "", "Sections", 2)
    return _ended(book.text), book.lacking


def resources() -> tuple[str, list[str]]:
    """The page of all other kinds, and what lacks a meaning."""
    book = Book(_RESOURCES)
    abouts = {each.kind: each.about for each in DEFINITIONS}
    for name, kind in KINDS.items():
        if kind.type is Settings:
            continue
        path = f"{name}.spec" if kind.spec else name
        versions = "\n".join(f"- `{version}`" for version in kind.versions)
        book.text += f"## {name}\n\n" + (f"{abouts[name]} " if name in abouts else "") + f"Read from\n\n{versions}\n\n"
        book.add(kind.type, path, path if kind.spec else f"{name}'s fields", 3)
        for version, earlier in kind.earlier.items():
            book.add(earlier, path, f"{path} of {version}", 3)
    return _ended(book.text), book.lacking


def _ended(text: str) -> str:
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip("\n") + "\n"
