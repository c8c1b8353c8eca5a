"""The live feed as it arrives: server-sent events, what they hold, and what is known by them. (P)

Invariant: nothing that is sent raises; what is not of the kind it should be counts as missing, and what is kept is
bounded.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, Final

import msgspec

from gateway.top.plain import plain

Node = Mapping[str, Any]
POINTS: Final = 300
"""Of the history: five minutes."""
MOST_BYTES: Final = 16 << 20
"""Of an event: some fifty times one of 256 endpoints."""
_MOST_ITEMS: Final = 5000
_POINT: Final = 9
_TOTALS: Final = ("rps", "errors", "tokens_in", "tokens_out", "ttft_p50", "ttft_p99", "inflight", "queued")
"""What a state says of a point of the history, after the time, in its order."""


class TooLongError(Exception):
    """An event of more than `MOST_BYTES`."""


class Events:
    """A stream's bytes, taken apart (WHATWG HTML, 9.2.6). Comments, ids and times to retry are passed over."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._event, self._size = "", 0
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[tuple[str, bytes]]:
        """(event's name, data) of each that is whole. Raises `TooLongError`."""
        self._rest += received
        if len(self._rest) + self._size > MOST_BYTES:
            raise TooLongError
        if b"\n" not in received:
            return
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        for line in lines:
            line = line.removesuffix(b"\r")
            if line:
                self._field(line)
            elif self._data:
                yield self._event or "message", b"\n".join(self._data)
            if not line:
                self._event, self._size, self._data = "", 0, []

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value)
        elif name == b"event":
            self._event = value.decode("ascii", "replace")
        if self._size > MOST_BYTES:
            raise TooLongError


class Picture(msgspec.Struct, frozen=True):
    """What a screen is drawn from. ``away``: why nothing comes at the moment, "" while it does; ``away_s`` for how
    long and ``away_since`` as a time of day; ``clock``: the time of day of the state.
    """

    url: str = ""
    version: str = ""
    state: Node = {}
    history: tuple[tuple[float | None, ...], ...] = ()
    away: str = ""
    away_s: float = 0.0
    away_since: str = ""
    clock: str = ""


class Feed:
    """What the events so far come to."""

    def __init__(self) -> None:
        self.version = ""
        self.state: Node = {}
        self.history: deque[tuple[float | None, ...]] = deque(maxlen=POINTS)

    def take(self, event: str, data: bytes) -> bool:
        """Whether it was understood. Events of other names are passed over."""
        try:
            # not msgspec: a string that is no Unicode must not hide all the others
            value = json.loads(data.decode("utf-8", "replace"), parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            return False
        if not isinstance(value, dict) or event not in ("hello", "state"):
            return event not in ("hello", "state")
        if event == "state":
            self._take_state(value)
        else:
            self._take_hello(value)
        return True

    def _take_hello(self, hello: Node) -> None:
        self.version = plain(hello.get("version"), 32)
        points = hello.get("history")
        self.history.clear()
        self.history.extend(map(_point, points if isinstance(points, list) else ()))
        self.state = node(hello, "state")

    def _take_state(self, state: Node) -> None:
        self.state = state
        totals = node(state, "totals")
        self.history.append((number(state, "at"), *(number(totals, name) for name in _TOTALS)))


def _point(value: object) -> tuple[float | None, ...]:
    given = [_number(item) for item in value[:_POINT]] if isinstance(value, list) else []
    return (*given, *(None for _ in range(_POINT - len(given))))


def number(of: Node, name: str) -> float | None:
    """A finite number, or None."""
    return _number(of.get(name))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        given = float(value)
    except OverflowError:
        return None
    return given if isfinite(given) else None


def word(of: Node, name: str) -> str:
    """Plain text, or ""."""
    return plain(of.get(name))


def words(of: Node, name: str) -> list[str]:
    """Plain texts: those of a list that are any."""
    value = of.get(name)
    return [text for item in value[:64] if (text := plain(item))] if isinstance(value, list) else []


def node(of: Node, name: str) -> Node:
    """An object, or an empty one."""
    value = of.get(name)
    return value if isinstance(value, dict) else {}


def nodes(of: Node, name: str) -> list[Node]:
    """The objects of a list, or none."""
    value = of.get(name)
    return [item for item in value[:_MOST_ITEMS] if isinstance(item, dict)] if isinstance(value, list) else []


def holds(of: Node, name: str) -> bool:
    return of.get(name) is True
