"""Which regular expressions the interpreter's own matcher, which backtracks, takes linear time for. (P)

Invariant: what `plan` lets pass is written alike in RE2's language and in Python's, and means the same in both; trying
it takes at most ``constant + factor * length`` steps, a step being a character compared or a branch entered.

Why that holds: only single characters are repeated, so that a sequence tried from its end forwards costs

- for a character, or a number of them: as many steps, and then the rest;
- for alternatives: all of them, each with the rest behind it;
- for a repeat behind which something must stand that none of the repeated is (``[^/]+/``): its length twice, for of all
  the places where it may end only the last one gets beyond one step, and then the rest, once;
- for any other repeat: the rest at every place where it may end. So many are bounded by the repeat's own bound, or by
  the length; then what the rest costs must not depend on the length, or the product would be quadratic.

Where a beginning is sought anywhere, the whole is tried at every place, and must cost the same whatever the length.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

CONSTANT: Final = 4096
FACTOR: Final = 32
"""More steps, and more for each character, are not called linear: 64 KiB take some 20 ms at most."""
_DEPTH: Final = 8
_REPEAT: Final = re.compile(r"([*+?]|\{([0-9]{1,3})(?:(,)([0-9]{0,3}))?\})\??")
_DIGITS: Final = frozenset(string.digits)
_WORD: Final = frozenset(string.ascii_letters + string.digits + "_")
_MARKS: Final = frozenset(string.punctuation)
_SPECIAL: Final = frozenset(r"\.+*?()|[]{}^$")
_DOUBLED: Final = ("--", "&&", "||", "~~")
"""In brackets Python would warn of them."""


class Characters(msgspec.Struct, frozen=True):
    """One character that is (``other``: is not) among ``known``, repeated."""

    known: frozenset[str]
    other: bool = False
    least: int = 1
    most: int | None = 1

    def excludes(self, item: Characters) -> bool:
        """Whether no character is of both."""
        if self.other and item.other:
            return False
        if self.other or item.other:
            return item.known <= self.known if self.other else self.known <= item.known
        return not self.known & item.known


class Choice(msgspec.Struct, frozen=True):
    """One of several sequences, or nothing at all where there is an empty one."""

    options: tuple[tuple[Item, ...], ...]


Item: TypeAlias = Characters | Choice


class Plan(msgspec.Struct, frozen=True):
    """``pattern``: in Python's words, for `re.ASCII`. ``begins``: a match has to begin where the text does."""

    pattern: str
    begins: bool
    items: tuple[Item, ...]
    constant: int
    factor: int


def plan(text: str, *, whole: bool) -> Plan | None:
    """How to match ``text``, against whole texts or anywhere in them. None where that is not known to be linear, where
    the languages differ, and for what is no expression at all.
    """
    head, tail = text.startswith("^"), text.endswith("$") and not text.endswith("\\$")
    body = text[head : len(text) - tail]
    try:
        options = _Reader(body).options()
        if (head or tail) and len(options) > 1:
            return None  # they would belong to one of them
        items = options[0] if len(options) == 1 else (Choice(options),)
        constant, factor = _cost(items, (1, 0), None)
        if not (whole or head):
            if factor:
                return None
            factor = constant
    except _Unknown:
        return None
    if constant > CONSTANT or factor > FACTOR:
        return None
    return Plan(body + r"\Z" * tail, whole or head, items, constant, factor)


class _Unknown(Exception):
    pass


def _cost(items: Sequence[Item], rest: tuple[int, int], after: Item | None) -> tuple[int, int]:
    """Steps for a sequence with ``rest`` behind it, of which ``after`` comes first: constant, and for each character.
    Raises _Unknown where that is not all.
    """
    for item in reversed(items):
        if isinstance(item, Choice):
            costs = [_cost(option, rest, after) for option in item.options]
            rest = sum(cost[0] + 1 for cost in costs), sum(cost[1] for cost in costs)
        else:
            rest = _repeated(item, rest, after)
        if rest[0] > CONSTANT or rest[1] > FACTOR:
            raise _Unknown
        after = item
    return rest


