"""Metric families as text: Prometheus' format 0.0.4, and OpenMetrics 1.0 with exemplars. (P)

Invariant: whatever labels hold, a page has one line a sample, and no two samples of one name and labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from gateway.labels import LENGTH, label
from gateway.tally import Exemplar, Histogram

PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
END: Final = b"# EOF\n"
"""After the last family of a page in OpenMetrics."""

_SLICE: Final = 500
"""Lines between two turns of whoever writes: less than a millisecond."""
_UNITS: Final = ("seconds", "bytes")
_TOTAL: Final = "_total"

Row = tuple[Sequence[str], "float | Histogram"]


class Family(msgspec.Struct, frozen=True):
    """Samples of one name. ``kind``: counter, gauge, info or histogram; ``name`` is that of the samples, a counter's
    with its "_total". ``text`` says in a sentence what is counted; ``note``: what the documentation says beside it.
    ``bounds`` are a histogram's.
    """

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    note: str = ""


def wanted(accept: str) -> bool:
    """Whether a scraper that accepts these media types is given OpenMetrics: it names it, and no other text before."""
    quality = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        if kind in quality:
            quality[kind] = max(quality[kind], _quality(parameters))
    return quality["application/openmetrics-text"] > 0.0 and (
        quality["application/openmetrics-text"] >= quality["text/plain"]
    )


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


class Page:
    """What a scrape is answered. ``wall``: what is added to times on Trio's clock to have seconds of the epoch."""

    def __init__(self, openmetrics: bool = False, wall: float = 0.0) -> None:
        self.openmetrics = openmetrics
        self._wall = wall

    @property
    def content_type(self) -> str:
        return OPENMETRICS if self.openmetrics else PLAIN

    def write(self, family: Family, rows: Iterable[Row]) -> Iterator[bytes]:
        """The family in pieces of about 500 lines. Histograms that have seen nothing are left out: an empty one
        costs 20 lines and says nothing.
        """
        lines = self._head(family)
        for values, value in rows:
            labels = ",".join([f'{name}="{_shown(text)}"' for name, text in zip(family.labels, values, strict=True)])
            if not isinstance(value, Histogram):
                lines.append(
                    f"{family.name}{{{labels}}} {number(value)}" if labels else f"{family.name} {number(value)}"
                )
            elif any(value.counts):
                lines += self._histogram(family.name, labels, value)
            if len(lines) >= _SLICE:
                yield _joined(lines)
                lines = []
        yield _joined(lines)

    def _head(self, family: Family) -> list[str]:
        name, kind, text = family.name, family.kind, family.text.replace("\\", "\\\\").replace("\n", "\\n")
        if self.openmetrics:
            text = text.replace('"', '\\"')
            name = name.removesuffix(_TOTAL) if kind == "counter" else name.removesuffix("_info")
        elif kind == "info":
            kind = "gauge"
        head = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        unit = name.rpartition("_")[2]
        if self.openmetrics and unit in _UNITS:
            head.append(f"# UNIT {name} {unit}")
        return head

    def _histogram(self, name: str, labels: str, histogram: Histogram) -> Iterator[str]:
        begin, total = f'{name}_bucket{{{labels}{"," if labels else ""}le="', 0
        exemplars = histogram.exemplars if self.openmetrics else None
        for index, (bound, count) in enumerate(zip(_bounds(histogram.bounds), histogram.counts, strict=True)):
            total += count
            line = f'{begin}{bound}"}} {total}'
            if exemplars and index in exemplars:
                line += self._exemplar(exemplars[index])
            yield line
        labels = f"{{{labels}}}" if labels else ""
        yield f"{name}_count{labels} {total}"
        yield f"{name}_sum{labels} {number(histogram.sum)}"

    def _exemplar(self, exemplar: Exemplar) -> str:
        return f' # {{trace_id="{exemplar.trace_id}"}} {number(exemplar.value)} {exemplar.at + self._wall:.3f}'


def number(value: float) -> str:
    """As both formats have it."""
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"


@lru_cache(64)
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(_bound, bounds), "+Inf")


def _bound(bound: float) -> str:
    """In the one form that OpenMetrics has for it, which is Go's."""
    if not 1e6 <= bound < 1e21:
        return repr(bound)
    digits = repr(bound).removesuffix(".0")
    mantissa = f"{digits[0]}.{digits[1:]}".rstrip("0").rstrip(".")
    return f"{mantissa}e+{len(digits) - 1:02}"


def _joined(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode() if lines else b""


def _shown(text: str) -> str:
    return _escaped(text if len(text) <= LENGTH else label(text))


@lru_cache(8192)
def _escaped(text: str) -> str:
    """Of a text that is short: most come back in every line."""
    return label(text).replace("\\", "\\\\").replace('"', '\\"')
