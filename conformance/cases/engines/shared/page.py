"""A metrics page as cases look at it: Prometheus text exposition 0.0.4, read strictly. (P)

Invariant: a line that is no comment, sample or blank is a Failure that shows the line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from conformance.suite import check

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)\s*(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*")
_LABEL = re.compile(r'\s*([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_LARGEST = 8 * 1024 * 1024
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


class Sample(msgspec.Struct, frozen=True):
    name: str
    labels: Mapping[str, str]
    value: float


class Page:
    """``types`` by family as its TYPE line has it; ``samples`` in order. Names are those of samples: ``x_bucket``."""

    def __init__(self, text: str) -> None:
        if len(text) > _LARGEST:
            check.fail("the metrics page is too long to be read each second", f"{_LARGEST} bytes at most", len(text))
        self.text = text
        self.types: dict[str, str] = {}
        self.samples: list[Sample] = []
        for line in text.split("\n"):
            if line.startswith("# TYPE "):
                name, _, kind = line[7:].strip().partition(" ")
                self.types[name] = kind.strip()
            elif line.strip() and not line.startswith("#"):
                self.samples.append(sample(line))

    def series(self, *names: str) -> list[Sample]:
        """All samples of the first of these names that the page has."""
        for name in names:
            found = [each for each in self.samples if each.name == name]
            if found:
                return found
        return []

    def total(self, names: Sequence[str], **labels: str) -> float | None:
        """The sum over its series, those with ``labels`` only; None where there is none."""
        found = [s.value for s in self.series(*names) if labels.items() <= s.labels.items() and math.isfinite(s.value)]
        return sum(found) if found else None

    def label(self, name: str, label: str) -> str:
        """A label of the first series that has it, "" if none does."""
        return next((s.labels[label] for s in self.series(name) if label in s.labels), "")


def sample(line: str) -> Sample:
    """One line. Raises Failure."""
    found = _SAMPLE.fullmatch(line)
    if found is None:
        check.fail("a line of the metrics page is no sample", 'name{label="value",…} number', line)
    name, inside, number = found.groups()
    try:
        value = float(number)
    except ValueError:
        check.fail("a sample's value is no number", "a float, NaN, +Inf or -Inf", line)
    return Sample(name, labels(inside or "", line), value)


def labels(text: str, line: str) -> dict[str, str]:
    found, at = {}, 0
    while text[at:].strip():
        label = _LABEL.match(text, at)
        if label is None:
            check.fail("the labels of a sample cannot be read", 'label="value",…', line)
        found[label[1]] = re.sub(r"\\.", lambda escape: _ESCAPES.get(escape[0], escape[0]), label[2])
        at = label.end()
    return found


def fallen(before: Page, after: Page, counters: Iterable[str]) -> list[str]:
    """Series of these counters that are less on the later page, or gone from it."""
    wanted = set(counters)
    later = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in after.samples}
    found = []
    for s in before.samples:
        now = later.get((s.name, tuple(sorted(s.labels.items()))))
        if s.name in wanted and (now is None or now < s.value):
            found.append(f"{s.name}{dict(s.labels)}: {s.value:g} → {'gone' if now is None else format(now, 'g')}")
    return found
