from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import pytest
import trio

from gateway.errors import ModelNotFound, Overloaded, Unauthorized, UpstreamError
from gateway.http_refusals import HttpRefusals
from gateway.listen import open_listeners
from gateway.meter import Record
from gateway.ports import Exchange
from gateway.types import Headers, Identity, ModelCard, Operation
from protocols.http.listener import serve
from protocols.openai.serve import OpenAIApp
from tests.protocols.openai.fakes import EVENTS, JSON, LATER, FakeCore, FakeHttp, echo, stream

CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
STREAMED = CHAT[:-1] + b', "stream": true}'
BODIES = {
    Operation.CHAT: CHAT,
    Operation.COMPLETIONS: b'{"model": "m", "prompt": "p"}',
    Operation.EMBEDDINGS: b'{"model": "m", "input": "i"}',
    Operation.RESPONSES: b'{"model": "m", "input": "i"}',
    Operation.RERANK: b'{"model": "m", "query": "q", "documents": ["d"]}',
    Operation.MESSAGES: CHAT,
    Operation.COUNT_TOKENS: CHAT,
    Operation.TOKENIZE: b'{"model": "m", "prompt": "p"}',
    Operation.DETOKENIZE: b'{"model": "m", "tokens": [1]}',
}
CARDS = [
    ModelCard("org/base", owned_by="vllm", max_model_len=4096),
    ModelCard("my-lora:v1", parent="org/base", created=7),
]


def ask(
    method: bytes,
    target: bytes,
    body: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    core: FakeCore | None = None,
) -> FakeHttp:
    """One request through a new application; the reply is checked for what every reply has."""
    http = FakeHttp(method, target, body, headers)
    trio.run(OpenAIApp(core or FakeCore(cards=CARDS)), http)
    assert http.started
    assert http.finished
    assert http.field(b"x-request-id")
    assert http.field(b"content-type")
    return http


def error(http: FakeHttp) -> dict[str, str | None]:
    found: dict[str, str | None] = json.loads(http.body)["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    return found


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("suffix", [b"", b"/", b"?api-version=1", b"/?x"])
def test_every_operation_reaches_the_core(operation: Operation, suffix: bytes) -> None:
    core = FakeCore()
    http = ask(b"POST", operation.encode() + suffix, BODIES[operation], core=core)
    assert (http.status, http.body) == (200, BODIES[operation])
    request = core.seen[0].request
    assert (request.operation, request.path, request.model) == (operation, operation.value, "m")
    assert http.field(b"x-request-id") == request.id.encode()


def test_a_target_in_absolute_form() -> None:
    assert ask(b"POST", b"http://host:80/v1/chat/completions", CHAT).status == 200
    assert ask(b"GET", b"http://host/healthz").status == 200
    assert ask(b"GET", b"http://host").status == 404


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"POST", b"/"),
        (b"GET", b"/"),
        (b"POST", b"/chat/completions"),
        (b"POST", b"/v1/chat/completions/more"),
        (b"GET", b"/v2/models"),
        (b"GET", b"/healthz/deep"),
        (b"OPTIONS", b"*"),
        (b"GET", b"/\xff\xfe"),
    ],
)
def test_unknown_paths(method: bytes, target: bytes) -> None:
    http = ask(method, target, CHAT)
    assert http.status == 404
    assert error(http)["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "target", "operation", "status", "reason", "why"),
    [
        (b"POST", b"/v1/chat?key=secret", "/v1/chat", 404, "not_found", ""),
        (b"GET", b"/v1/chat/completions", "/v1/chat/completions", 405, "method_not_allowed", "GET"),
        (b"DELETE", b"/healthz", "/healthz", 405, "method_not_allowed", "DELETE"),
        (b"GET", b"/v1/models/nobody", "/v1/models/nobody", 404, "model_not_found", ""),
        (b"GET", b"/" + b"a" * 5000, "/" + "a" * 199, 404, "not_found", ""),
        (b"GET", b"/v1/models", "", 200, "", ""),
        (b"GET", b"/readyz", "", 200, "", ""),
    ],
)
def test_what_asks_for_nothing_there_is_is_noted(
    method: bytes, target: bytes, operation: str, status: int, reason: str, why: str
) -> None:
    counts: dict[str, int] = {}
    noted: list[Record] = []
    http = FakeHttp(method, target)
    trio.run(OpenAIApp(FakeCore(cards=CARDS), refusals=HttpRefusals(counts, noted.append)), http)
    assert http.status == status
    told = [(each.operation, each.status, each.reason, each.why, each.id.encode()) for each in noted]
    assert told == ([(operation, status, reason, why, http.field(b"x-request-id"))] if reason else [])
    assert {name for name, count in counts.items() if count} == ({reason} if reason else set())


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        (b"GET", b"/v1/chat/completions", b"POST"),
        (b"HEAD", b"/tokenize", b"POST"),
        (b"OPTIONS", b"/v1/chat/completions", b"POST"),
        (b"POST", b"/v1/models", b"GET, HEAD"),
        (b"DELETE", b"/v1/models/org/base", b"GET, HEAD"),
        (b"POST", b"/healthz", b"GET, HEAD"),
    ],
)
def test_wrong_methods(method: bytes, target: bytes, allow: bytes) -> None:
    http = ask(method, target)
    assert http.status == 405
    assert http.field(b"allow") == allow
    assert error(http)["code"] == "method_not_allowed"


