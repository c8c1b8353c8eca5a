"""Requests that HTTPRoutes lead to pools: what goes there, what comes back, and what stays the gateway's own."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from gateway.entrance import MAIN, NOWHERE, Entrance, Entrances
from gateway.errors import Overloaded, Unauthorized, UpstreamError
from gateway.httproute import (
    Changes,
    HttpMatch,
    HttpRoute,
    HttpRouteTable,
    HttpRule,
    Laid,
    PathMatch,
    Redirect,
    Rewrite,
)
from gateway.ports import Exchange
from gateway.route import Share
from gateway.types import ModelCard, Operation
from protocols.openai.serve import OpenAIApp
from tests.protocols.openai.fakes import FakeCore, FakeHttp, stream

CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
ECHO = b'{"model": "conformance-fake-model", "prompt": "p"}'
HOST = (b"host", b"a.x:80")


def table(*rules: HttpRule, host: str = "") -> HttpRouteTable:
    return HttpRouteTable([Laid.of(HttpRoute("ns/r", (host,), rules))])


def rule(path: str = "/", **more: object) -> HttpRule:
    return HttpRule((Share("p"),), (HttpMatch(PathMatch("prefix", path)),), **more)  # type: ignore[arg-type]


PRIMARY = table(rule("/primary", rewrite=Rewrite(prefix="/")), rule("/raw"))


def ask(
    core: FakeCore,
    target: bytes,
    body: bytes = CHAT,
    headers: Sequence[tuple[bytes, bytes]] = (),
    method: bytes = b"POST",
) -> FakeHttp:
    http = FakeHttp(method, target, body, [HOST, *headers])
    trio.run(OpenAIApp(core), http, clock=trio.testing.MockClock(autojump_threshold=0))
    assert http.finished
    assert http.field(b"x-request-id")
    return http


def test_inference_under_another_path() -> None:
    core = FakeCore(http_routes=PRIMARY)
    http = ask(core, b"/primary/v1/chat/completions/?a=b")
    assert (http.status, http.body) == (200, CHAT)
    assert core.forwarded == [("p", None)]
    request = core.seen[0].request
    assert (request.operation, request.model, request.query) == (Operation.CHAT, "m", "a=b")
    assert request.path == "/primary/v1/chat/completions/"


def test_a_stream_through_a_route_is_one_as_any() -> None:
    core = FakeCore(stream, http_routes=PRIMARY)
    http = ask(core, b"/primary/v1/chat/completions")
    assert http.chunks == [b"data: 1\n\n", b"data: [DONE]\n\n"]
    assert http.field(b"cache-control") == b"no-cache"


def test_what_no_route_matches_is_as_before() -> None:
    core = FakeCore(http_routes=PRIMARY)
    assert ask(core, b"/v1/chat/completions").status == 200
    assert not core.forwarded
    assert ask(core, b"/secondary/v1/chat/completions").status == 404
    assert ask(FakeCore(http_routes=table(rule(), host="b.x")), b"/any").status == 404


def test_a_model_route_is_asked_first_below_v1_alone() -> None:
    changed = table(rule(response=Changes(set=((b"x-own", b"1"),))))
    core = FakeCore(http_routes=changed, owned=["m"])
    assert ask(core, b"/v1/chat/completions").field(b"x-own") is None
    assert not core.forwarded
    assert ask(core, b"/v1/chat/completions", CHAT.replace(b'"m"', b'"n"')).field(b"x-own") == b"1"
    assert core.forwarded == [("p", None)]
    ask(core, b"/tokenize", b'{"model": "m", "prompt": "p"}')
    assert len(core.forwarded) == 2


def test_the_gateways_own_answers_stay_its_own() -> None:
    core = FakeCore(cards=[ModelCard("m")], http_routes=table(rule()))
    for path in (b"/healthz", b"/healthz/", b"/readyz?x", b"/v1/models", b"/models/", b"/v1/models/m"):
        assert ask(core, path, b"", method=b"GET").status == 200
    assert not core.forwarded
    for path in (b"/healthz/deep", b"/modelsearch"):
        ask(core, path, b"", method=b"GET")
    assert len(core.forwarded) == 2
    nothing = FakeCore(http_routes=table(rule()))
    ask(nothing, b"/v1/models", b"", method=b"GET")
    assert [raw and raw.path for _, raw in nothing.forwarded] == [b"/v1/models"]


async def plain(exchange: Exchange) -> None:
    fields = ((b"content-type", b"text/x"), (b"date", b"then"), (b"connection", b"close"), (b"x-request-id", b"theirs"))
    await exchange.start(418, fields)
    await exchange.send(b"a")
    await exchange.finish(b"b")


def test_anything_else_passes_as_it_is() -> None:
    core = FakeCore(plain, http_routes=table(rule("/raw", rewrite=Rewrite(prefix="/"))))
    sent = [
        (b"accept", b"text/x"),
        (b"authorization", b"Bearer ours"),
        (b"x-api-key", b"ours"),
        (b"connection", b"keep-alive"),
        (b"content-length", b"50"),
        (b"accept-encoding", b"br"),
        (b"x-forwarded-for", b"198.51.100.1"),
        (b"x-request-id", b"one"),
    ]
    http = ask(core, b"/raw/any%20thing?q=1", ECHO, sent, b"PUT")
    (pool, raw), request = core.forwarded[0], core.seen[0].request
    assert raw is not None
    assert (pool, raw.method, raw.path, raw.body) == ("p", b"PUT", b"/any%20thing?q=1", ECHO)
    assert list(raw.extra) == [
        (b"accept", b"text/x"),
        (b"accept-encoding", b"identity"),
        (b"x-request-id", b"one"),
        (b"x-forwarded-for", b"198.51.100.1, 192.0.2.7"),
        (b"x-forwarded-host", b"a.x:80"),
    ]
    assert (request.model, request.view, request.path) == ("conformance-fake-model", None, "/raw/any%20thing")
    assert (http.status, http.body) == (418, b"ab")
    assert http.fields == [(b"x-request-id", b"one"), (b"content-type", b"text/x")]


def test_what_a_sender_says_is_for_its_connection_alone_ends_there() -> None:
    changes = Changes(set=((b"x-tenant", b"routes"),))
    core = FakeCore(hopping, http_routes=table(rule("/raw", request=changes)))
    sent = [
        (b"connection", b"X-Hop, x-tenant ,"),
        (b"x-hop", b"1"),
        (b"connection", b"x-more"),
        (b"x-more", b"2"),
        (b"x-end", b"3"),
        (b"x-tenant", b"routes"),
    ]
    http = ask(core, b"/raw", ECHO, sent)
    raw = core.forwarded[0][1]
    assert raw is not None
    assert [field for field in raw.extra if field[0] in (b"x-hop", b"x-more", b"x-end")] == [(b"x-end", b"3")]
    assert (b"x-tenant", b"routes") in raw.extra
    assert http.fields[1:] == [(b"x-kept", b"1")]


async def hopping(exchange: Exchange) -> None:
    fields = ((b"connection", b"x-hop, Set-Cookie"), (b"x-hop", b"1"), (b"set-cookie", b"a=b"), (b"x-kept", b"1"))
    await exchange.start(200, fields)
    await exchange.finish(b"")


@pytest.mark.parametrize(
    "target", [b"//evil.x/a", b"/\\evil.x/a", b"///evil.x/a", b"/away//evil.x/a", b"/away/\\evil.x/a"]
)
def test_a_redirect_leads_to_no_host_that_the_client_chooses(target: bytes) -> None:
    away = rule("/away", redirect=Redirect(path=Rewrite(prefix="/")))
    http = ask(FakeCore(http_routes=table(away, rule("/", redirect=Redirect()))), target, method=b"GET")
    assert http.field(b"location") == b"/evil.x/a"


@pytest.mark.parametrize("body", [b"", b"not json", b"[1]", b'{"model": 7}', b'{"x": "\xff"}', b"[" * 100_000])
def test_bodies_that_name_no_model(body: bytes) -> None:
    core = FakeCore(http_routes=PRIMARY)
    assert ask(core, b"/raw", body).status == 200
    assert core.seen[0].request.model == ""


def test_fields_and_time_as_the_route_wants_them() -> None:
    changes = Changes(set=((b"authorization", b"Bearer theirs"),), add=((b"x-b", b"2"),), remove=(b"x-c",))
    made = table(rule("/raw", request=changes, timeout=7.0), rule("/i", request=changes, rewrite=Rewrite(prefix="/")))
    core = FakeCore(http_routes=made)
    sent = [(b"authorization", b"Bearer ours"), (b"x-c", b"3")]
    ask(core, b"/raw", b"", sent)
    ask(core, b"/i/v1/chat/completions", CHAT, sent)
    raw = core.forwarded[0][1]
    assert raw is not None
    assert raw.extra[:2] == ((b"authorization", b"Bearer theirs"), (b"x-b", b"2"))
    passed, inference = core.seen[0].request, core.seen[1].request
    assert passed.deadline == 7.0
    assert list(inference.headers) == [HOST, (b"authorization", b"Bearer theirs"), (b"x-b", b"2")]
    assert inference.deadline == float("inf")


def test_fields_of_answers() -> None:
    changes = Changes(set=((b"content-type", b"text/y"),), add=((b"x-own", b"1"),))
    core = FakeCore(plain, http_routes=table(rule("/raw", response=changes)))
    http = ask(core, b"/raw")
    assert (http.field(b"content-type"), http.field(b"x-own")) == (b"text/y", b"1")


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_redirect(method: bytes) -> None:
    core = FakeCore(http_routes=table(HttpRule(redirect=Redirect("https", status=308))))
    http = ask(core, b"/v1/chat/completions?q=1", CHAT, method=method)
    assert (http.status, http.field(b"location")) == (308, b"https://a.x/v1/chat/completions?q=1")
    assert not core.seen


@pytest.mark.parametrize("target", [b"/primary/v1/chat/completions", b"/raw"])
def test_strangers_are_told_so(target: bytes) -> None:
    def nobody(*about: object) -> None:
        raise Unauthorized

    core = FakeCore(http_routes=PRIMARY, known=nobody)
    http = ask(core, target)
    assert http.status == 401
    assert json.loads(http.body)["error"]["code"] == "invalid_api_key"
    assert core.refusals == [("unauthorized", None)]


@pytest.mark.parametrize("target", [b"/primary/v1/chat/completions", b"/raw"])
def test_a_backend_that_cannot_be_used(target: bytes) -> None:
    broken = table(
        HttpRule((Share(""),), rewrite=None), HttpRule((Share(""),), (HttpMatch(PathMatch("prefix", "/raw")),))
    )
    http = ask(FakeCore(http_routes=broken), target)
    assert (http.status, json.loads(http.body)["error"]["code"]) == (500, "no_backend")


def test_a_bad_body_is_refused_only_where_it_is_read() -> None:
    core = FakeCore(http_routes=PRIMARY)
    assert ask(core, b"/primary/v1/chat/completions", b"{}").status == 400
    assert ask(core, b"/raw", b"{}").status == 200


def test_failures_of_what_passes() -> None:
    async def full(exchange: Exchange) -> None:
        await exchange.fail(Overloaded("full", retry_after=1.0))

    async def broken(exchange: Exchange) -> None:
        await exchange.start(200, ())
        await exchange.send(b"half")
        await exchange.fail(UpstreamError("broke"))

    async def faulty(exchange: Exchange) -> None:
        raise RuntimeError("a bug")

    http = ask(FakeCore(full, http_routes=PRIMARY), b"/raw")
    assert (http.status, http.field(b"retry-after")) == (503, b"1")
    http = ask(FakeCore(broken, http_routes=PRIMARY), b"/raw")
    assert (http.status, http.aborted) == (200, True)
    http = ask(FakeCore(faulty, http_routes=PRIMARY), b"/raw")
    assert (http.status, json.loads(http.body)["error"]["code"]) == (500, "internal_error")


# -- by which Gateway a request came in -------------------------------------------------------------------------------

LEFT, RIGHT, OWN = Entrance(), Entrance(), Entrance()


def entered(host: bytes, port: int = MAIN, target: bytes = b"/v1/chat/completions") -> FakeCore:
    """A core that was asked for that."""
    core = FakeCore(
        cards=[ModelCard("m")],
        owned=["m"],
        entrances=Entrances({(MAIN, "left"): LEFT, (MAIN, "right"): RIGHT, (8081, ""): OWN}, {8081: table(rule())}),
    )
    http = FakeHttp(b"GET" if target.endswith(b"models") else b"POST", target, CHAT, [(b"host", host)])
    trio.run(OpenAIApp(core, port), http)
    assert http.finished
    return core


def test_a_request_knows_by_which_gateway_it_came_in() -> None:
    hosts = (b"left", b"RIGHT:8080", b"other")
    assert [entered(host).seen[0].request.entrance for host in hosts] == [LEFT, RIGHT, None]
    assert entered(b"left", 8081).seen[0].request.entrance is OWN
    assert entered(b"left", 8082).seen[0].request.entrance is NOWHERE
    core = FakeCore()
    ask(core, b"/v1/chat/completions")
    assert core.seen[0].request.entrance is None


def test_models_are_those_of_where_the_request_came_in() -> None:
    assert entered(b"left", target=b"/v1/models").listed == [LEFT]
    assert entered(b"any", 8081, target=b"/v1/models").listed == [OWN, OWN]  # an HTTPRoute might have had it
    assert entered(b"any", target=b"/v1/models").listed == [None]


def test_http_routes_are_those_of_the_port() -> None:
    assert entered(b"any", 8081, target=b"/any").forwarded
    assert not entered(b"any", target=b"/any").forwarded