def _repeated(item: Characters, rest: tuple[int, int], after: Item | None) -> tuple[int, int]:
    constant, factor = rest
    if item.least == item.most:
        return constant + item.least, factor
    if isinstance(after, Characters) and after.least and item.excludes(after):
        return (constant + 2, factor + 2) if item.most is None else (constant + 2 * item.most + 2, factor)
    if item.most is not None:
        ends = item.most - item.least + 1
        return ends * constant + item.most + 1, ends * factor
    if factor:
        raise _Unknown
    return constant + 1, constant + 1


class _Reader:
    """Reads what both languages write alike; raises _Unknown at anything else."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def options(self, depth: int = 0) -> tuple[tuple[Item, ...], ...]:
        """Up to the end of the text, or to the parenthesis that closes a group, which is read."""
        if depth > _DEPTH:
            raise _Unknown
        found: list[list[Item]] = [[]]
        while self._at < len(self._text):
            character = self._take()
            if character == "|":
                found.append([])
            elif character == ")" and depth:
                return tuple(map(tuple, found))
            elif character == "(":
                found[-1].append(self._group(depth + 1))
            else:
                found[-1].append(self._characters(character))
        if depth:
            raise _Unknown
        return tuple(map(tuple, found))

    def _take(self) -> str:
        if self._at >= len(self._text):
            raise _Unknown
        self._at += 1
        return self._text[self._at - 1]

    def _group(self, depth: int) -> Choice:
        if self._text.startswith("?", self._at):
            if not self._text.startswith("?:", self._at):
                raise _Unknown
            self._at += 2
        options = self.options(depth)
        least, most = self._repeat()
        if (least, most) == (0, 1):
            return Choice((*options, ()))
        if (least, most) != (1, 1):
            raise _Unknown
        return Choice(options)

    def _characters(self, character: str) -> Characters:
        if character == ".":
            known, other = frozenset("\n"), True
        elif character == "[":
            known, other = self._brackets()
        elif character == "\\":
            known, other = self._escape()
        elif character in _SPECIAL or "\ud800" <= character <= "\udfff":
            raise _Unknown
        else:
            known, other = frozenset(character), False
        least, most = self._repeat()
        return Characters(known, other, least, most)

    def _escape(self) -> tuple[frozenset[str], bool]:
        character = self._take()
        if character in "dDwW":
            return _DIGITS if character in "dD" else _WORD, character in "DW"
        if character not in _MARKS:
            raise _Unknown
        return frozenset(character), False

    def _brackets(self) -> tuple[frozenset[str], bool]:
        end = self._at
        while (character := self._text[end : end + 1]) != "]":
            if not character:
                raise _Unknown
            end += 2 if character == "\\" else 1
        inside, self._at = self._text[self._at : end], end + 1
        other = inside.startswith("^")
        known = _members(inside[other:])
        if not known:
            raise _Unknown
        return known, other

    def _repeat(self) -> tuple[int, int | None]:
        """How often what was just read may stand there: at least, and at most."""
        found = _REPEAT.match(self._text, self._at)
        if found is None:
            return 1, 1
        self._at = found.end()
        if self._text[self._at : self._at + 1] in ("*", "+", "?", "{"):
            raise _Unknown
        if (sign := found[1]) in "*+?":
            return int(sign == "+"), 1 if sign == "?" else None
        least = int(found[2])
        most = (int(found[4]) if found[4] else None) if found[3] else least
        if most is not None and most < least:
            raise _Unknown
        return least, most


def _members(text: str) -> frozenset[str]:
    """Of what stands in brackets. Raises _Unknown."""
    if not text.isascii() or "[" in text or any(pair in text for pair in _DOUBLED):
        raise _Unknown
    found: set[str] = set()
    at, size = 0, len(text)
    while at < size:
        character = text[at]
        if character == "\\":
            found |= _escaped(text[at + 1])
            at += 2
            if at + 1 < size and text[at] == "-":
                raise _Unknown
        elif at + 2 < size and text[at + 1] == "-":
            first, last = character, text[at + 2]
            if first == "-" or last in "\\-" or first > last:
                raise _Unknown
            found.update(map(chr, range(ord(first), ord(last) + 1)))
            at += 3
        elif character == "-" and 0 < at < size - 1:
            raise _Unknown
        else:
            found.add(character)
            at += 1
    return frozenset(found)


def _escaped(character: str) -> frozenset[str]:
    if character in "dw":
        return _DIGITS if character == "d" else _WORD
    if character not in _MARKS:
        raise _Unknown
    return frozenset(character)