@pytest.mark.parametrize("target", [b"/v1/models", b"/models", b"/v1/models/", b"/v1/models?limit=1"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_the_listing_of_models(method: bytes, target: bytes) -> None:
    http = ask(method, target)
    assert http.status == 200
    assert json.loads(http.body) == {
        "object": "list",
        "data": [
            {"id": "org/base", "object": "model", "created": 0, "owned_by": "vllm", "max_model_len": 4096},
            {"id": "my-lora:v1", "object": "model", "created": 7, "owned_by": "infer-gateway", "parent": "org/base"},
        ],
    }


@pytest.mark.parametrize("name", [b"org/base", b"org%2Fbase", b"my-lora:v1", b"my-lora%3Av1"])
@pytest.mark.parametrize("listing", [b"/v1/models/", b"/models/"])
def test_one_model(listing: bytes, name: bytes) -> None:
    http = ask(b"GET", listing + name)
    assert http.status == 200
    assert json.loads(http.body)["id"] == name.decode().replace("%2F", "/").replace("%3A", ":")


@pytest.mark.parametrize("name", [b"none", b"org", b"%ff", b"org/base/more", b"x" * 5000])
def test_a_model_that_is_not_there(name: bytes) -> None:
    http = ask(b"GET", b"/v1/models/" + name)
    assert http.status == 404
    assert (error(http)["code"], error(http)["param"]) == ("model_not_found", "model")
    assert len(http.body) < 1000


def test_health() -> None:
    assert ask(b"GET", b"/healthz", core=FakeCore(ready=False)).status == 200
    assert ask(b"GET", b"/readyz", core=FakeCore(ready=True)).status == 200
    unready = ask(b"GET", b"/readyz", core=FakeCore(ready=False))
    assert unready.status == 503
    assert json.loads(unready.body) == {"status": "not ready"}


def test_a_bad_body_never_reaches_the_core() -> None:
    core = FakeCore()
    http = ask(b"POST", b"/v1/chat/completions", b'{"model": "m"}', core=core)
    assert http.status == 400
    assert error(http)["param"] == "messages"
    assert not core.seen


def test_a_bad_body_of_messages_reads_as_anthropics() -> None:
    http = ask(b"POST", b"/v1/messages", b"{}")
    envelope = json.loads(http.body)
    assert (envelope["type"], envelope["request_id"].encode()) == ("error", http.field(b"request-id"))
    assert error(http)["param"] == "model"
    assert json.loads(ask(b"GET", b"/v1/messages").body)["request_id"]


@pytest.mark.parametrize("given", [b"abc", b"A-1._:z", b"x" * 128])
def test_a_sane_request_id_is_kept(given: bytes) -> None:
    core = FakeCore()
    http = ask(b"POST", b"/v1/chat/completions", CHAT, [(b"x-request-id", given)], core)
    assert http.field(b"x-request-id") == given
    assert core.seen[0].request.id == given.decode()


@pytest.mark.parametrize("given", [b"", b"a b", b"a\r\nx: y", b"\xff", b"a/b", b"x" * 129, b'"'])
def test_any_other_request_id_is_replaced(given: bytes) -> None:
    http = ask(b"GET", b"/healthz", headers=[(b"x-request-id", given)])
    assert (http.field(b"x-request-id") or b"").startswith(b"req-")


def test_made_request_ids_differ() -> None:
    app, other = OpenAIApp(FakeCore()), OpenAIApp(FakeCore())
    replies = [FakeHttp(b"GET", b"/healthz") for _ in range(4)]
    for index, reply in enumerate(replies):
        trio.run(app if index % 2 else other, reply)
    assert len({reply.field(b"x-request-id") for reply in replies}) == 4


def test_a_stream_is_not_to_be_held_by_proxies() -> None:
    http = ask(b"POST", b"/v1/chat/completions", STREAMED, core=FakeCore(stream))
    assert http.chunks == [b"data: 1\n\n", b"data: [DONE]\n\n"]
    assert http.field(b"cache-control") == b"no-cache"
    assert http.field(b"x-accel-buffering") == b"no"
    assert http.field(b"content-type") == b"text/event-stream"


def test_a_plain_answer_is_json_unless_said() -> None:
    async def bare(exchange: Exchange) -> None:
        await exchange.start(200, ((b"x-own", b"1"),))
        await exchange.finish(b"{}")

    http = ask(b"POST", b"/v1/chat/completions", CHAT, core=FakeCore(bare))
    assert http.field(b"content-type") == b"application/json"
    assert http.field(b"x-own") == b"1"
    assert http.field(b"cache-control") is None


def test_a_failure_before_the_start_is_the_whole_answer() -> None:
    async def full(exchange: Exchange) -> None:
        await exchange.fail(Overloaded("Full.", retry_after=2))

    http = ask(b"POST", b"/v1/chat/completions", STREAMED, core=FakeCore(full))
    assert (http.status, error(http)["code"]) == (503, "overloaded")
    assert http.field(b"retry-after") == b"2"
    assert http.field(b"retry-after-ms") == b"2000"
    assert not http.aborted


def test_what_is_refused_before_it_is_served_is_counted() -> None:
    core = FakeCore(known=lambda headers, peer, subject: None)
    assert ask(b"POST", b"/v1/chat/completions", b"{}", core=core).status == 400
    assert core.refusals == [("invalid_request", LATER)]
    assert core.seen == []


def test_a_gateway_error_that_escapes_the_core_is_answered_too() -> None:
    async def missing(exchange: Exchange) -> None:
        raise ModelNotFound("No such model.", param="model")

    http = ask(b"POST", b"/v1/embeddings", BODIES[Operation.EMBEDDINGS], core=FakeCore(missing))
    assert (http.status, error(http)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("/v1/chat/completions", b'data: {"error"'),
        ("/v1/messages", b"event: error\n"),
        ("/v1/responses", b"event: error\n"),
    ],
)
def test_a_stream_that_breaks_says_so_and_its_connection_closes(path: str, start: bytes) -> None:
    async def breaks(exchange: Exchange) -> None:
        await exchange.start(200, (EVENTS,))
        await exchange.send(b"data: 1\n\n")
        await exchange.fail(UpstreamError("The engine left."))

    body = BODIES[Operation(path)][:-1] + b', "stream": true}'
    http = ask(b"POST", path.encode(), body, core=FakeCore(breaks))
    assert http.status == 200
    assert http.chunks[0] == b"data: 1\n\n"
    assert http.chunks[1].startswith(start)
    assert http.chunks[1].endswith(b"\n\n")
    assert len(http.chunks) == 2
    assert b"[DONE]" not in http.body
    assert http.ended
    assert not http.aborted


def test_a_plain_answer_that_breaks_is_cut_without_a_word() -> None:
    async def breaks(exchange: Exchange) -> None:
        await exchange.start(200, (JSON,))
        await exchange.send(b'{"id":')
        await exchange.fail(UpstreamError("The engine left."))

    http = ask(b"POST", b"/v1/chat/completions", CHAT, core=FakeCore(breaks))
    assert (http.body, http.aborted) == (b'{"id":', True)


def test_a_bug_is_an_answer_and_a_log_record(caplog: pytest.LogCaptureFixture) -> None:
    async def bug(exchange: Exchange) -> None:
        raise ZeroDivisionError("secret")

    with caplog.at_level(logging.ERROR):
        http = ask(b"POST", b"/v1/chat/completions", CHAT, [(b"x-request-id", b"r-1")], FakeCore(bug))
    assert (http.status, error(http)["code"]) == (500, "internal_error")
    assert b"r-1" in http.body
    assert b"secret" not in http.body
    assert "r-1" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_bug_in_a_stream_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    async def bug(exchange: Exchange) -> None:
        await exchange.start(200, (EVENTS,))
        raise ZeroDivisionError

    http = ask(b"POST", b"/v1/chat/completions", STREAMED, core=FakeCore(bug))
    assert b"internal_error" in http.body
    assert http.ended


def test_a_bug_after_the_end_leaves_the_answer_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def bug(exchange: Exchange) -> None:
        await echo(exchange)
        raise ZeroDivisionError

    http = ask(b"POST", b"/v1/chat/completions", CHAT, core=FakeCore(bug))
    assert (http.status, http.body, http.aborted) == (200, CHAT, False)
    assert "ZeroDivisionError" in caplog.text


def test_a_bug_in_a_listing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeCore):
        def ready(self) -> bool:
            raise ZeroDivisionError

    http = ask(b"GET", b"/readyz", core=Broken())
    assert (http.status, error(http)["code"]) == (500, "internal_error")


