"""Selection expressions: ``stream and not (tools or level:info)``. (P)

A word stands for the cases whose id contains it; with ``*`` or ``?`` it is a pattern for the whole id; ``level:must``
and ``profile:gateway`` name a level or a profile. ``and`` binds tighter than ``or``; words side by side mean ``and``.

Invariant: an expression that cannot be read is a ValueError that shows where.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from conformance.suite.case import Case, Level

Selects = Callable[[Case], bool]
_TOKEN = re.compile(r"\s*(?:(?P<mark>[()])|(?P<word>[^\s()]+))")
_DEEPEST = 100


def parse(text: str) -> Selects:
    """What ``text`` selects; everything if it is blank."""
    return _Reader(text).all() if text.strip() else lambda case: True


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [(m["mark"] or m["word"], m.start()) for m in _TOKEN.finditer(text)]
        self.at = 0
        self.depth = 0

    def all(self) -> Selects:
        found = self.either()
        if self.at < len(self.tokens):
            raise self.wrong("a word, 'and' or 'or' is missing before this")
        return found

    def either(self) -> Selects:
        found = self.both()
        while self.next_is("or"):
            found = _either(found, self.both())
        return found

    def both(self) -> Selects:
        found = self.one()
        while self.peek() not in (")", "or", ""):
            self.next_is("and")
            found = _both(found, self.one())
        return found

    def one(self) -> Selects:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.wrong("too deeply nested")
        try:
            if self.next_is("not"):
                negated = self.one()
                return lambda case: not negated(case)
            if self.next_is("("):
                found = self.either()
                if not self.next_is(")"):
                    raise self.wrong("')' is missing")
                return found
            return self.word()
        finally:
            self.depth -= 1

    def word(self) -> Selects:
        word = self.peek()
        if word in ("", ")", "and", "or"):
            raise self.wrong("a word is missing")
        name, colon, value = word.partition(":")
        if colon and name == "level" and value not in set(Level):
            raise self.wrong(f"no level is called {value!r}")
        self.at += 1
        return _named(name, value) if colon and name in ("level", "profile") else _matching(word)

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def next_is(self, token: str) -> bool:
        found = self.peek() == token
        self.at += found
        return found

    def wrong(self, why: str) -> ValueError:
        column = self.tokens[self.at][1] if self.at < len(self.tokens) else len(self.text)
        return ValueError(f"{why}: {self.text[:column]}⟪here⟫{self.text[column:]}")


def _either(a: Selects, b: Selects) -> Selects:
    return lambda case: a(case) or b(case)


def _both(a: Selects, b: Selects) -> Selects:
    return lambda case: a(case) and b(case)


def _named(name: str, value: str) -> Selects:
    return lambda case: str(getattr(case, name)).rpartition("/")[2] == value.rpartition("/")[2]


def _matching(word: str) -> Selects:
    if any(mark in word for mark in "*?["):
        return lambda case: fnmatchcase(case.id, word)
    return lambda case: word in case.id
