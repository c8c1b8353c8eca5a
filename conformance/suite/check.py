"""What a case says when a requirement does not hold: what was expected, what came, where. (P)

Invariant: every function returns silently, or raises `Failure` with a message that stands without the code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Container
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
_LONGEST = 600
_LINE = 120


class Failure(Exception):
    """The requirement does not hold. ``expected`` and ``got`` are shown one below the other."""

    def __init__(self, message: str, expected: Any = None, got: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.expected = None if expected is None else shown(expected)
        self.got = None if got is None else shown(got)


class Skip(Exception):
    """The case does not apply to this server; the text says why."""


def fail(message: str, expected: Any = None, got: Any = None) -> NoReturn:
    raise Failure(message, expected, got)


def true(condition: object, message: str, expected: Any = None, got: Any = None) -> None:
    if not condition:
        raise Failure(message, expected, got)


def equal(got: Any, expected: Any, what: str) -> None:
    if got != expected or isinstance(got, bool) != isinstance(expected, bool):  # True == 1
        raise Failure(_told(what, got, f"not {_brief(expected)}"), expected, got)


def among(got: Any, allowed: Collection[Any], what: str) -> None:
    if got not in allowed:
        wanted = f"one of {sorted(allowed, key=repr)!r}"
        raise Failure(_told(what, got, f"not {wanted}"), wanted, got)


def contains(container: Container[Any], item: Any, what: str) -> None:
    if item not in container:
        raise Failure(f"no {shown(item)!r} in {what}", f"something with {shown(item)}", container)


def matches(got: str, pattern: str, what: str) -> None:
    if not isinstance(got, str) or re.search(pattern, got, re.IGNORECASE | re.DOTALL) is None:
        raise Failure(f"{what} does not match", f"/{pattern}/", got)


def kind(got: Any, wanted: type[T] | tuple[type[T], ...], what: str) -> T:
    """``got``, which is of the wanted type; a bool is no int."""
    if not isinstance(got, wanted) or (isinstance(got, bool) and wanted in (int, float, (int, float))):
        names = wanted if isinstance(wanted, tuple) else (wanted,)
        raise Failure(f"{what} has the wrong type", " or ".join(n.__name__ for n in names), got)
    return got


def at_least(got: float, least: float, what: str) -> None:
    if not got >= least:
        raise Failure(_told(what, got, f"not {least} or more"), f">= {least}", got)


def at_most(got: float, most: float, what: str) -> None:
    if not got <= most:
        raise Failure(_told(what, got, f"not {most} or less"), f"<= {most}", got)


def member(document: Any, path: str, what: str = "the answer") -> Any:
    """The value at a dotted path such as ``choices.0.message.content``; a missing step is a failure that names it."""
    value, walked = document, ""
    for step in path.split("."):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise Failure(f"{what} has no {path!r}", f"{walked}{step}", document) from None
        walked += f"{step}."
    return value


def _told(what: str, got: Any, wanted: str) -> str:
    """One line that tells all if it is short; what is long stands below it."""
    line = f"{what.rstrip(',')}: {_brief(got)}, {wanted}"
    return line if len(line) <= _LINE else f"{what.rstrip(',')} differs"


def _brief(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else shown(value)


def shown(value: Any) -> str:
    """As reports show it: JSON where it is, cut where it is long."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError):
            value = repr(value)
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}… ({len(value)} characters)"