def test_a_client_that_is_gone_is_not_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    async def gone(exchange: Exchange) -> None:
        raise trio.BrokenResourceError

    with pytest.raises(trio.BrokenResourceError):
        trio.run(OpenAIApp(FakeCore(gone)), FakeHttp(b"POST", b"/v1/chat/completions", CHAT))
    assert not caplog.records


def test_cancellation_passes_through(caplog: pytest.LogCaptureFixture) -> None:
    async def wait(exchange: Exchange) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        http = FakeHttp(b"POST", b"/v1/chat/completions", CHAT)
        with trio.CancelScope() as scope:
            scope.cancel()
            await OpenAIApp(FakeCore(wait))(http)
        assert scope.cancelled_caught
        assert not http.started

    trio.run(main)
    assert not caplog.records


def test_a_silent_stream_is_kept_alive_by_comments() -> None:
    async def silent(exchange: Exchange) -> None:
        exchange.keep_alive()
        exchange.keep_alive()
        assert exchange.started
        await exchange.start(200, (EVENTS,))
        await exchange.send(b"data: 1\n\n")
        exchange.keep_alive()
        await exchange.fail(UpstreamError("The engine left."))

    http = ask(b"POST", b"/v1/chat/completions", STREAMED, core=FakeCore(silent))
    comment = b": keep-alive\n\n"
    assert http.chunks[:4] == [comment, comment, b"data: 1\n\n", comment]
    assert http.chunks[4].startswith(b'data: {"error"')
    assert http.field(b"content-type") == b"text/event-stream"
    assert http.field(b"x-accel-buffering") == b"no"


