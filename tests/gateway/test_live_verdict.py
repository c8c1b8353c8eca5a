"""What is said to be wrong with the fleet, in which words, and that it stays short."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.live_attempts import Tried, tried
from gateway.live_verdict import Ended, Problem, Seen, judge

HEAD = {"draining": False, "ready": True, "problems": []}
TOTALS = {"queued": 0}
FULL = dict.fromkeys("abcdep", 6.0)
ERRORS, SILENCE = "upstream_error", "upstream_timeout"


def pool(name: str = "p", **more: object) -> dict[str, Any]:
    return {"name": name, "members": 2, "ready": 2, "fairness": False, **more}


def out(id: str, state: str, why: str = "") -> dict[str, Any]:
    return {"id": id, "pool": "p", "state": state, "why": why}


def seen(head: dict[str, Any] = {}, totals: dict[str, Any] = {}, **more: Any) -> Seen:  # noqa: B006 — not changed
    given = {"pools": [pool()], **more}
    return Seen(HEAD | head, TOTALS | totals, **given)


def flow(wait: float | None, pool: str = "p") -> dict[str, Any]:
    return {"pool": pool, "wait": wait}


def at(endpoint: str, attempts: int, pool: str = "p", **failed: int) -> Tried:
    return Tried(pool, endpoint, attempts, failed)


CASES = [
    (seen(), "", ""),
    (seen({"ready": False}), "bad", "No endpoint can be used"),
    (seen({"ready": False}, pools=[]), "bad", "No endpoint yet"),
    (seen({"ready": False, "draining": True}), "warn", "The gateway is stopping: it finishes what it has and takes no"),
    (seen({"problems": ["a: b"]}), "warn", "The last change of the configuration was refused: a: b"),
    (seen({"problems": ["a", "b", "c"]}), "warn", "The last change of the configuration was refused: a (and 2 more)"),
    (seen(pools=[pool(ready=0)]), "bad", "Pool p has no endpoint that serves"),
    (seen(pools=[pool(members=0, ready=0)]), "warn", "Pool p has no endpoints"),
    (seen(full=FULL), "warn", "Pool p is saturated"),
    (seen(full={"p": 4.0}), "", ""),
    (seen(pools=[pool(fairness=True)], full=FULL, flows=[flow(4.9), flow(None)]), "", ""),
    (seen(pools=[pool(n) for n in "abcde"], full=FULL), "warn", "Pools a, b, c and 2 more are saturated"),
    (seen(seconds=Ended(1000, 9), minute=Ended(6000, 900)), "", ""),
    (seen(seconds=Ended(1000, 20)), "warn", "2 % of requests fail"),
    (seen(seconds=Ended(1000, 200)), "bad", "20 % of requests fail"),
    (seen(seconds=Ended(20, 2)), "", ""),
    (seen(seconds=Ended(1, 1), minute=Ended(1, 1)), "", ""),
    (seen(seconds=Ended(2, 2), minute=Ended(2, 2)), "", ""),
    (seen(minute=Ended(4, 3)), "bad", "3 of 4 requests failed within a minute"),
    (seen(seconds=Ended(19, 0), minute=Ended(60, 3)), "warn", "5 % of requests fail"),
    (seen(flows=[flow(4.9), flow(None)]), "", ""),
    (seen(totals={"queued": 3}, flows=[flow(12.2)]), "warn", "3 requests wait for room, up to 12 s"),
    (
        seen(tried=[at("a", 28, upstream_error=28)]),
        "warn",
        "Attempts at a fail: 28 of 28 (errors or no connection)",
    ),
    (
        seen(tried=[at("a", 9, upstream_error=1, upstream_timeout=5)]),
        "warn",
        "Attempts at a fail: 6 of 9 (no answer in",
    ),
    (
        seen(tried=[at("a", 4, upstream_error=4), at("b", 13, upstream_error=6)]),
        "warn",
        "Attempts in pool p fail often: 10 of 17 (",
    ),
    (seen(tried=[at("a", 4, upstream_error=4)]), "", ""),
    (seen(tried=[at("a", 100, upstream_error=19)]), "", ""),
    (
        seen(tried=[at("a", 100, "p", upstream_error=20), at("b", 10, "q")]),
        "warn",
        "Attempts in pool p fail often: 20 of 100",
    ),
    (seen(tried=[at(n, 10, n, upstream_error=4) for n in "abc"]), "", ""),
    (
        seen(tried=[at(n, 30, n, upstream_error=12) for n in "ab"]),
        "warn",
        "Attempts in pools a and b fail often: 24 of 60",
    ),
    (
        seen(tried=[at(n, 5, upstream_error=5) for n in "abcde"]),
        "warn",
        "Attempts at a, b, c and 2 more fail: 25 of 25",
    ),
    (seen(tried=[at("a", 5, upstream_error=5)], out=[out("a", "down")]), "warn", "a is down: no answer"),
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


def test_a_pool_that_shares_its_engines_out_is_saturated_where_somebody_waits_long() -> None:
    waits = [flow(12.0, "b")]
    found = judge(seen(pools=[pool(name, fairness=True) for name in "abc"], full=FULL, flows=waits))
    assert [problem.text for problem in found] == ["Pool b is saturated", "0 requests wait for room, up to 12 s"]


def test_only_what_an_endpoint_did_since_then_counts() -> None:
    old = {("p", "a", "ok"): 5, ("p", "a", ERRORS): 3, ("p", "b", "ok"): 9, ("p", "b", SILENCE): 9}
    new = {**old, ("p", "a", "ok"): 6, ("p", "a", ERRORS): 7, ("p", "b", SILENCE): 2, ("p", "c", SILENCE): 1,
           ("p", "a", "cancelled"): 8, ("p", "a", "refused_by_engine"): 2, ("other", "other", "other"): 50}  # fmt: skip
    assert tried(new, old) == [at("a", 7, upstream_error=4), at("c", 1, upstream_timeout=1)]


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
    fails = [at(name, 9, name, upstream_error=9 if odd % 2 else 3) for odd, name in enumerate(lost * 4)]
    found = judge(seen({"problems": said}, seconds=Ended(100, 50), pools=pools, out=rows, tried=fails))
    assert len(found) <= 17
    assert max(len(problem.text) for problem in found) < 700
