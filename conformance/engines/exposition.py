"""Metrics pages as engines write them: Prometheus text with HELP, TYPE and labels in alphabetical order. (P)"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

Labels = Mapping[str, str]

_1_2_5 = tuple(m * 10.0**e for e in range(6) for m in (1, 2, 5))


def sizes(limit: int) -> tuple[float, ...]:
    """Buckets 1, 2, 5, 10, … up to ``limit``."""
    return tuple(bound for bound in _1_2_5 if bound <= limit)


class Histogram:
    """Counts per bucket; ``bounds`` are upper limits, the infinite one implied."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """The sum of histograms with the same bounds."""
    every = list(histograms)
    result = Histogram(every[0].bounds)
    result.counts = [sum(column) for column in zip(*(each.counts for each in every), strict=True)]
    result.total = sum(each.total for each in every)
    return result


def labels(values: Labels) -> str:
    """``{a="1",b="2"}``, or nothing for no labels."""
    if not values:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(values[name])}"' for name in sorted(values)) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def number(value: float) -> str:
    """As Python's client writes it."""
    return {float("inf"): "+Inf", float("-inf"): "-Inf"}.get(value) or repr(float(value))


class Page:
    """Lines of one page. ``whole`` writes integers without a fraction, as Rust's exporter does."""

    def __init__(self, *, whole: bool = False) -> None:
        self._lines: list[str] = []
        self._whole = whole

    def family(self, name: str, kind: str, about: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """A gauge or counter. With no samples the family is announced all the same."""
        self._announce(name, kind, about)
        self._lines += [f"{name}{labels(values)} {self._number(value)}" for values, value in samples]

    def one(self, name: str, kind: str, about: str, value: float, values: Labels | None = None) -> None:
        self.family(name, kind, about, [(values or {}, value)])

    def histogram(self, name: str, about: str, samples: Iterable[tuple[Labels, Histogram]]) -> None:
        self._announce(name, "histogram", about)
        for values, histogram in samples:
            running = 0
            for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
                running += count
                bucket = labels({**values, "le": self._number(bound)})
                self._lines.append(f"{name}_bucket{bucket} {self._number(running)}")
            self._lines.append(f"{name}_count{labels(values)} {self._number(running)}")
            self._lines.append(f"{name}_sum{labels(values)} {self._number(histogram.total)}")

    def encode(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()

    def _announce(self, name: str, kind: str, about: str) -> None:
        if about:
            self._lines.append(f"# HELP {name} {about}")
        self._lines.append(f"# TYPE {name} {kind}")

    def _number(self, value: float) -> str:
        if self._whole and value == int(value if abs(value) < 1e15 else 0):
            return str(int(value))
        return number(value)
