"""Metrics pages: those of engines as they are read, and ours as it is written. (P)

Property: a page gives the same samples whether it is looked through or read by what is known of its last version, from
which its values and nothing else differ; reading raises nothing. Whatever its labels hold, a page that we write has one
line a sample, each as the format wants it, no two of one name and labels, and read again they are the same labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.families import Family, Page
from gateway.labels import label
from gateway.tally import Exemplar, Histogram
from gateway.wire.exposition import Found, Layout, Wanted, read

_WANTED = Wanted({"a": ("e:a", "b_a"), "b": ("b",), "c": ("c_total", "c")})
_NUMBER = re.compile(rb"[0-9]+(?=\n|\r|\Z)")
_LINE = re.compile(r'[a-z_]+(\{[a-z]+="(?:[^"\\\n]|\\[\\"n])*"(,[a-z]+="(?:[^"\\\n]|\\[\\"n])*")*\})? [-+0-9.eINafn]+')
_BOUNDS = (0.5, 1.0, 1e6)


def target(data: bytes) -> None:
    """First byte: an engine's page and how its values change, or labels of ours, divided by zero bytes."""
    if not data:
        return
    choice, rest = data[0], data[1:]
    if choice & 1:
        _written([text.decode("utf-8", "surrogateescape") for text in rest.split(b"\0")], choice >> 1)
    else:
        _read(rest, choice >> 1)


def _read(page: bytes, seed: int) -> None:
    layout = Layout()
    for turn in range(4):
        given = _NUMBER.sub(b"%d" % (10**turn * seed), page) if turn else page
        assert _plain(read(given, _WANTED, layout)) == _plain(read(given, _WANTED)), given
    for field in ("a", "b", "c"):
        read(page, _WANTED).total(field)


def _plain(found: Found) -> tuple[object, ...]:
    """Comparable: NaN is itself."""
    return {name: list(map(repr, values)) for name, values in found.values.items()}, found.labels


def _written(texts: list[str], choice: int) -> None:
    openmetrics = bool(choice & 1)
    page = Page(openmetrics)
    rows = list(dict.fromkeys((text, other) for text in texts[:20] for other in texts[:3]))
    counter = Family("b", "counter", 'so \\ "many"\n', ("x", "y"))
    lines = b"".join(page.write(counter, [(row, float(len(row[0]))) for row in rows])).decode().split("\n")
    samples = [line for line in lines if not line.startswith("#")]
    assert samples.pop() == ""
    assert len(samples) == len(rows), samples
    assert len({line.rpartition(" ")[0] for line in samples}) == len(rows), samples
    for line in samples:
        assert _LINE.fullmatch(line), line
    again = read("\n".join(lines).encode(), _WANTED)
    assert [(found["x"], found["y"]) for found in again.labels["b"]] == [tuple(map(label, row)) for row in rows]
    _histograms(page, rows)


def _histograms(page: Page, rows: list[tuple[str, str]]) -> None:
    family = Family("b", "histogram", "", ("x", "y"), _BOUNDS)
    lines = b"".join(page.write(family, _histogram_rows(rows))).decode().split("\n")
    samples = [line.partition(" # ")[0] if page.openmetrics else line for line in lines if line and line[0] != "#"]
    assert len(samples) == len(rows) * (len(_BOUNDS) + 3), samples
    assert len(lines) - 1 == len(samples) + sum(line.startswith("#") for line in lines), lines


def _histogram_rows(rows: list[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], Histogram]]:
    for row in rows:
        histogram = Histogram(_BOUNDS)
        histogram.observe(len(row[0]))
        histogram.exemplars = {0: Exemplar(0.1, "0" * 32, 1.0)}
        yield row, histogram
