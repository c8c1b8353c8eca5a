"""Regular expressions of whoever configures, which no text makes slow: RE2's language, in linear time. (P)

Invariant: what matches is what RE2 says matches, in texts of a length that it can cope with (`WORK`). Expressions that
are known to be linear with the interpreter's own matcher as well (`linear`) stay with it, which takes a few tenths of a
microsecond where RE2 takes two; RE2 itself is imported when the first other one comes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
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
ENOUGH = 8 * WORK
"""For all that is tried to find the way of one request: there may be any number of routes. 0.2 s at the very worst."""
TOGETHER = 16 * PROGRAM
"""Instructions of all expressions of one object. Reading them takes 0.15 s at the worst."""
_STEP = 4
"""What a step of the interpreter's own matcher counts for: it takes as long as so many instructions."""
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


class _Work:
    """What is left to the request that is being looked at: its way is found at one go."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = ENOUGH


_work = _Work()


def afresh() -> None:
    """The way of another request is looked for: there is `ENOUGH` again."""
    _work.left = ENOUGH


class Expression:
    """``text`` as written; ``whole``: texts have to match from end to end, otherwise anywhere; ``size``: instructions
    of RE2, or characters where it is not needed. Immutable.

    Raises ValueError for what RE2 does not take, for what makes too large a program, and for what would need RE2 where
    it is not installed.
    """

    __slots__ = ("_cost", "_match", "size", "text", "whole")

    def __init__(self, text: str, *, whole: bool) -> None:
        self.text = text
        self.whole = whole
        self._match, self.size, self._cost = _matcher(text, whole)

    def holds(self, text: str) -> bool:
        """Never where it would take more work than is left to a request (`afresh`)."""
        left = _work.left - self._cost * len(text)
        if left < 0:
            return False
        _work.left = left
        return self._match(text) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and (self.text, self.whole) == (other.text, other.whole)

    def __hash__(self) -> int:
        return hash((self.text, self.whole))

    def __repr__(self) -> str:
        return f"Expression({self.text!r}, whole={self.whole})"


class Allowance:
    """For the expressions of one object, which are read while requests wait."""

    def __init__(self) -> None:
        self._left = TOGETHER

    def read(self, text: str, *, whole: bool) -> Expression | None:
        """None behind the one with which it was too much: all of them would take seconds. Raises ValueError."""
        if self._left < 0:
            return None
        try:
            made = Expression(text, whole=whole)
        except ValueError:
            self._left -= PROGRAM
            raise
        self._left -= made.size
        if self._left < 0:
            raise ValueError("with this one the regular expressions are too large together")
        return made


_allowance: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What is `read` within the block is of one object, and has one `Allowance`."""
    before = _allowance.set(Allowance())
    try:
        yield
    finally:
        _allowance.reset(before)


def read(text: str, *, whole: bool) -> Expression | None:
    """As `Allowance.read`, by that of the object that is being read."""
    return (_allowance.get() or Allowance()).read(text, whole=whole)


def _matcher(text: str, whole: bool) -> tuple[Callable[[str], object], int, int]:
    """How it is matched, its size, and the work that a character is."""
    plan = linear.plan(text, whole=whole)
    if plan is None:
        match, size = _foreign(text, whole)
        return match, size, size
    compiled, cost = re.compile(plan.pattern, re.ASCII), _STEP * (plan.factor + 1)
    if whole:
        return compiled.fullmatch, len(text), cost
    return (compiled.match if plan.begins else compiled.search), len(text), cost


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
