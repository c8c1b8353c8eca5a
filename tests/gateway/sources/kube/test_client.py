"""Requests and streams over real sockets: what is taken, what is refused, and that nothing stays open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trustme

from gateway.sources.kube.access import Credentials
from gateway.sources.kube.client import ApiError, Client, Unreachable
from gateway.sources.kube.wire import USER_AGENT, Tls
from tests.gateway.sources.kube.web import Answer, Asked, Web, reply, server_context, serving

STATUS = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "code": 409,
    "reason": "Conflict",
    "message": "the object has been modified",
    "details": {"name": "r1", "kind": "modelroutes", "retryAfterSeconds": 3, "causes": [{"field": "spec"}]},
}


class Known:
    """Credentials that a test hands out; ``others`` come one after the other when some are refused."""

    def __init__(self, server: str, *others: Credentials) -> None:
        self.server = server
        self.others = list(others)
        self.now = self.others.pop(0) if self.others else Credentials()
        self.renewals = 0

    async def current(self) -> Credentials:
        return self.now

    async def renew(self, refused: Credentials) -> bool:
        self.renewals += 1
        if self.now == refused and self.others:
            self.now = self.others.pop(0)
        return self.now != refused


def run(
    answer: Answer, scenario: Callable[[Client, Web], Awaitable[None]], *others: Credentials, **options: Any
) -> None:
    async def main() -> None:
        web = Web(answer)
        async with serving(web) as url:
            async with Client(Known(url, *others), **options) as client:  # type: ignore[arg-type]
                await scenario(client, web)
            if web.connections:
                await web.closed.wait()

    trio.run(main)


async def ok(asked: Asked) -> bytes:
    return reply(200, {"ok": True})


def test_a_request() -> None:
    async def scenario(client: Client, web: Web) -> None:
        got = await client.request("GET", "/apis/x", query={"limit": 5, "continue": "", "labelSelector": "a=b,c"})
        assert (got.status, got.json()) == (200, {"ok": True})
        await client.request("PATCH", "/x", body={"a": 1}, content_type="application/merge-patch+json")
        await client.request("POST", "/x", body=b"raw")
        first, second, third = web.seen
        assert (first.method, first.target) == ("GET", "/apis/x?limit=5&labelSelector=a%3Db%2Cc")
        assert first.headers["user-agent"] == USER_AGENT
        assert first.headers["authorization"] == "Bearer t1"
        assert first.headers["accept-encoding"] == "identity"
        assert "content-type" not in first.headers
        assert (second.headers["content-type"], second.body) == ("application/merge-patch+json", b'{"a":1}')
        assert (third.headers["content-type"], third.body) == ("application/json", b"raw")
        assert web.accepted == 1

    run(ok, scenario, Credentials("Bearer t1"))


def test_a_refusal_in_the_servers_words() -> None:
    async def answer(asked: Asked) -> bytes:
        return reply(409, STATUS, "retry-after: 7") if asked.target == "/a" else reply(409, STATUS)

    async def scenario(client: Client, web: Web) -> None:
        with pytest.raises(ApiError, match="409 Conflict: the object has been modified") as caught:
            await client.request("PUT", "/a", body={})
        error = caught.value
        assert (error.status, error.reason, error.retry_after) == (409, "Conflict", 7.0)
        assert error.details is not None
        assert (error.details.name, error.details.causes) == ("r1", [{"field": "spec"}])
        with pytest.raises(ApiError) as caught:
            await client.request("PUT", "/b", body={})
        assert caught.value.retry_after == 3.0
        with pytest.raises(ApiError, match="409"):
            async with client.stream("/a"):
                raise AssertionError("there is nothing to read")
        assert web.accepted == 1

    run(answer, scenario)


@pytest.mark.parametrize("body", [b"<html>gone", b"", b"[1]", b'{"kind": "Pod"}', b"[" * 200_000, b"x" * (1 << 20)])
def test_a_refusal_in_other_words(body: bytes) -> None:
    async def answer(asked: Asked) -> bytes:
        return reply(502, body, "retry-after: Thu, 01 Jan 2026 00:00:00 GMT")

    async def scenario(client: Client, web: Web) -> None:
        with pytest.raises(ApiError) as caught:
            await client.request("GET", "/x")
        assert (caught.value.status, caught.value.message, caught.value.retry_after) == (502, "", None)

    run(answer, scenario)


def test_redirects_are_not_followed() -> None:
    async def answer(asked: Asked) -> bytes:
        return reply(302, b"", "location: /elsewhere")

    async def scenario(client: Client, web: Web) -> None:
        with pytest.raises(ApiError, match="302"):
            await client.request("GET", "/x")
        assert len(web.seen) == 1

    run(answer, scenario)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "disconnected"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "peer closed connection|disconnected"),
        (b"HELLO\r\n\r\n", "illegal status line"),
        (reply(200, b"x" * 2000), "more than 1000 bytes"),
    ],
)
def test_answers_that_are_none(said: bytes, words: str) -> None:
    async def answer(asked: Asked) -> bytes:
        await asked.stream.send_all(said)
        await trio.aclose_forcefully(asked.stream)
        return b""

    async def main() -> None:
        web = Web(answer)
        async with serving(web) as url, Client(Known(url)) as client:  # type: ignore[arg-type]
            with pytest.raises(Unreachable, match=words):
                await client.request("GET", "/x", limit=1000)

    trio.run(main)


def test_a_server_that_is_not_there_and_one_that_says_nothing() -> None:
    async def answer(asked: Asked) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def scenario(client: Client, web: Web) -> None:
        with pytest.raises(Unreachable, match=r"did not answer GET /x within 0\.01 s"):
            await client.request("GET", "/x", timeout=0.01)
        with pytest.raises(Unreachable, match=r"did not answer GET /x within 0\.05 s"):
            async with client.stream("/x"):
                raise AssertionError("there is nothing to read")
        client.access.server = "http://127.0.0.1:1"
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
            await client.request("GET", "/x")

    run(answer, scenario, timeout=0.05)


def test_no_more_requests_at_a_time_than_allowed() -> None:
    under_way, most = 0, 0

    async def answer(asked: Asked) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await trio.sleep(0.001)
        under_way -= 1
        return reply(200, {})

    async def scenario(client: Client, web: Web) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.request, "GET", "/x")
        assert most <= 3
        assert web.accepted <= 3

    run(answer, scenario, connections=3)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def test_a_stream_goes_on_until_its_end() -> None:
    async def answer(asked: Asked) -> bytes:
        await asked.stream.send_all(CHUNKED + b"3\r\none\r\n")
        await go.wait()
        return b"3\r\ntwo\r\n0\r\n\r\n"

    async def scenario(client: Client, web: Web) -> None:
        async with client.stream("/x", {"watch": 1}) as stream:
            assert await stream.receive() == b"one"
            go.set()
            assert await stream.receive() == b"two"
            assert await stream.receive() == b""
            assert await stream.receive() == b""
        await client.request("GET", "/y", timeout=5)
        assert web.accepted == 1, "a stream that ended leaves its connection for others"

    go = trio.Event()
    run(answer, scenario)


@pytest.mark.parametrize("how", ["leaving", "error", "read that was cancelled", "cancelled"])
def test_a_stream_that_is_left_closes_its_connection(how: str) -> None:
    async def answer(asked: Asked) -> bytes:
        await asked.stream.send_all(CHUNKED + b"3\r\none\r\n")
        await trio.sleep_forever()
        raise AssertionError

    reading = trio.Event()

    async def use(client: Client) -> None:
        async with client.stream("/x") as stream:
            assert await stream.receive() == b"one"
            if how == "leaving":
                return
            if how == "error":
                raise KeyError
            if how == "read that was cancelled":
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await stream.receive()
                assert await stream.receive() == b"", "it has ended"
            reading.set()
            await stream.receive()

    async def scenario(client: Client, web: Web) -> None:
        async with trio.open_nursery() as nursery:
            if how in ("leaving", "error"):
                try:
                    await use(client)
                except KeyError:
                    assert how == "error"
            else:
                nursery.start_soon(use, client)
                await reading.wait()
                nursery.cancel_scope.cancel()
            if web.connections:
                await web.closed.wait()

    run(answer, scenario)


def test_a_cancelled_request_closes_its_connection() -> None:
    seen = trio.Event()

    async def answer(asked: Asked) -> bytes:
        seen.set()
        await trio.sleep_forever()
        raise AssertionError

    async def scenario(client: Client, web: Web) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "GET", "/x")
            await seen.wait()
            nursery.cancel_scope.cancel()
        await web.closed.wait()

    run(answer, scenario)


def test_refused_credentials_are_renewed_once() -> None:
    async def answer(asked: Asked) -> bytes:
        good = asked.headers.get("authorization") == "Bearer new"
        return reply(200, {}) if good else reply(401, {"kind": "Status", "reason": "Unauthorized", "message": "who"})

    async def scenario(client: Client, web: Web) -> None:
        await client.request("GET", "/x")
        assert [asked.headers["authorization"] for asked in web.seen] == ["Bearer old", "Bearer new"]
        client.access.now = Credentials("Bearer bad")  # type: ignore[attr-defined]
        with pytest.raises(ApiError, match="401 Unauthorized: who"):
            await client.request("GET", "/x")
        assert len(web.seen) == 3
        assert web.accepted == 1

    run(answer, scenario, Credentials("Bearer old"), Credentials("Bearer new"))


def test_a_credential_that_no_header_can_hold_is_not_told() -> None:
    async def scenario(client: Client, web: Web) -> None:
        with pytest.raises(Unreachable) as caught:
            await client.request("GET", "/x")
        assert "secret" not in str(caught.value)
        assert "cannot be sent" in str(caught.value)

    run(ok, scenario, Credentials("Bearer secret\nsecret"))


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


def pair(authority: trustme.CA) -> tuple[str, str]:
    leaf = authority.issue_cert("me@example.org", common_name="me")
    return leaf.cert_chain_pems[0].bytes().decode(), leaf.private_key_pem.bytes().decode()


def over_tls(tls: list[Tls], context: Any, scenario: Callable[[Client, Web, Known], Awaitable[None]]) -> None:
    async def main() -> None:
        web = Web(ok)
        async with serving(web, context) as url:
            known = Known(url, *(Credentials("", one) for one in tls))
            async with Client(known) as client:  # type: ignore[arg-type]
                await scenario(client, web, known)

    trio.run(main)


def test_who_vouches_for_the_server() -> None:
    authority, other = trustme.CA(), trustme.CA()

    async def scenario(client: Client, web: Web, known: Known) -> None:
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await client.request("GET", "/x")
        known.now = Credentials("", Tls(pem(authority)))
        await client.request("GET", "/x")
        known.now = Credentials("", Tls(pem(other), insecure=True))
        await client.request("GET", "/x")
        known.now = Credentials("", Tls("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----"))
        with pytest.raises(Unreachable, match="cannot be used"):
            await client.request("GET", "/x")

    over_tls([Tls(pem(other))], server_context(authority), scenario)


def test_a_server_by_another_name() -> None:
    authority = trustme.CA()

    async def scenario(client: Client, web: Web, known: Known) -> None:
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await client.request("GET", "/x")
        known.now = Credentials("", Tls(pem(authority), server_name="api.example.org"))
        await client.request("GET", "/x")

    over_tls([Tls(pem(authority))], server_context(authority, "api.example.org"), scenario)


def test_client_certificates_and_their_successors() -> None:
    authority, old, new = trustme.CA(), trustme.CA(), trustme.CA()
    made = [Tls(pem(authority), *pair(one)) for one in (old, new)]

    async def scenario(client: Client, web: Web, known: Known) -> None:
        await client.request("GET", "/x")
        assert (known.renewals, len(web.seen)) == (1, 1)
        known.now = Credentials("", Tls(pem(authority)))
        with pytest.raises(Unreachable):
            await client.request("GET", "/x")

    over_tls(made, server_context(authority, clients=new), scenario)


def test_a_stream_survives_new_certificates() -> None:
    authority = trustme.CA()

    async def answer(asked: Asked) -> bytes:
        if asked.target != "/stream":
            return reply(200, {})
        await asked.stream.send_all(CHUNKED + b"3\r\none\r\n")
        await go.wait()
        return b"3\r\ntwo\r\n0\r\n\r\n"

    async def main() -> None:
        web = Web(answer)
        async with serving(web, server_context(authority)) as url:
            known = Known(url, Credentials("", Tls(pem(authority))))
            async with Client(known) as client:  # type: ignore[arg-type]
                async with client.stream("/stream") as stream:
                    assert await stream.receive() == b"one"
                    known.now = Credentials("", Tls(pem(authority), *pair(trustme.CA())))
                    await client.request("GET", "/x")
                    go.set()
                    assert await stream.receive() == b"two"
                await client.request("GET", "/x")
                assert web.accepted == 2

    go = trio.Event()
    trio.run(main)
