"""Regular expressions of whoever configures, which no text makes slow: RE2's language, in linear time. (P)

Invariant: what matches is what RE2 says matches, in texts of a length that it can cope with (`WORK`). Expressions that
are known to be linear with the interpreter's own matcher as well (`linear`) stay with it, which takes a few tenths of a
microsecond where RE2 takes two; RE2 itself is imported when the first other one comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Protocol

from gateway import linear

PROGRAM = 2048
"""Instructions of RE2; `.` has 12 of them, `\\pL` 1,200."""
WORK = 1 << 23
"""Instructions times bytes: 64 KiB for 128, 4 KiB for as many as there may be. A longer text does not match. So much
takes 80 ms at the very worst, and mostly less than one, for RE2 goes through all of a program for each character only
where a match has very many states.
"""
_CLASSES = 4
"""Of Unicode, in one expression: reading one takes longer than all the rest."""
_MEMORY = 1 << 18
"""Bytes that one expression may hold, states that its matches have gone through included."""
_MISSING = "needs RE2, which is not installed here (pip install google-re2)"


class _Options(Protocol):
    max_mem: int
    log_errors: bool
    never_capture: bool


class _Compiled(Protocol):
    @property
    def programsize(self) -> int: ...
    @property
    def reverseprogramsize(self) -> int: ...
    def fullmatch(self, text: bytes) -> object: ...
    def search(self, text: bytes) -> object: ...


class _RE2(Protocol):
    """What is used of google-re2, which has no types."""

    error: type[Exception]

    def Options(self) -> _Options: ...
    def compile(self, pattern: bytes, options: _Options) -> _Compiled: ...


class Expression:
    """``text`` as written; ``whole``: texts have to match from end to end, otherwise anywhere; ``size``: instructions
    of RE2, 0 where it is not needed. Immutable.

    Raises ValueError for what RE2 does not take, for what makes too large a program, and for what would need RE2 where
    it is not installed.
    """

    __slots__ = ("_match", "size", "text", "whole")

    def __init__(self, text: str, *, whole: bool) -> None:
        self.text = text
        self.whole = whole
        self._match, self.size = _matcher(text, whole)

    def holds(self, text: str) -> bool:
        return self._match(text) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and (self.text, self.whole) == (other.text, other.whole)

    def __hash__(self) -> int:
        return hash((self.text, self.whole))

    def __repr__(self) -> str:
        return f"Expression({self.text!r}, whole={self.whole})"


def _matcher(text: str, whole: bool) -> tuple[Callable[[str], object], int]:
    plan = linear.plan(text, whole=whole)
    if plan is None:
        return _foreign(text, whole)
    compiled = re.compile(plan.pattern, re.ASCII)
    if whole:
        return compiled.fullmatch, 0
    return (compiled.match if plan.begins else compiled.search), 0


def _foreign(text: str, whole: bool) -> tuple[Callable[[str], object], int]:
    re2 = _re2()
    if re2 is None:
        raise ValueError(_MISSING)
    if text.count("\\p") + text.count("\\P") > _CLASSES:
        raise ValueError("too large a regular expression")
    options = re2.Options()
    options.max_mem, options.log_errors, options.never_capture = _MEMORY, False, True
    try:
        compiled = re2.compile(text.encode(), options)
    except UnicodeEncodeError:
        raise ValueError("not a regular expression: half a surrogate pair") from None
    except re2.error as error:
        raise ValueError(_refusal(error)) from None
    size = max(compiled.programsize, compiled.reverseprogramsize)
    if size > PROGRAM:
        raise ValueError("too large a regular expression")
    return _bounded(compiled.fullmatch if whole else compiled.search, WORK // size), size


def _bounded(match: Callable[[bytes], object], longest: int) -> Callable[[str], object]:
    def matched(text: str) -> object:
        encoded = text.encode("utf-8", "surrogatepass")
        return match(encoded) if len(encoded) <= longest else None

    return matched


def _refusal(error: Exception) -> str:
    said = error.args[0] if error.args else b""
    words = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    if "too large" in words:
        return "too large a regular expression"
    return f"not a regular expression of RE2: {words}"


@cache
def _re2() -> _RE2 | None:
    try:
        import re2
    except ImportError:
        return None
    found: _RE2 = re2
    return found
