"""Wanted samples of a Prometheus text page, found without parsing the rest. (P)

Invariant: with or without a `Layout`, the same page gives the same samples. One exception: a page that differs from the
one before in a line more and a line less, and hardly in length, may be taken for the same until it is looked through
again, `_LOOK_AGAIN` pages later. Source: the text format 0.0.4. An engine's page of 60 kB has 700 lines of which some
twenty matter; it takes 250 µs to look through and 25 to follow.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final
from weakref import WeakValueDictionary

import msgspec

Labels = Mapping[str, str]

_LABELS: Final = re.compile(rb'\{(?:[ \t]*+[a-zA-Z_]\w*+[ \t]*+=[ \t]*+"(?:[^"\\]|\\.)*+"[ \t]*+,?+)*+[ \t]*+\}')
_LABEL: Final = re.compile(rb'([a-zA-Z_]\w*+)[ \t]*+=[ \t]*+"((?:[^"\\]|\\.)*+)"')
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_SLACK: Final = 512
"""Bytes by which what stands between two wanted samples may grow or shrink from one page to the next."""
_JUMP: Final = 32
"""Bytes by which a page grows or shrinks when lines come or go: hardly a sample is shorter. Numbers seldom change by as
much; if they do, the lines are counted."""
_COUNT_AGAIN: Final = 25
_LOOK_AGAIN: Final = 250
_NEVER: Final = b"\n\n\n"


class Wanted:
    """``fields``: what each number is called here → the samples that may hold it, the one to prefer first.

    A sample ``engine:name`` is also found as ``engine_name``: OpenMetrics writers escape the colon.
    """

    __slots__ = ("names",)

    def __init__(self, fields: Mapping[str, Sequence[str]]) -> None:
        self.names: dict[bytes, tuple[str, int]] = {}
        for field, names in fields.items():
            for place, name in enumerate(names):
                for spelling in (name, name.replace(":", "_")):
                    self.names[spelling.encode()] = (field, place)


class Found(msgspec.Struct, frozen=True):
    """By field: the numbers (NaN for one that cannot be read) and, in the same order, the labels of their series."""

    values: dict[str, list[float]]
    labels: dict[str, list[Labels]]

    def total(self, field: str) -> float:
        """The sum over all series that have a finite number; 0 if none has."""
        values = self.values.get(field)
        if values is None:
            return 0.0
        total = values[0] if len(values) == 1 else math.fsum(values) if all(map(math.isfinite, values)) else math.nan
        return total if math.isfinite(total) else math.fsum(filter(math.isfinite, values))


class _Spot(msgspec.Struct, frozen=True, gc=False):
    """One sample: all that stands before its value, the line end before it included."""

    field: str
    head: bytes
    more: bytes
    """What the next line begins with if it is another series of the same sample."""


class _Shape:
    """The wanted samples of a page in its order, and their labels by field. Endpoints whose pages have the same share
    one: it takes 10 kB and more.
    """

    __slots__ = ("__weakref__", "labels", "spots")

    def __init__(self, spots: tuple[_Spot, ...], labels: dict[str, list[Labels]]) -> None:
        self.spots = spots
        self.labels = labels


_shapes: Final[WeakValueDictionary[tuple[_Spot, ...], _Shape]] = WeakValueDictionary()
_NONE: Final = _Shape((), {})


class Layout:
    """Where one endpoint's last page had the wanted samples. Whoever reads its pages keeps it and only hands it on."""

    __slots__ = ("_length", "_lines", "_places", "_reads", "_shape", "_wanted")

    def __init__(self) -> None:
        self._wanted: Wanted | None = None
        self._shape = _NONE
        self._places: array[int] = array("I")  # by sample: where its value begins, and where it ends
        self._length = self._lines = self._reads = 0

    def note(
        self, wanted: Wanted, page: bytes, spots: Sequence[_Spot], places: array[int], labels: dict[str, list[Labels]]
    ) -> None:
        """A page has been looked through."""
        usable = bool(spots) and places[0] > len(spots[0].head) - 1 and places[-1] < len(page)
        self._wanted = wanted if usable else None
        bounded = tuple(_bounded(spots))
        shape = _shapes.get(bounded)
        self._shape = _shapes.setdefault(bounded, _Shape(bounded, labels)) if shape is None else shape
        self._places = places
        self._length, self._lines, self._reads = len(page), page.count(b"\n"), 0

    def follow(self, wanted: Wanted, page: bytes) -> Found | None:
        """The samples, each near where it was; None if the page has to be looked through."""
        self._reads += 1
        if wanted is not self._wanted or self._reads >= _LOOK_AGAIN:
            return None
        doubtful = abs(len(page) - self._length) > _JUMP or not self._reads % _COUNT_AGAIN
        if doubtful and page.count(b"\n") != self._lines:
            return None
        self._length = len(page)
        find, starts = page.find, page.startswith
        shape, places = self._shape, iter(self._places)
        values: dict[str, list[float]] = {field: [] for field in shape.labels}
        end = before = 0
        for spot, start, stop in zip(shape.spots, places, places, strict=True):
            head = spot.head
            size = len(head)
            expected = end + start - before - size
            at = find(head, max(end, expected - _SLACK), expected + size + _SLACK)
            if at < 0:
                return None
            end = find(b"\n", at + size)
            if end < 0 or starts(spot.more, end):
                return None
            before = stop
            text = page[at + size : end]
            try:
                values[spot.field].append(float(text))
            except ValueError:
                values[spot.field].append(_number(text))
        return Found(values, shape.labels)


