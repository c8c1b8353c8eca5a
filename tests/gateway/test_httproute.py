"""HTTPRoutes: which match decides, where it leads, and what becomes of paths and fields."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import NoBackend
from gateway.expression import Expression
from gateway.httproute import (
    Asked,
    Changes,
    Field,
    HttpMatch,
    HttpRoute,
    HttpRouteTable,
    HttpRule,
    Laid,
    PathMatch,
    Redirect,
    Rewrite,
    Way,
)
from gateway.route import FEW, Share
from gateway.types import Headers

ANY = PathMatch()


def laid(routes: Iterable[HttpRoute]) -> HttpRouteTable:
    return HttpRouteTable(map(Laid.of, routes))


def exact(path: str) -> PathMatch:
    return PathMatch("exact", path)


def prefix(path: str) -> PathMatch:
    return PathMatch("prefix", path)


def regex(path: str) -> PathMatch:
    return PathMatch("regex", path, Expression(path, whole=True))


def rule(pool: str, *paths: PathMatch, **more: object) -> HttpRule:
    return HttpRule((Share(pool),), tuple(HttpMatch(path, **more) for path in paths or (ANY,)))  # type: ignore[arg-type]


def way(table: HttpRouteTable, target: str = "/", host: str = "h", method: str = "GET", headers: Headers = ()) -> Way:
    path, _, query = target.partition("?")
    found = table.find(host, path, method, headers, query)
    assert found is not None
    return found


def asked(table: HttpRouteTable, target: str = "/", host: str = "h", method: str = "GET", headers: Headers = ()) -> str:
    """The pool, "" for none."""
    path, _, query = target.partition("?")
    found = table.find(host, path, method, headers, query)
    return "" if found is None else found.pick(0.0).pool


@pytest.mark.parametrize(
    ("match", "path", "holds"),
    [
        (exact("/a"), "/a", True),
        (exact("/a"), "/a/", False),
        (exact("/a"), "/A", False),
        (prefix("/"), "/", True),
        (prefix("/"), "/any/thing", True),
        (prefix("/a"), "/a", True),
        (prefix("/a"), "/a/", True),
        (prefix("/a"), "/a/b", True),
        (prefix("/a"), "/ab", False),
        (prefix("/a/"), "/a", True),
        (prefix("/a/b"), "/a", False),
        (prefix("/a"), "/b/a", False),
        (regex("/v[0-9]+/.*"), "/v1/x", True),
        (regex("/v[0-9]+"), "/v1/x", False),
        (prefix("/a"), "/a/../b", False),
        (prefix("/a"), "/a/%2E%2e/b", False),
        (prefix("/a"), "/a/..%2fb", False),
        (prefix("/a"), "/a%2F..%2Fb", False),
        (prefix("/a"), "/a/..\\b", False),
        (prefix("/a"), "/a/%2e%2e%5Cb", False),
        (prefix("/a"), "/a/..;/b", False),
        (prefix("/a"), "/a/..b/...", True),
        (prefix("/a"), "/a/.", False),
        (prefix("/a"), "/a/..b", True),
        (prefix("/a"), "/a//b", True),
        (prefix("/"), "*", True),
    ],
)
def test_paths(match: PathMatch, path: str, holds: bool) -> None:
    assert asked(laid([HttpRoute("r", rules=(rule("p", match),))]), path) == ("p" if holds else "")


@pytest.mark.parametrize(
    ("hostname", "host", "holds"),
    [
        ("", "a.example", True),
        ("", "", True),
        ("a.example", "a.example", True),
        ("a.example", "A.Example:8080", True),
        ("a.example", "a.example.", True),
        ("a.example", "b.a.example", False),
        ("*.example", "a.example", True),
        ("*.example", "b.a.example", True),
        ("*.example", "example", False),
        ("*.example", ".example", True),
        ("a.example", "", False),
        ("::1", "[::1]:80", False),
    ],
)
def test_hosts(hostname: str, host: str, holds: bool) -> None:
    table = laid([HttpRoute("r", (hostname,), (rule("p"),))])
    assert asked(table, host=host) == ("p" if holds else "")


def test_method_headers_and_query() -> None:
    fields = (Field("x-a", "1"), Field("x-b", "v.*", Expression("v.*", whole=True)))
    table = laid(
        [
            HttpRoute("m", rules=(rule("method", prefix("/m"), method="POST"),)),
            HttpRoute("h", rules=(rule("headers", prefix("/h"), headers=fields),)),
            HttpRoute("q", rules=(rule("query", prefix("/q"), query=(Field("x", "a b"), Field("y", ""))),)),
        ]
    )
    assert asked(table, "/m", method="POST") == "method"
    assert asked(table, "/m", method="GET") == ""
    assert asked(table, "/h", headers=[(b"x-a", b"1"), (b"x-a", b"2"), (b"x-b", b"v2")]) == "headers"
    assert asked(table, "/h", headers=[(b"x-a", b"1"), (b"x-b", b"av2")]) == ""
    assert asked(table, "/h", headers=[(b"x-a", b"1")]) == ""
    assert asked(table, "/q?y=&x=a+b&x=2") == "query"
    assert asked(table, "/q?x=2&x=a+b&y=") == ""
    assert asked(table, "/q?x=a%20b") == ""


# -- precedence ---------------------------------------------------------------------------------------------------

paths = st.one_of(
    st.sampled_from(["/", "/a", "/a/", "/a/b", "/ab"]).map(prefix),
    st.sampled_from(["/", "/a", "/a/b"]).map(exact),
    st.sampled_from(["/.*", "/a.*", "/a/b|x"]).map(regex),
)
names = st.sampled_from(["", "a.b.c", "b.c", "*.b.c", "*.c"])


@st.composite
def all_routes(draw: st.DrawFn) -> list[HttpRoute]:
    """Of few paths and hostnames, so that many matches hold at a time."""
    path = st.sampled_from(draw(st.lists(paths, min_size=1, max_size=2)))
    name = st.sampled_from(draw(st.lists(names, min_size=1, max_size=2)))
    match = st.builds(
        HttpMatch,
        path,
        st.sampled_from(["", "POST"]),
        st.sampled_from([(), (Field("x", "1"),), (Field("x", "1"), Field("y", "1"))]),
        st.sampled_from([(), (Field("q", "1"),)]),
    )
    made = []
    for route in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True)):
        rules = tuple(
            HttpRule((Share(f"{route}{n}"),), tuple(draw(st.lists(match, min_size=1, max_size=2))))
            for n in range(draw(st.integers(1, 3)))
        )
        hostnames = tuple(draw(st.lists(name, min_size=1, max_size=2, unique=True)))
        made.append(HttpRoute(route, hostnames, rules, float(draw(st.integers(0, 1)))))
    return made


def rank(hostname: str, match: HttpMatch) -> tuple[object, ...]:
    """By the specification's own list, as a key."""
    kinds = {"exact": 0, "prefix": 1, "regex": 2}
    path = match.path
    length = len(path.value.rstrip("/") if path.kind == "prefix" else path.value)
    return (
        (0 if hostname and "*" not in hostname else 1 if hostname else 2, -len(hostname)),
        (kinds[path.kind], -length),
        not match.method,
        -len(match.headers),
        -len(match.query),
    )


