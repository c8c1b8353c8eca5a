"""Edit members of a JSON object given as bytes, leaving every other byte as it came. (P)

Invariant: what is not named keeps its spelling, order and whitespace; numbers are never read, so none loses digits.
All functions expect a valid JSON object in UTF-8 (RFC 8259) and raise ValueError where they notice that it is none, or
that it has more than `MOST` members to be looked at.
A name given twice is replaced or removed twice, and a name spelt with escapes (``"\\u006dodel"``) counts as the name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

MOST: Final = 10_000
"""Members of one object, those included that have the same name. Each takes a microsecond or two to pass: a body full
of them would be minutes of everybody's time.
"""

_OPEN = re.compile(rb"[ \t\r\n]*\{[ \t\r\n]*")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_SCALAR = re.compile(rb"[^,\]}\s]++")
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_NEXT = re.compile(rb"[ \t\r\n]*([,}])[ \t\r\n]*")
# Up to and including the next bracket outside strings; possessive, so that a long string costs no backtracking stack.
_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+([{}\[\]])')
_PLAIN_NAME = re.compile(r"[A-Za-z_]+")
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")


class Crowded(ValueError):
    """The object has more than `MOST` members."""


class _Member(NamedTuple):
    """Offsets of one top-level member: its key starts at ``key``, its value is ``[start, end)``."""

    name: bytes
    key: int
    start: int
    end: int


def check(body: bytes) -> None:
    """Raises Crowded for more than `MOST` members, at the first one that is too many."""
    for _ in _members(body):
        pass


def insert(body: bytes, name: str, value: bytes) -> bytes:
    """``body`` with a first member ``name`` put before all others; the rest of the body is not looked at.

    Where the body has a member of that name already, readers that take the last one do not see the new one.
    """
    if body.startswith(b'{"'):  # how every SDK writes it
        return b"{%b:%b,%b" % (_quoted(name), value, body[1:])
    opened = _OPEN.match(body)
    if opened is None:
        raise ValueError("not a JSON object")
    cut = body.index(b"{") + 1
    comma = b"" if body[opened.end() : opened.end() + 1] == b"}" else b","
    return b"%b%b:%b%b%b" % (body[:cut], _quoted(name), value, comma, body[cut:])


def replace(body: bytes, name: str, value: bytes, *, present: bool = False) -> bytes:
    """``body`` with every top-level ``name`` set to ``value``; inserted where there is none.

    ``present=True`` promises that there is one (the caller has decoded it). A key of that spelling that occurs
    once in the whole body is then known to be it, and two searches at memory speed do instead of a scan.
    """
    if present and _PLAIN_NAME.fullmatch(name):
        span = _only_value(body, _quoted(name))
        if span is not None:
            return b"%b%b%b" % (body[: span[0]], value, body[span[1] :])
    found = [member for member in _members(body) if _is(member, name)]
    if not found:
        return insert(body, name, value)
    return _join(body, [(member.start, member.end, value) for member in found])


def remove(body: bytes, names: Collection[str]) -> bytes:
    """``body`` without its top-level members of these names, each gone with one comma."""
    members = list(_members(body))
    wanted = {name.encode() for name in names}
    cuts: list[tuple[int, int, bytes]] = []
    kept_end = -1
    for index, member in enumerate(members):
        if member.name not in wanted:
            kept_end = member.end
        elif kept_end >= 0:  # the comma before it goes along
            cuts.append((cuts.pop()[0] if cuts and cuts[-1][1] > kept_end else kept_end, member.end, b""))
        else:  # nothing kept so far: the comma after it goes along
            following = members[index + 1].key if index + 1 < len(members) else member.end
            cuts.append((member.key, following, b""))
    return _join(body, cuts) if cuts else body


def rename(body: bytes, name: str, other: str, *, present: bool = False) -> bytes:
    """``body`` with the top-level members ``name`` called ``other``. ``present`` as in `replace`."""
    if present and _PLAIN_NAME.fullmatch(name):
        only = _only_key(body, _quoted(name))
        if only is not None:
            return b"%b%b%b" % (body[: only[0]], _quoted(other), body[only[0] + len(name) + 2 :])
    return _join(body, [(m.key, m.start, b"%b:" % _quoted(other)) for m in _members(body) if _is(m, name)])


def merge(body: bytes, name: str, inner: str, value: bytes) -> bytes:
    """``body[name][inner] = value``, the other members of that nested object untouched.

    A missing or null ``name`` becomes ``{inner: value}``; one that is neither null nor an object is left for whoever
    validates it.
    """
    fresh = b"{%b:%b}" % (_quoted(inner), value)
    if _PLAIN_NAME.fullmatch(name) and _quoted(name) not in body and not _may_hide(body):
        return insert(body, name, fresh)
    edits: list[tuple[int, int, bytes]] = []
    found = False
    for member in _members(body):
        if _is(member, name):
            found = True
            old = body[member.start : member.end]
            if old == b"null":
                edits.append((member.start, member.end, fresh))
            elif old.startswith(b"{"):
                edits.append((member.start, member.end, replace(old, inner, value)))
    return _join(body, edits) if found else insert(body, name, fresh)


def _quoted(name: str) -> bytes:
    if _PLAIN_NAME.fullmatch(name):
        return b'"%b"' % name.encode()
    return json.dumps(name, ensure_ascii=False).encode()


def _is(member: _Member, name: str) -> bool:
    return member.name == name.encode()


def _join(body: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    parts: list[bytes] = []
    at = 0
    for start, end, new in edits:
        parts += (body[at:start], new)
        at = end
    parts.append(body[at:])
    return b"".join(parts)


def _may_hide(body: bytes) -> bool:
    """Whether some key might spell an ASCII letter or underscore as an escape."""
    return b"\\u00" in body and _ESCAPED_LETTER.search(body) is not None


def _only_value(body: bytes, quoted: bytes) -> tuple[int, int] | None:
    """The span of the one value in ``body`` that has such a key; None if there may be more."""
    only = _only_key(body, quoted)
    return None if only is None else (only[1], _value_end(body, only[1]))


def _only_key(body: bytes, quoted: bytes) -> tuple[int, int] | None:
    """Where the one key in ``body``, at any depth, that ends with ``quoted`` begins, and where its value does; None if
    there may be more.

    A member known to be there is then that one. (The end of a longer key, ``"say \\"model"``, counts as well: it only
    makes the answer None.)
    """
    found: tuple[int, int] | None = None
    at = body.find(quoted)
    while at >= 0:
        after = at + len(quoted)
        colon = _COLON.match(body, after)
        if colon is not None:
            if found is not None:
                return None
            found = (at, colon.end())
        at = body.find(quoted, after)
    if found is None or (b"\\" in body and _may_hide(body)):
        return None
    return found


def _members(body: bytes) -> Iterator[_Member]:
    opened = _OPEN.match(body)
    if opened is None:
        raise ValueError("not a JSON object")
    at = opened.end()
    if body[at : at + 1] == b"}":
        return
    for _ in range(MOST):
        key = _STRING.match(body, at)
        colon = _COLON.match(body, key.end()) if key is not None else None
        if key is None or colon is None:
            raise ValueError(f"not a JSON object: a key is expected at byte {at}")
        end = _value_end(body, colon.end())
        yield _Member(_plain(key.group()), at, colon.end(), end)
        following = _NEXT.match(body, end)
        if following is None:
            raise ValueError(f"not a JSON object: a comma or brace is expected at byte {end}")
        if following.group(1) == b"}":
            return
        at = following.end()
    raise Crowded(f"it has more than {MOST} members")


def _plain(key: bytes) -> bytes:
    """The name a quoted key spells, in UTF-8. A lone surrogate is kept as such: it equals no name."""
    if b"\\" not in key:
        return key[1:-1]
    return str(json.loads(key)).encode("utf-8", "surrogatepass")


def _value_end(body: bytes, start: int) -> int:
    first = body[start : start + 1]
    if first in (b"{", b"["):
        return _nested_end(body, start)
    matched = (_STRING if first == b'"' else _SCALAR).match(body, start)
    if matched is None:
        raise ValueError(f"not a JSON object: a value is expected at byte {start}")
    return matched.end()


def _nested_end(body: bytes, start: int) -> int:
    depth = 0
    at = start
    while True:
        bracket = _BRACKET.match(body, at)
        if bracket is None:
            raise ValueError(f"not a JSON object: the value at byte {start} does not end")
        at = bracket.end()
        depth += 1 if bracket.group(1) in b"{[" else -1
        if depth == 0:
            return at
