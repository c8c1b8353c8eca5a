"""Keys: what a terminal sends, and what becomes of the view."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.top.panels import PANELS
from gateway.top.view import Keys, View, press


def after(*keys: str, view: View = View()) -> View:  # noqa: B008
    return reduce(press, keys, view)


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B\x1bOC\x1bOD", ["up", "down", "right", "left"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[4~", ["page up", "page down", "home", "end"]),
        (b"\t\x1b[Z\r\x7f\x15", ["tab", "back tab", "enter", "backspace", "erase"]),
        (b"\x1b", ["escape"]),
        (b"\x1b[1;5Aq", ["q"]),
        (b"\x1b[<0;1;1Mq", ["q"]),
        (b"\x1bOPq\x00\x01", ["q"]),
        ("é日".encode(), ["é", "日"]),
        (b"\xff", ["\ufffd"]),
        (b"\x03", ["quit"]),
    ],
)
def test_what_terminals_send(sent: bytes, keys: list[str]) -> None:
    assert list(Keys().feed(sent)) == keys


def test_a_character_may_come_in_parts() -> None:
    keys = Keys()
    assert [key for byte in "日q".encode() for key in keys.feed(bytes([byte]))] == ["日", "q"]


@given(st.lists(st.binary(max_size=12), max_size=8))
def test_no_bytes_break_the_view(sent: list[bytes]) -> None:
    keys, view = Keys(), View()
    for part in sent:
        for key in keys.feed(part):
            view = press(view, key, 5)
            assert 0 <= view.panel < len(PANELS)
            assert view.first >= 0
            assert len(view.filter) <= 60


def test_panels() -> None:
    assert after("3").panel == 2
    assert after("tab", "tab").panel == 2
    assert after("back tab").panel == len(PANELS) - 1
    assert after("right", "left").panel == 0
    assert after("9", "0").panel == 0
    assert after("down", "down", "2").first == 0


def test_scrolling() -> None:
    assert after("down", "j", "up").first == 1
    assert after("up").first == 0
    assert press(View(first=3), "page down", 7).first == 10
    assert press(View(first=3), "page up", 7).first == 0
    assert after("end", "home").first == 0


def test_sorting_goes_round_the_columns_of_its_panel() -> None:
    titles = [column.title for column in PANELS[0].columns]
    assert after("s").sort == titles[0]
    assert after("S").sort == titles[-1]
    assert after(*["s"] * (len(titles) + 1)).sort == ""
    assert after("s", "2").sort == ""
    assert after("s", "2", "1").sort == titles[0]
    assert after("r").reverse
    assert not after("r", "r").reverse


def test_the_filter_takes_letters_until_enter() -> None:
    typed = after("/", *"qps", "backspace")
    assert (typed.filter, typed.typing, typed.quit, typed.paused) == ("qp", True, False, False)
    kept = press(typed, "enter")
    assert (kept.filter, kept.typing) == ("qp", False)
    assert after("escape", view=kept).filter == ""
    assert after("escape", view=typed) == View()
    assert after("/", "a", "erase").filter == ""
    assert after("/", "quit").quit


def test_holding_help_and_leaving() -> None:
    assert after("p").paused
    assert not after("p", " ").paused
    assert after("?").help
    assert not after("?", "x").help
    assert after("q").quit
    assert after("?", "q").quit
