"""What is said to be wrong with the fleet, in which words, and that it stays short."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.live_verdict import Problem, Seen, judge

HEAD = {"draining": False, "ready": True, "problems": []}
TOTALS = {"rps": 100.0, "errors": 0.0, "queued": 0}


def pool(name: str = "p", **more: object) -> dict[str, Any]:
    return {"name": name, "members": 2, "ready": 2, "saturation": 0.5, **more}


def out(id: str, state: str, why: str = "") -> dict[str, Any]:
    return {"id": id, "pool": "p", "state": state, "why": why}


def seen(head: dict[str, Any] = {}, totals: dict[str, Any] = {}, **more: Any) -> Seen:  # noqa: B006 — not changed
    given = {"pools": [pool()], **more}
    return Seen(HEAD | head, TOTALS | totals, **given)


CASES = [
    (seen(), "", ""),
    (seen({"ready": False}), "bad", "No endpoint can be used"),
    (seen({"ready": False}, pools=[]), "bad", "No endpoint yet"),
    (seen({"ready": False, "draining": True}), "warn", "The gateway is stopping: it finishes what it has and takes no"),
    (seen({"problems": ["a: b"]}), "warn", "The last change of the configuration was refused: a: b"),
    (seen({"problems": ["a", "b", "c"]}), "warn", "The last change of the configuration was refused: a (and 2 more)"),
    (seen(pools=[pool(ready=0)]), "bad", "Pool p has no endpoint that serves"),
    (seen(pools=[pool(members=0, ready=0)]), "warn", "Pool p has no endpoints"),
    (seen(pools=[pool(saturation=1.0)]), "warn", "Pool p is saturated"),
    (seen(pools=[pool(saturation=None)]), "", ""),
    (seen(pools=[pool(n, saturation=2.0) for n in "abcde"]), "warn", "Pools a, b, c and 2 more are saturated"),
    (seen(totals={"errors": 0.9}), "", ""),
    (seen(totals={"errors": 2.0}), "warn", "2 % of requests fail"),
    (seen(totals={"errors": 20.0}), "bad", "20 % of requests fail"),
    (seen(totals={"rps": 0.0, "errors": 0.0}), "", ""),
    (seen(flows=[{"wait": 4.9}, {"wait": None}]), "", ""),
    (seen(totals={"queued": 3}, flows=[{"wait": 12.2}]), "warn", "3 requests wait for room, up to 12 s"),
    (seen(totals={"queued": 20}, queued_before=5.0), "warn", "The queue grows: 20 wait, 5 half a minute ago"),
    (seen(totals={"queued": 20}, queued_before=18.0), "", ""),
    (seen(totals={"queued": 20}), "", ""),
    (seen(out=[out("a", "open", "failing")]), "warn", "a is set aside: several failures in a row"),
    (seen(out=[out("a", "down"), out("b", "down")]), "warn", "a and b are down: no answer"),
    (seen(out=[out(n, "down", f"{n} said no") for n in "abcd"]), "warn", "a, b, c and 1 more are down"),
    (seen(out=[out("a", "half-open")]), "warn", "a is on trial"),
]


@pytest.mark.parametrize(("shown", "level", "text"), CASES)
def test_what_is_the_matter(shown: Seen, level: str, text: str) -> None:
    found = judge(shown)
    assert [problem.level for problem in found] == ([level] if level else [])
    assert "".join(problem.text for problem in found).startswith(text)


def test_the_worst_comes_first_and_leads_to_where_it_is() -> None:
    found = judge(seen({"problems": ["x"]}, pools=[pool(ready=0)], out=[out("a", "down"), out("b", "hung", "hung")]))
    assert [(each.level, each.about, each.pool, each.endpoint) for each in found] == [
        ("bad", "pool", "p", ""),
        ("warn", "configuration", "", ""),
        ("warn", "endpoint", "p", "b"),
        ("warn", "endpoint", "p", "a"),
    ]
    assert found[2] == Problem("warn", "endpoint", "b is hung: no answer to anything", "p", "b")


NAMES = st.lists(st.text(max_size=300), max_size=30)
ROWS = st.builds(out, st.text(max_size=300), st.sampled_from(["down", "hung", "open"]), st.text(max_size=400))


@given(NAMES, NAMES, st.lists(ROWS, max_size=30), NAMES)
def test_it_is_short_whatever_has_trouble(lost: list[str], empty: list[str], rows: list[Any], said: list[str]) -> None:
    pools = [pool(name, ready=0) for name in lost] + [pool(name, members=0, ready=0) for name in empty]
    found = judge(seen({"problems": said}, {"errors": 50.0}, pools=pools, out=rows))
    assert len(found) <= 15
    assert max(len(problem.text) for problem in found) < 700
