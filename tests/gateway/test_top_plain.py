"""What a terminal may show: no string steers it, no figure is wider than its column."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len, get_character_cell_size

from gateway.top import plain as shown
from gateway.top.plain import plain

HOSTILE = st.text(st.characters(codec=None)) | st.text(
    st.sampled_from(
        "a \x1b[31m\n\r\t\x00\x7f\x9b\u200b\u200d\u202e\u2066\u2028\ufeff\ud800日👩🇩🏽é\u0301\ufe0fאع\u1160\x85"
    )
)
FIGURES = st.floats() | st.none() | st.integers(-(10**300), 10**300).map(float)


def assert_harmless(text: str) -> None:
    for character in text:
        assert unicodedata.category(character)[0] not in "CM", (text, character)
        assert character == " " or unicodedata.category(character)[0] != "Z", (text, character)
        assert unicodedata.bidirectional(character) not in ("R", "AL", "AN", "RLO", "RLE", "RLI"), (text, character)
        assert get_character_cell_size(character) in (1, 2), (text, character)


@given(HOSTILE)
def test_nothing_steers_the_terminal(text: str) -> None:
    assert_harmless(plain(text))
    assert cell_len(plain(text)) == sum(map(get_character_cell_size, plain(text)))


def test_what_is_readable_stays() -> None:
    for text in (
        "llama-3.1/8B_it",
        "日本語モデル",
        "naïve café",
        "Ωμέγα",
        "модель",
        "🤖 bot",
        "a b",
        "<script>",
        "[bold]x[/]",
    ):
        assert plain(text) == text
    assert plain("e\u0301") == "é"
    assert plain("❤\ufe0f") == "❤"


def test_what_is_not_is_marked() -> None:
    assert plain("a\nb\x1b[2Jc") == "a\ufffdb\ufffd[2Jc"
    assert plain("\u202egpj.exe") == "\ufffdgpj.exe"
    assert plain("\ud800") == "\ufffd"
    assert plain("\ufdfd") == "\ufffd"
    assert plain("שלום") == "\ufffd" * 4


@pytest.mark.parametrize("value", [None, True, [], {}, b"x", object()])
def test_what_is_no_text_is_none(value: object) -> None:
    assert plain(value) == ""


def test_what_is_long_is_cut() -> None:
    assert plain("x" * 100_000) == "x" * 239 + "…"
    assert plain("\x1b" * 100_000) == "\ufffd" * 239 + "…"
    assert plain(10**5000) == "\ufffd"


@given(HOSTILE, st.integers(-2, 40), st.booleans(), st.booleans())
def test_a_cell_is_as_wide_as_asked_for(text: str, width: int, right: bool, tail: bool) -> None:
    assert cell_len(shown.fit(plain(text), width, right, tail)) == max(0, width)


def test_a_cell_is_cut_between_characters() -> None:
    assert shown.fit("日本語", 6) == "日本語"
    assert shown.fit("日本語", 5) == "日本…"
    assert shown.fit("日本語", 4) == "日… "
    assert shown.fit("ab", 4, right=True) == "  ab"
    assert shown.fit("default/日本", 6, tail=True) == "…/日本"


@given(FIGURES)
def test_figures_have_their_width(value: float | None) -> None:
    assert len(shown.count(value)) <= 6
    assert len(shown.seconds(value)) <= 6
    assert len(shown.percent(value)) <= 5
    assert len(shown.bar(value, 7)) == 7


@given(FIGURES, FIGURES, st.integers(1, 20))
def test_shares_have_their_width(share: float | None, fair: float | None, width: int) -> None:
    assert len(shown.versus(share, fair, width)) == width


@given(st.lists(FIGURES, max_size=50), st.integers(0, 20))
def test_blocks_have_their_width(values: list[float | None], width: int) -> None:
    assert len(shown.spark(values, width)) == width


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (12.5, "12.5"),
        (1234, "1234"),
        (12345, "12.3k"),
        (9999.9, "10000"),
        (4.56e6, "4.6M"),
        (-0.001, "0"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert shown.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0ms"),
        (0.00085, "850µs"),
        (0.12, "120ms"),
        (0.9996, "1.0s"),
        (3.44, "3.4s"),
        (59.96, "1m0s"),
        (750, "12m30s"),
        (18720, "5h12m"),
        (273600, "3d4h"),
        (-1, "-"),
    ],
)
def test_durations(value: float, text: str) -> None:
    assert shown.seconds(value) == text


def test_blocks_are_of_the_highest() -> None:
    assert shown.spark([0, 1, 2, None, 8], 5) == "▁▁▂ █"
    assert shown.spark([1], 3) == "  █"
    assert shown.spark([0, 0, 4, 4], 2) == "▁█"


def test_bars_and_marks() -> None:
    assert shown.bar(0.5, 4) == "██░░"
    assert shown.bar(7.0, 4) == "████"
    assert shown.versus(0.25, 0.5, 8) == "██░┃░░░░"
    assert shown.versus(1.0, 0.5, 8) == "███┃████"