def under(hostname: str, host: str) -> bool:
    return not hostname or hostname == host or (hostname.startswith("*") and host.endswith(hostname[1:]))


def below(match: PathMatch, path: str) -> bool:
    if match.kind == "exact":
        return path == match.value
    if match.kind == "regex":
        return re.fullmatch(match.value, path) is not None
    wanted, given = match.value.rstrip("/").split("/"), path.split("/")
    return given[: len(wanted)] == wanted


def naive(routes: list[HttpRoute], host: str, path: str, method: str, headers: Headers, query: str) -> str:
    """All matches that hold, sorted."""
    held = [
        ((rank(hostname, match), route.age, route.name, index), rule.shares[0].pool)
        for route in routes
        for hostname in route.hostnames
        for index, rule in enumerate(route.rules)
        for match in rule.matches
        if under(hostname, host) and below(match.path, path) and match.holds(Asked(method, headers, query))
    ]
    return min(held)[1] if held else ""


@settings(max_examples=300)
@given(
    all_routes(),
    st.sampled_from(["a.b.c", "b.c", "x.c", "other"]),
    st.sampled_from(["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/x"]),
    st.sampled_from(["GET", "POST", "POST"]),
    st.sampled_from([[], [(b"x", b"1")], [(b"x", b"1"), (b"y", b"1")]]),
    st.sampled_from(["", "q=1"]),
    st.data(),
)
def test_the_most_specific_match_decides(
    routes: list[HttpRoute],
    host: str,
    path: str,
    method: str,
    headers: Headers,
    query: str,
    data: st.DataObject,
) -> None:
    wanted = naive(routes, host, path, method, headers, query)
    table = laid(data.draw(st.permutations(routes)))
    assert asked(table, f"{path}?{query}", host, method, headers) == wanted


