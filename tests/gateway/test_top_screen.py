"""The screen at fixed sizes, and that no feed whatever breaks it."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.top import verdict
from gateway.top.feed import Events, Feed, Picture, TooLongError, number
from gateway.top.panels import PANELS
from gateway.top.screen import frame, snapshot
from gateway.top.verdict import judge
from gateway.top.view import View, sorted_by
from tests.gateway.test_top_plain import HOSTILE, assert_harmless
from tests.gateway.topfeed import AT, decision, endpoint, event, flow, hello, state, target

GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | HOSTILE | st.just(10**400) | st.just(-1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def mostly(known: dict[str, Any]) -> st.SearchStrategy[Any]:
    """``known``, some of its members missing or garbage."""
    return GARBAGE | st.fixed_dictionaries(
        {}, optional={name: st.just(value) | GARBAGE for name, value in known.items()}
    )


def lists(known: dict[str, Any]) -> st.SearchStrategy[Any]:
    return GARBAGE | st.lists(mostly(known), max_size=3)


FEEDS = st.fixed_dictionaries(
    {},
    optional={
        "at": st.just(AT) | GARBAGE,
        "ready": GARBAGE,
        "verdict": lists({"level": "bad", "text": "p is down"}),
        "totals": mostly(state()["totals"]),
        "pools": lists(state()["pools"][0]),
        "endpoints": lists(endpoint("a")),
        "flows": lists(flow("a")),
        "flows_left_out": GARBAGE,
        "routes": st.lists(
            st.fixed_dictionaries({"name": HOSTILE, "targets": lists(target("p", 0.5, None))}), max_size=2
        ),
        "decisions": lists(decision("x")),
    },
)


def told(*events: tuple[str, object], url: str = "http://127.0.0.1:9090") -> Picture:
    feed = Feed()
    for name, value in events:
        assert feed.take(name, json.dumps(value).encode())
    return Picture(url, feed.version, feed.state, tuple(feed.history), clock="12:00:01")


def drawn(picture: Picture, width: int, height: int, view: View = View()) -> list[str]:  # noqa: B008
    return [line.plain for line in frame(picture, view, width, height).lines]


@settings(max_examples=150, deadline=None)
@given(FEEDS, GARBAGE, st.integers(1, 170), st.integers(1, 60), st.integers(0, 4), HOSTILE, st.booleans())
def test_no_feed_breaks_the_screen(
    shown: dict[str, Any], history: object, width: int, height: int, panel: int, text: str, help: bool
) -> None:
    picture = told(("hello", hello(shown, history=history)), url=text)
    for column in PANELS[panel].columns:
        view = sorted_by(View(panel=panel, help=help, filter=text[:1], first=len(text)), panel, column.title)
        lines = frame(picture, view, width, height).lines
        assert len(lines) <= height
        for line in [*lines, *snapshot(picture, view, width)]:
            assert line.cell_len <= width, line.plain
            assert_harmless(line.plain)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 60)])
def test_the_screen_is_filled_and_ends_with_the_keys(width: int, height: int) -> None:
    lines = drawn(told(("hello", hello())), width, height)
    assert len(lines) == height
    assert lines[-1].startswith("q quit")


def test_eighty_columns_show_what_matters() -> None:
    lines = drawn(told(("hello", hello())), 80, 24)
    assert lines[0] == "infer-gateway 0.9  http://127.0.0.1:9090  up 3h25m  generation 4  12:00:01"
    assert lines[1] == "● all is well: 2 endpoints in 1 pool"
    assert lines[2].startswith("req/s 123 ")
    assert "refused/s 1.5" in lines[2]
    assert lines[3].startswith("ttft p50 120ms  p99 1.3s")
    assert "1 Endpoints 2" in lines[4]
    assert lines[5].split() == ["pool", "endpoint", "state", "KV", "usage", "run/wait", "inflight", "hit"]
    assert lines[6].split() == ["default/llama", "10.0.0.1:8000", "ready", "████░░░░", "50%", "12/1", "3", "25%"]
    assert "Flows 2, 3 more not sent" in lines


def test_wide_terminals_show_all() -> None:
    lines = drawn(told(("hello", hello())), 170, 50)
    text = "\n".join(lines)
    assert lines[5].split()[-1] == "models"
    known = ("batch", "alice", "default/qwen as qwen-2", "█████┃███░░░", "grpc connections 2")
    for shown in (*known, "no. 1 of 2, 512 of 600 tokens cached"):
        assert shown in text
    assert "why" not in lines[5].split(), "a column with nothing in it takes no room"


@pytest.mark.parametrize("view", [View(help=True), View()])
def test_every_line_of_the_screen_is_drawn(view: View) -> None:
    lines = drawn(told(("hello", hello())), 80, 30, view)
    assert len(lines) == 30


def test_help_says_what_each_column_means_in_eighty_by_twenty_four() -> None:
    text = "\n".join(drawn(told(("hello", hello())), 80, 24, View(help=True)))
    for told_of in ("share ┃ fair", "run/wait", "inflight", "age", "hit", "full", "because"):
        assert f"\n{told_of} " in text


def test_a_decision_tells_its_cost_in_seconds() -> None:
    costly = decision("req-1")
    costly["candidates"][0] |= {"scores": {"cost": 0.968, "lora": 1}, "costSeconds": 0.033}
    picture = told(("hello", hello(state(decisions=[costly]))))
    text = "\n".join(drawn(picture, 200, 30, View(panel=3)))
    assert "no. 1 of 2, costs everybody 33ms, 512 of 600 tokens cached" in text
    assert "lora 1" in text
    assert "0.97" not in text


def test_names_are_cut_where_they_are_alike() -> None:
    ids = ["discovered/demo-vllm-with-a-long-name", "discovered/demo-sglang-with-many-letters"]
    routes = [{"name": name, "match": "any model", "targets": [target(name, 1.0, 1.0)]} for name in ids]
    hosts = [endpoint(f"{name}.engines.inference.svc.cluster.local:8000") for name in ("red", "blue")]
    shown = state(routes=routes, endpoints=hosts)
    lines = drawn(told(("hello", hello(shown))), 80, 24, View(panel=2))
    assert [line.split()[0][-12:] for line in lines[6:8]] == [name[-12:] for name in ids]
    assert all(line.startswith("…") for line in lines[6:8])
    lines = drawn(told(("hello", hello(shown))), 80, 24)
    assert [line.split()[1].partition(".")[0] for line in lines[6:8]] == ["red", "blue"]
    callers = [flow(f"spiffe://cluster.local/ns/inference/sa/{name}", tenant="") for name in ("batch", "alice")]
    lines = drawn(told(("hello", hello(state(flows=callers)))), 80, 24, View(panel=1))
    assert [line.split()[0].rpartition("/")[2] for line in lines[6:8]] == ["batch", "alice"]
    assert all(line.startswith("…") for line in lines[6:8])


@pytest.mark.parametrize(("fairness", "said"), [([False, False], True), ([True, False], False), ([], False)])
def test_fairness_that_is_off_is_told_from_no_flows(fairness: list[bool], said: bool) -> None:
    pools = [{"name": "p", "fairness": on} for on in fairness]
    picture = told(("hello", hello(state(flows=[], flows_left_out=0, pools=pools))))
    for view in (View(), View(panel=1)):
        text = "\n".join(drawn(picture, 80, 40, view))
        assert ("fairness is off" in text) == said
        assert ("Flows off" in text) == said
    snapped = [line.plain for line in snapshot(picture, View(), 80)]
    assert ("Flows: fairness is off" if said else "Flows 0") in snapped


def test_columns_stand_under_each_other_whatever_is_in_them() -> None:
    callers = ("plain", "日本語" * 3, "\x1b[31mred\x1b[0m", "x" * 100_000, "🤖👩\u200d🚀")
    picture = told(("hello", hello(state(flows=[flow(caller, wait=61.0) for caller in callers]))))
    lines = frame(picture, View(panel=1), 100, 30).lines[6 : 6 + len(callers)]
    assert {line.cell_len for line in lines} == {lines[0].cell_len}
    assert all(line.plain.endswith(" 1m1s") for line in lines)


def test_rows_can_be_filtered_sorted_and_scrolled() -> None:
    many = [endpoint(f"10.0.0.{at}:1", kv=at / 100, models=["x" if at % 2 else "odd-one"]) for at in range(100)]
    picture = told(("hello", hello(state(endpoints=many))))

    def ids(view: View) -> list[str]:
        return [line.split()[1] for line in drawn(picture, 80, 24, view)[6:-1]]

    assert ids(View())[0] == "10.0.0.0:1"
    assert len(ids(View())) == 17
    by_usage = sorted_by(View(), 0, "KV usage")
    assert ids(by_usage)[:2] == ["10.0.0.99:1", "10.0.0.98:1"]
    assert ids(View(sorts=by_usage.sorts, reverse=True))[0] == "10.0.0.0:1"
    assert ids(View(first=10))[0] == "10.0.0.10:1"
    assert frame(picture, View(first=1 << 30), 80, 24).first == 83
    assert ids(View(first=1 << 30))[-1] == "10.0.0.99:1"
    assert ids(View(filter="ODD-ONE"))[1] == "10.0.0.2:1"
    assert drawn(picture, 80, 24, View(filter="0.42:"))[6].split()[1] == "10.0.0.42:1"
    assert "nothing here that contains" in drawn(picture, 80, 24, View(filter="nowhere"))[5]


def test_a_snapshot_has_every_row() -> None:
    picture = told(("hello", hello(state(endpoints=[endpoint(f"10.0.0.{at}:1") for at in range(100)]))))
    text = "\n".join(line.plain for line in snapshot(picture, View(), 100))
    assert all(f"10.0.0.{at}:1 " in text for at in range(100))
    assert all(panel.title in text for panel in PANELS)


def test_states_go_into_the_history_and_it_is_bounded() -> None:
    feed = Feed()
    assert feed.take("hello", json.dumps(hello()).encode())
    for at in range(400):
        assert feed.take("state", json.dumps(state(at=AT + at)).encode())
    assert len(feed.history) == 300
    assert feed.history[-1] == (AT + 399, 123.4, 0.0, 45678.0, 12345.6, 0.12, 1.3, 37.0, 12.0)


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff", b"[]", b"1", b"1" * 5000])
def test_events_that_are_none_change_nothing(data: bytes) -> None:
    feed = Feed()
    assert feed.take("hello", event("hello", hello()).split(b"data: ")[1])
    before = feed.state
    assert not feed.take("state", data)
    assert feed.state is before


def test_one_string_that_is_no_unicode_hides_no_other() -> None:
    feed = Feed()
    assert feed.take("state", b'{"at": NaN, "verdict": [{"text": "\\ud800"}, {"text": "\xff"}], "ready": true}')
    assert judge(Picture(state=feed.state)).text == "\ufffd · \ufffd"


def test_a_number_is_finite_or_none() -> None:
    feed = Feed()
    sent = b'{"a": 1e999, "b": -Infinity, "c": true, "d": "1", "e": 1' + b"0" * 400 + b', "f": 2}'
    assert feed.take("state", sent)
    assert [number(feed.state, name) for name in "abcdefg"] == [None] * 5 + [2.0, None]


@given(st.data())
def test_events_are_read_however_they_are_cut(data: st.DataObject) -> None:
    sent = b": hi\n\nretry: 3\nevent: hello\r\ndata: 1\r\ndata:2\r\nid: 7\r\n\r\nevent: none\n\ndata: x\n\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=5)))
    events = Events()
    parts = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    assert [read for part in parts for read in events.feed(part)] == [("hello", b"1\n2"), ("message", b"x")]


@pytest.mark.parametrize("part", [b"data: " + b"x" * 65536, b"data: " + b"x" * 65536 + b"\n"])
def test_events_are_bounded(part: bytes) -> None:
    events = Events()
    with pytest.raises(TooLongError):
        deque(read for _ in range(300) for read in events.feed(part))


def test_what_the_gateway_says_is_the_matter_is_said() -> None:
    down = {"level": "warn", "about": "endpoint", "text": "a is down", "pool": "p", "endpoint": "a"}
    judged = [
        judge(told(("hello", hello(state(verdict=found)))))
        for found in ([], [down], [{"level": "bad", "text": "No endpoint yet"}, down], [{"level": [1], "text": 2}])
    ]
    assert [(each.level, each.text) for each in judged] == [
        (verdict.WELL, "all is well: 2 endpoints in 1 pool"),
        (verdict.WARN, "a is down"),
        (verdict.BAD, "No endpoint yet · a is down"),
        (verdict.WARN, "2"),
    ]


def test_being_away_is_said_before_all() -> None:
    shown = told(("hello", hello(state(verdict=[{"level": "warn", "text": "a is down"}]))))
    away = Picture(state=shown.state, away="nothing listens there", away_s=14.0, away_since="12:00:00")
    assert judge(away).text == "no news since 12:00:00 (14.0s): nothing listens there"
    assert judge(away).level == verdict.BAD