def test_an_answer_that_is_no_stream_cannot_be_kept_alive() -> None:
    async def silent(exchange: Exchange) -> None:
        exchange.keep_alive()
        assert not exchange.started
        await echo(exchange)

    assert ask(b"POST", b"/v1/chat/completions", CHAT, core=FakeCore(silent)).body == CHAT


def test_on_the_listener_over_a_socket() -> None:
    async def breaks(exchange: Exchange) -> None:
        await exchange.start(200, (EVENTS,))
        await exchange.send(b"data: 1\n\n")
        await exchange.fail(UpstreamError("The engine left."))

    def asking(body: bytes) -> bytes:
        return b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async def main() -> None:
        core = FakeCore()
        listeners = await open_listeners("127.0.0.1", 0)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, OpenAIApp(core), listeners)
            stream = await trio.open_tcp_stream(*listeners[0].address)
            with trio.fail_after(5):
                async with stream:
                    await stream.send_all(asking(CHAT) + asking(b"{}"))
                    answers = b""
                    while not answers.endswith(b"}}"):
                        answers += await stream.receive_some()
                    core.handler = breaks
                    await stream.send_all(asking(STREAMED))
                    broken = b"".join([data async for data in stream])
            nursery.cancel_scope.cancel()
        assert answers.count(b"HTTP/1.1 200 OK\r\n") == answers.count(b"HTTP/1.1 400 Bad Request\r\n") == 1
        assert answers.count(b"\r\nx-request-id: req-") == 2
        assert CHAT in answers
        assert b'data: {"error"' in broken
        assert broken.endswith(b"\n\n\r\n0\r\n\r\n")
        assert b"[DONE]" not in broken

    trio.run(main)