def test_ranks_of_matches_with_one_path() -> None:
    """Each of these is better than the next; the worst comes first everywhere."""
    fields = [Field(name, "1") for name in "xyz"]
    ranked = [
        HttpMatch(method="POST", headers=tuple(fields[:2])),
        HttpMatch(method="POST", headers=tuple(fields[:1]), query=tuple(fields)),
        HttpMatch(method="POST"),
        HttpMatch(headers=tuple(fields), query=tuple(fields[:2])),
        HttpMatch(headers=tuple(fields), query=tuple(fields[:1])),
        HttpMatch(headers=tuple(fields)),
        HttpMatch(query=tuple(fields)),
        HttpMatch(),
    ]
    sent = [(name.encode(), b"1") for name in "xyz"]
    for worse in range(1, len(ranked)):
        for better in range(worse):
            rules = (HttpRule((Share("worse"),), (ranked[worse],)), HttpRule((Share("better"),), (ranked[better],)))
            table = laid([HttpRoute("r", rules=rules)])
            assert asked(table, "/?x=1&y=1&z=1", method="POST", headers=sent) == "better", (better, worse)


def test_equals_go_by_age_then_name_then_rule() -> None:
    one, two = HttpRule((Share("one"),)), HttpRule((Share("two"),))
    assert asked(laid([HttpRoute("a", rules=(two,), age=2.0), HttpRoute("b", rules=(one,), age=1.0)])) == "one"
    assert asked(laid([HttpRoute("b", rules=(two,)), HttpRoute("a", rules=(one,))])) == "one"
    assert asked(laid([HttpRoute("a", rules=(one, two))])) == "one"


# -- where it leads -----------------------------------------------------------------------------------------------


def only(made: HttpRule) -> Way:
    return way(laid([HttpRoute("ns/r", rules=(made,))]), "/a/b")


def test_weights() -> None:
    split = only(HttpRule((Share("p", 70), Share("q", 30), Share("off", 0))))
    picks = [split.pick((n + 0.5) / 1000).pool for n in range(1000)]
    assert (picks.count("p"), picks.count("q")) == (700, 300)
    target = split.pick(0.0)
    assert (target.route, target.rule, target.model, target.fallbacks) == ("ns/r", "0", None, ())


def test_the_part_of_a_backend_that_cannot_be_used_fails() -> None:
    split = only(HttpRule((Share("p", 1), Share("", 1)), name="main"))
    assert split.pick(0.4).pool == "p"
    with pytest.raises(NoBackend, match="rule main of the HTTPRoute ns/r") as caught:
        split.pick(0.6)
    assert caught.value.status == 500


@pytest.mark.parametrize("shares", [(), (Share("p", 0),)])
def test_nowhere_to_go(shares: tuple[Share, ...]) -> None:
    with pytest.raises(NoBackend):
        only(HttpRule(shares)).pick(0.5)


@pytest.mark.parametrize(
    ("match", "rewrite", "path", "wanted"),
    [
        (prefix("/foo"), Rewrite(prefix="/xyz"), "/foo/bar", "/xyz/bar"),
        (prefix("/foo"), Rewrite(prefix="/xyz/"), "/foo/bar", "/xyz/bar"),
        (prefix("/foo/"), Rewrite(prefix="/xyz"), "/foo/bar", "/xyz/bar"),
        (prefix("/foo"), Rewrite(prefix="/xyz"), "/foo", "/xyz"),
        (prefix("/foo"), Rewrite(prefix="/xyz"), "/foo/", "/xyz/"),
        (prefix("/foo"), Rewrite(prefix=""), "/foo/bar", "/bar"),
        (prefix("/foo"), Rewrite(prefix="/"), "/foo", "/"),
        (prefix("/foo"), Rewrite(prefix="/"), "/foo/", "/"),
        (prefix("/"), Rewrite(prefix="/xyz"), "/foo", "/xyz/foo"),
        (prefix("/foo"), Rewrite(full="/one"), "/foo/bar", "/one"),
        (exact("/foo"), Rewrite(full="/one"), "/foo", "/one"),
        (prefix("/foo"), None, "/foo/bar", "/foo/bar"),
    ],
)
def test_other_paths(match: PathMatch, rewrite: Rewrite | None, path: str, wanted: str) -> None:
    made = HttpRule((Share("p"),), (HttpMatch(match),), rewrite=rewrite)
    assert way(laid([HttpRoute("r", rules=(made,))]), path).path(path) == wanted


