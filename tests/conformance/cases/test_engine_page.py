"""The reader of metrics pages: what exposition writes it reads, what is no exposition it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.cases.engines.shared.page import Page, fallen
from conformance.engines import exposition
from conformance.suite.check import Failure

NAMES = st.from_regex(r"[a-z_:][a-z0-9_:]{0,8}", fullmatch=True)
LABELS = st.dictionaries(
    st.from_regex(r"[a-z_]\w{0,5}", fullmatch=True).filter(str.isascii), st.text(max_size=12), max_size=3
)
VALUES = st.floats(allow_nan=False)


@given(st.dictionaries(NAMES, st.lists(st.tuples(LABELS, VALUES), max_size=3), max_size=4), st.booleans())
def test_what_is_written_is_read(families: dict[str, Any], whole: bool) -> None:
    out = exposition.Page(whole=whole)
    for name, samples in families.items():
        out.family(name, "gauge", "About it.", samples)
    page = Page(out.encode().decode())
    assert page.types == dict.fromkeys(families, "gauge")
    read = [(sample.name, dict(sample.labels), sample.value) for sample in page.samples]
    assert read == [(name, labels, value) for name, samples in families.items() for labels, value in samples]


@pytest.mark.parametrize(
    "line", ["two words", "x{a=1} 2", 'x{a="1} 2', "x twelve", 'x{a="1" b="2"} 3', "1x 2", "<html>"]
)
def test_what_is_no_sample_is_refused(line: str) -> None:
    with pytest.raises(Failure):
        Page(f"ok 1\n{line}\n")


def test_numbers_and_timestamps() -> None:
    page = Page('a{x="1",} NaN\nb +Inf\nc -Inf\nd 1e3 1795233511000\n')
    assert math.isnan(page.samples[0].value)
    assert [sample.value for sample in page.samples[1:]] == [math.inf, -math.inf, 1000.0]


def test_totals_are_of_the_first_name_there_is() -> None:
    page = Page('new{rank="0"} 1\nnew{rank="1"} 2\nnew{rank="2"} NaN\nold 9\n')
    assert page.total(["new", "old"]) == 3
    assert page.total(["new"], rank="1") == 2
    assert page.total(["newest", "old"]) == 9
    assert page.total(["newest"]) is None
    assert page.label("new", "rank") == "0"
    assert page.label("old", "rank") == ""


def test_counters_that_fell_are_told_with_their_series() -> None:
    before = Page('x{a="1"} 5\nx{a="2"} 5\ny 3\nz 3\n')
    after = Page('x{a="1"} 4\ny 4\nz 1\n')
    assert fallen(before, after, ["x", "y"]) == ["x{'a': '1'}: 5 → 4", "x{'a': '2'}: 5 → gone"]
    assert fallen(before, before, ["x", "y", "z"]) == []


def test_a_page_of_megabytes_is_not_read() -> None:
    with pytest.raises(Failure, match="too long"):
        Page("a 1\n" * (3 << 20))
