"""Wanted samples come out of any page as prometheus_client's own parser reads them, followed or looked through."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.wire.exposition import Found, Layout, Wanted, read

WANTED = Wanted(
    {"a": ("engine:a",), "b": ("engine:new_b", "engine:old_b"), "sum": ("engine:h_sum",), "count": ("engine:h_count",)}
)
NAMES = ("engine:a", "engine:new_b", "engine:old_b", "engine:a_longer", "engine:other")

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
numbers = st.floats() | st.integers(-5, 10**12).map(float)
series = st.dictionaries(st.tuples(texts, texts), numbers, max_size=4)
families = st.dictionaries(st.sampled_from(NAMES), series, max_size=len(NAMES))
observed = st.dictionaries(texts, st.lists(st.floats(0, 100), max_size=3), max_size=3)


def page_of(gauges: dict[str, dict[tuple[str, str], float]], latencies: dict[str, list[float]]) -> bytes:
    registry = CollectorRegistry()
    for name, values in gauges.items():
        gauge = Gauge(name, "What it is.", ["zone", "engine"], registry=registry)
        for (zone, engine), value in values.items():
            gauge.labels(zone, engine).set(value)
    histogram = Histogram("engine:h", "engine:a{} 1\nengine:a 2", ["engine"], registry=registry, buckets=(0.5, 1))
    for engine, seconds in latencies.items():
        for second in seconds:
            histogram.labels(engine).observe(second)
    return generate_latest(registry)


def expected(page: bytes) -> dict[str, list[tuple[float, dict[str, str]]]]:
    samples: dict[str, list[tuple[float, dict[str, str]]]] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.value, sample.labels))
    named = {
        "a": ["engine:a"],
        "b": ["engine:new_b", "engine:old_b"],
        "sum": ["engine:h_sum"],
        "count": ["engine:h_count"],
    }
    found = {field: next((samples[n] for n in names if n in samples), []) for field, names in named.items()}
    return {field: pairs for field, pairs in found.items() if pairs}


def pairs(found: Found) -> dict[str, list[tuple[float, dict[str, str]]]]:
    assert found.values.keys() == found.labels.keys()
    return {
        field: [(value, dict(labels)) for value, labels in zip(values, found.labels[field], strict=True)]
        for field, values in found.values.items()
    }


def same(left: Mapping[str, object], right: Mapping[str, object]) -> bool:
    """Equal, NaN being equal to itself."""
    return repr(sorted(left.items())) == repr(sorted(right.items()))


@given(families, observed)
def test_what_is_found_is_what_a_full_parser_finds(
    gauges: dict[str, dict[tuple[str, str], float]], latencies: dict[str, list[float]]
) -> None:
    page = page_of(gauges, latencies)
    assert same(pairs(read(page, WANTED)), expected(page))


@given(families, observed, st.lists(st.tuples(st.lists(numbers, min_size=1), st.integers(0, 3)), max_size=6))
def test_a_kept_layout_changes_no_number(
    gauges: dict[str, dict[tuple[str, str], float]],
    latencies: dict[str, list[float]],
    later: list[tuple[list[float], int]],
) -> None:
    layout = Layout()
    read(page_of(gauges, latencies), WANTED, layout)
    for fresh, more in later:
        values = itertools.cycle(fresh)
        moved = {name: {labels: next(values) for labels in series} for name, series in gauges.items()}
        page = page_of(moved, {engine: seconds * (more + 1) for engine, seconds in latencies.items()})
        assert same(pairs(read(page, WANTED, layout)), expected(page))


PAGE = b"""# TYPE engine:a gauge
engine:a{model_name="qwen3-32b",rank="0"} 1.0
# TYPE engine:other gauge
engine:other 5
# TYPE engine:old_b gauge
engine:old_b{model_name="qwen3-32b",rank="0"} 7.5
"""


def test_a_layout_is_followed_as_long_as_it_holds() -> None:
    layout = Layout()
    assert layout.follow(WANTED, PAGE) is None
    read(PAGE, WANTED, layout)
    moved = PAGE.replace(b" 1.0", b" 123.0").replace(b" 5\n", b" 5.25e+09\n")
    followed = layout.follow(WANTED, moved)
    assert followed is not None
    assert followed.values == {"a": [123.0], "b": [7.5]}


def sample(name: str, rank: int, value: float) -> bytes:
    return b'engine:%b{model_name="qwen3-32b",rank="%d"} %r\n' % (name.encode(), rank, value)


FIRST = sample("a", 0, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "values"),
    [
        (FIRST, FIRST + sample("a", 1, 2.0), {"a": [1.0, 2.0], "b": [7.5]}),
        (FIRST, sample("a", 9, 2.0), {"a": [2.0], "b": [7.5]}),
        (FIRST, b"", {"b": [7.5]}),
        (b"# TYPE engine:old_b", sample("new_b", 0, 3.0) + b"# TYPE engine:old_b", {"a": [1.0], "b": [3.0]}),
        (b"engine:other 5\n", b"engine:other 5\n" * 100, {"a": [1.0], "b": [7.5]}),
        (b" 7.5\n", b" 7.5", {"a": [1.0], "b": [7.5]}),
    ],
)
def test_a_page_laid_out_otherwise_is_looked_through(old: bytes, new: bytes, values: dict[str, list[float]]) -> None:
    layout = Layout()
    read(PAGE, WANTED, layout)
    assert old in PAGE
    assert read(PAGE.replace(old, new), WANTED, layout).values == values
    assert read(PAGE, WANTED, layout).values == {"a": [1.0], "b": [7.5]}


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b'engine:a 5 # {trace_id="x"} 0.5\nengine:a 6\n', id="an exemplar"),
        pytest.param(FIRST + b"engine:other 5\n" + sample("a", 0, 2.0) + b"engine:other 5\n", id="a series twice"),
    ],
)
def test_odd_lines_are_followed_to_what_a_look_finds(lines: bytes) -> None:
    layout = Layout()
    page = b"#\n" + lines
    found = read(page, WANTED)
    assert len(found.values["a"]) == lines.count(b"engine:a")
    for _ in range(3):
        assert read(page, WANTED, layout) == found


def test_what_came_unseen_is_seen_some_pages_later() -> None:
    layout = Layout()
    plain = PAGE.replace(b"engine:other 5\n", b"engine:any 5\nengine:more 6\n")
    read(plain, WANTED, layout)
    crafty = plain.replace(b"engine:any 5\nengine:more 6\n", b"engine:new_b   99.25000000\n")
    assert len(crafty) == len(plain)
    seen = [read(crafty, WANTED, layout).values["b"] for _ in range(300)]
    assert seen[-1] == [99.25]


def test_one_layout_serves_one_vocabulary_at_a_time() -> None:
    layout = Layout()
    read(PAGE, WANTED, layout)
    assert read(PAGE, Wanted({"other": ("engine:other",)}), layout).values == {"other": [5.0]}


def test_both_spellings_and_the_first_name_that_has_samples() -> None:
    assert read(PAGE.replace(b"engine:", b"engine_"), WANTED).values == {"a": [1.0], "b": [7.5]}
    both = PAGE + b'engine:new_b{model_name="qwen3-32b",rank="0"} 8\n'
    assert read(both, WANTED).values["b"] == [8.0]


def test_a_number_that_cannot_be_read_is_nan_and_counts_for_nothing() -> None:
    page = sample("a", 0, 1.0).replace(b"1.0", b"rubbish") + sample("a", 1, 2.0).replace(b"\n", b" 1700000000000\n")
    page += sample("a", 2, 3.0).replace(b" 3.0", b"") + b'engine:a{rank="3} 4\nengine:a{zone="+Inf"} +Inf\n'
    found = read(page, WANTED)
    assert len(found.values["a"]) == 4
    assert math.isnan(found.values["a"][0])
    assert found.total("a") == 2.0
    assert found.total("b") == 0.0


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(noise: bytes) -> None:
    read(noise, WANTED)
    layout = Layout()
    read(PAGE, WANTED, layout)
    read(PAGE.replace(b"5", noise), WANTED, layout)
