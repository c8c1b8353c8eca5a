"""Go durations."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.duration import parse, render


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        (0, 0),
        ("0s", 0),
        ("100ms", 0.1),
        ("10m", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("7ns", 7e-9),
        ("1h0m1s", 3601),
        ("1m1m", 120),
    ],
)
def test_parse(text: object, seconds: float) -> None:
    assert parse(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5 s",
        "-1s",
        "1d",
        "s",
        ".5s",
        "1e3s",
        "1s ",
        "1ss",
        5,
        1.5,
        None,
        True,
        False,
        [],
        "9" * 18 + "h",
        "٣s",
        "1sx",
    ],
)
def test_refused(text: object) -> None:
    with pytest.raises(ValueError):
        parse(text)


@given(st.integers(0, 2**53 - 1))
def test_what_is_rendered_parses_back(nanoseconds: int) -> None:
    seconds = nanoseconds / 10**9
    assert parse(render(seconds)) == seconds


@given(st.text())
def test_any_text_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert 0 <= parse(text) < math.inf


def test_no_limit_is_written_as_it_is_configured() -> None:
    assert render(math.inf) == "0"