@pytest.mark.parametrize(
    ("redirect", "wanted"),
    [
        (Redirect(path=Rewrite(prefix="/z")), "/z/a/b?q=1"),
        (Redirect("https"), "https://h/a/b?q=1"),
        (Redirect(host="other"), "http://other:8080/a/b?q=1"),
        (Redirect(port=80), "http://h/a/b?q=1"),
        (Redirect("https", port=8443), "https://h:8443/a/b?q=1"),
    ],
)
def test_redirects(redirect: Redirect, wanted: str) -> None:
    found = only(HttpRule(redirect=redirect))
    assert found.location(redirect, "http", "h:8080", "/a/b", "q=1") == wanted


def test_changes_of_fields() -> None:
    changes = Changes(set=((b"a", b"2"),), add=((b"b", b"2"),), remove=(b"c",))
    before = [(b"a", b"1"), (b"b", b"1"), (b"a", b"0"), (b"c", b"1"), (b"d", b"1")]
    assert changes.applied(before) == [(b"b", b"1"), (b"d", b"1"), (b"a", b"2"), (b"b", b"2")]


class Counting(dict[str, Any]):
    """Counts how often it is asked."""

    asked = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.asked += 1
        return super().get(key, default)


@pytest.mark.parametrize("path", ["/" * 60_000, "/a" * 30_000, "a/" * 30_000])
def test_a_path_of_slashes_is_compared_with_what_there_is(path: str) -> None:
    table = laid([HttpRoute("ns/r", rules=(rule("p", prefix("/a"), prefix("/a/b"), prefix("/c"), prefix("/a/")),))])
    prefixes = table._sites[""].prefixes = Counting(table._sites[""].prefixes)
    assert asked(table, path) == ("p" if path.startswith("/a/") else "")
    assert prefixes.asked <= 2


@given(st.lists(st.text("/ab", max_size=6), max_size=8), st.text("/ab", max_size=8))
def test_of_prefixes_the_longest_decides(prefixes: list[str], path: str) -> None:
    given = [f"/{each}" for each in prefixes]
    table = laid([HttpRoute("ns/r", rules=tuple(rule(each, prefix(each)) for each in given))])
    holding = [each.rstrip("/") for each in given if f"/{path}/".startswith(f"{each.rstrip('/')}/")]
    found = asked(table, f"/{path}")
    assert found.rstrip("/") == (max(holding, key=len) if holding else "")
    assert bool(found) is bool(holding)


def test_a_query_is_taken_apart_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of parameters, and as many matches that ask for one."""
    queries: list[str] = []

    def counted(query: str, **options: bool) -> list[tuple[str, str]]:
        queries.append(query)
        return parse_qsl(query, **options)

    monkeypatch.setattr("gateway.httproute.parse_qsl", counted)
    matches = tuple(HttpMatch(query=(Field("k", str(n)),)) for n in range(64))
    table = laid([HttpRoute("ns/r", rules=(HttpRule((Share("p"),), matches),))])
    assert asked(table, "/?k=63&k=x") == "p"
    assert asked(table, "/?k=x") == ""
    assert queries == ["k=63&k=x", "k=x"]


@pytest.mark.parametrize("others", [0, FEW, 10_000])
def test_of_fields_the_first_counts_however_many_there_are(others: int) -> None:
    match = HttpMatch(headers=(Field("x-a", "1"), Field("x-b", "2")))
    table = laid([HttpRoute("ns/r", rules=(HttpRule((Share("p"),), (match,)),))])
    more = tuple((b"x-%d" % n, b"v") for n in range(others))
    assert asked(table, headers=(*more, (b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"2"))) == "p"
    assert asked(table, headers=(*more, (b"x-a", b"2"), (b"x-b", b"2"), (b"x-a", b"1"))) == ""
