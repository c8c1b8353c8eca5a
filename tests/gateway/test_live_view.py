"""What an operator watches, in words."""

from __future__ import annotations

from gateway import live_view as view
from gateway.expression import Expression
from gateway.httproute import Field, HttpMatch, HttpRoute, HttpRule, PathMatch
from gateway.route import Share


def test_httproutes_are_put_into_words_with_what_they_carry() -> None:
    chat = HttpMatch(PathMatch("exact", "/chat"), "POST", (Field("x-tier", "gold"),))
    some = HttpMatch(
        PathMatch("regex", "/v[0-9]", Expression("/v[0-9]", whole=True)),
        query=(Field("q", "a+", Expression("a+", whole=True)),),
    )
    rules = (HttpRule((Share("p", 3), Share("", 1)), (chat, some), "new"), HttpRule())
    rows = view.http_routes([HttpRoute("ns/r", ("a.example", ""), rules)])
    assert [row["name"] for _, row in rows] == ["ns/r/new", "ns/r/1"]
    assert [row["match"] for _, row in rows] == [
        "host a.example, any host · POST and path is /chat and header x-tier is gold"
        " or path matches /v[0-9] and query q matches a+",
        "host a.example, any host · path begins with /",
    ]
    new = {("ns/r", "p"): {"": (8, 2)}}
    shown = view.serving(rows, new, {}, {}, 2.0)
    assert shown[0]["targets"] == [
        {"pool": "p", "model": None, "weight": 0.75, "share": 1.0, "rps": 4.0, "errors": 1.0},
        {"pool": "", "model": None, "weight": 0.25, "share": 0.0, "rps": 0.0, "errors": 0.0},
    ]