def read(page: bytes, wanted: Wanted, layout: Layout | None = None) -> Found:
    """The wanted samples of a page; of a field's names only the first that has any. Unreadable lines are left out."""
    if layout is not None:
        found = layout.follow(wanted, page)
        if found is not None:
            return found
    spots, places, labels = _look(page, wanted)
    values: dict[str, list[float]] = {field: [] for field in labels}
    for spot, start, end in zip(spots, places[::2], places[1::2], strict=True):
        values[spot.field].append(_number(page[start:end]))
    if layout is not None:
        layout.note(wanted, page, spots, places, labels)
    return Found(values, labels)


def _bounded(spots: Sequence[_Spot]) -> Iterator[_Spot]:
    """Only after the last known series of a sample a further one is news."""
    for spot, following in zip(spots, (*spots[1:], None), strict=False):
        last = following is None or following.more != spot.more
        yield spot if last else msgspec.structs.replace(spot, more=_NEVER)


def _look(page: bytes, wanted: Wanted) -> tuple[list[_Spot], array[int], dict[str, list[Labels]]]:
    """Every line once: the samples in the page's order, where their values begin and end, and their labels by field."""
    samples = list(_samples(page, wanted.names))
    best: dict[str, int] = {}
    for field, place, _, _, _ in samples:
        best[field] = min(place, best.get(field, place))
    spots: list[_Spot] = []
    places = array("I")
    labels: dict[str, list[Labels]] = {}
    for field, place, spot, value, own in samples:
        if place == best[field]:
            spots.append(spot)
            places.extend(value)
            labels.setdefault(field, []).append(own)
    return spots, places, labels


def _samples(
    page: bytes, names: Mapping[bytes, tuple[str, int]]
) -> Iterator[tuple[str, int, _Spot, tuple[int, int], Labels]]:
    known = names.get
    at = 0
    for line in page.split(b"\n"):
        if line[:1] != b"#":
            name = line.partition(b" ")[0]
            brace = name.find(b"{")  # a later one is that of an exemplar
            if brace > 0:
                name = name[:brace]
            wanted = known(name)
            if wanted is not None and (split := _split(line, name)) is not None:
                size, labels = split
                head, series = line[:size], line[: len(name) + 1]
                spot = _Spot(wanted[0], b"\n" + head, b"\n" + series)
                yield *wanted, spot, (at + size, at + len(line)), labels
        at += len(line) + 1


def _split(line: bytes, name: bytes) -> tuple[int, Labels] | None:
    """How far a line's name and labels reach, and the labels; None for a line that is no sample."""
    if line[len(name) : len(name) + 1] != b"{":
        return len(name) + 1, {}
    match = _LABELS.match(line, len(name))
    return None if match is None else (match.end(), _labels(match[0]))


@lru_cache(256)
def _labels(text: bytes) -> Labels:
    return {name.decode(): _unescaped(value) for name, value in _LABEL.findall(text)}


def _unescaped(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    return _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], text) if "\\" in text else text


def _number(text: bytes) -> float:
    """A value that a timestamp may follow; NaN for what is no number."""
    try:
        return float(text.split(None, 1)[0])
    except (ValueError, IndexError):
        return math.nan