# --- who asks ---------------------------------------------------------------------------------------------------------


def nobody(headers: Headers, peer: str, subject: str) -> Identity | None:
    raise Unauthorized


def test_a_request_carries_who_sends_it() -> None:
    asked: list[tuple[Headers, str, str]] = []

    def known(headers: Headers, peer: str, subject: str) -> Identity | None:
        asked.append((headers, peer, subject))
        return Identity("ann")

    core = FakeCore(known=known)
    ask(b"POST", b"/v1/chat/completions", CHAT, [(b"authorization", b"Bearer x")], core)
    assert core.seen[0].request.identity == Identity("ann")
    assert asked == [([(b"authorization", b"Bearer x")], "192.0.2.7", "proxy")]
    assert not core.asked


def test_who_is_not_known_at_once_is_asked_about() -> None:
    core = FakeCore(cards=CARDS, known=lambda headers, peer, subject: None)
    ask(b"POST", b"/v1/chat/completions", CHAT, core=core)
    assert core.seen[0].request.identity == LATER
    ask(b"GET", b"/v1/models", core=core)
    assert core.asked == [("192.0.2.7", "proxy")] * 2


def test_credentials_come_before_the_body() -> None:
    core = FakeCore(known=nobody)
    for operation, body in [*BODIES.items(), (Operation.CHAT, b"{"), (Operation.CHAT, b"\xff" * 1000)]:
        http = ask(b"POST", operation.encode(), body, core=core)
        assert (http.status, error(http)["code"]) == (401, "invalid_api_key")
        assert http.field(b"www-authenticate") == b"Bearer"
    assert core.refusals == [("unauthorized", None)] * (len(BODIES) + 2)
    assert not core.seen


@pytest.mark.parametrize("target", [b"/v1/models", b"/models", b"/v1/models/org/base", b"/v1/models/none"])
def test_models_are_shown_to_nobody_unknown(target: bytes) -> None:
    http = ask(b"GET", target, core=FakeCore(cards=CARDS, known=nobody))
    assert (http.status, error(http)["code"]) == (401, "invalid_api_key")
    assert http.field(b"www-authenticate") == b"Bearer"


def test_a_caller_sees_the_models_it_may_use() -> None:
    core = FakeCore(cards=CARDS, known=lambda headers, peer, subject: Identity("ann", models=("my-*",)))
    assert [card["id"] for card in json.loads(ask(b"GET", b"/v1/models", core=core).body)["data"]] == ["my-lora:v1"]
    assert ask(b"GET", b"/v1/models/my-lora:v1", core=core).status == 200
    hidden, missing = (ask(b"GET", b"/v1/models/" + name, core=core) for name in (b"org/base", b"org/none"))
    assert hidden.status == missing.status == 404
    assert hidden.body == missing.body.replace(b"org/none", b"org/base")


@pytest.mark.parametrize("target", [b"/healthz", b"/readyz"])
def test_health_is_told_to_anybody(target: bytes) -> None:
    assert ask(b"GET", target, core=FakeCore(known=nobody)).status == 200
