"""Answers changed on purpose: each part of a mutation changes its part of an answer and nothing else."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from conformance.engines import Mutation, Seen, Served, Settings, build, serve_engine
from conformance.engines.mutation import Mutate, mutated, split
from tests.conformance.engines.played import JSON, Played

CHAT = "/v1/chat/completions"


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4, **more}


def answer(mutate: Mutate, body: dict[str, Any], **settings: Any) -> Played:
    """What a client gets of a mutated vLLM."""
    played = Played("POST", CHAT, json.dumps(body).encode(), JSON)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            engine = build("vllm", Settings(models=("m",), **settings))
            await nursery.start(engine.run)
            await mutated(engine.handle, mutate)(played)  # type: ignore[arg-type]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return played


def always(mutation: Mutation | None) -> Mutate:
    return lambda _: mutation


def timeless(body: bytes) -> bytes:
    """Two answers may not have been made in the same second."""
    return re.sub(rb'"created":\d+', b'"created":0', body)


def test_nothing_changes_without_a_mutation() -> None:
    plain, empty = answer(always(None), chat(stream=True)), answer(always(Mutation()), chat(stream=True))
    assert timeless(empty.body) == timeless(plain.body)
    assert (empty.status, empty.headers) == (plain.status, plain.headers)
    assert len(empty.writes) == len(split(plain.body))


def test_a_mutation_sees_the_request() -> None:
    seen: list[Seen] = []

    def mutate(request: Seen) -> Mutation | None:
        seen.append(request)
        return None

    answer(mutate, chat())
    assert [(each.method, each.path, each.headers) for each in seen] == [("POST", CHAT, JSON)]
    assert json.loads(seen[0].body) == chat()


def test_status_and_headers() -> None:
    changed = answer(always(Mutation(status=418, headers=lambda fields: (*fields, (b"x-more", b"1")))), chat())
    assert (changed.status, changed.headers["x-more"]) == (418, "1")
    assert changed.headers["content-type"] == "application/json"
    assert changed.json["object"] == "chat.completion"


def test_bodies() -> None:
    plain, changed = answer(always(None), chat()), answer(always(Mutation(body=lambda body: body[::-1])), chat())
    assert timeless(changed.body[::-1]) == timeless(plain.body)
    assert changed.body.startswith(b"}")


def test_events_before_the_body() -> None:
    def only_done(events: list[bytes]) -> list[bytes]:
        assert all(event.endswith(b"\n\n") for event in events)
        return [event for event in events if b"[DONE]" in event]

    mutation = Mutation(events=only_done, body=lambda body: body.replace(b"DONE", b"OVER"))
    assert answer(always(mutation), chat(stream=True)).body == b"data: [OVER]\n\n"
    assert answer(always(Mutation(events=lambda _: [])), chat(stream=True)).body == b""
    assert answer(always(Mutation(events=lambda _: [])), chat()).json["object"] == "chat.completion"


def test_the_engine_sees_another_request() -> None:
    changed = answer(always(Mutation(request=lambda body: body.replace(b"4", b"2"))), chat())
    assert changed.json["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("fault", ["cut:2", "refuse"])
def test_what_breaks_off_still_does(fault: str) -> None:
    broken = answer(always(Mutation()), chat(stream=True), fail=(fault,))
    assert broken.aborted
    assert not broken.whole
    assert len(broken.events) == (3 if fault == "cut:2" else 0)


@pytest.mark.parametrize("deaf", [False, True])
def test_who_is_deaf_goes_on(deaf: bool) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            engine = build("vllm", Settings(models=("m",), itl=1.0))
            await nursery.start(engine.run)
            with trio.move_on_after(1.5):
                handle = mutated(engine.handle, always(Mutation(deaf=deaf)))
                await handle(Played("POST", CHAT, json.dumps(chat()).encode(), JSON))  # type: ignore[arg-type]
            assert engine.model.statistics.finished.total() == deaf
            assert engine.model.statistics.aborted == (not deaf)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_over_a_socket() -> None:
    def mutate(request: Seen) -> Mutation | None:
        return Mutation(status=503) if request.path == "/health" else None

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            served: Served = await nursery.start(partial(serve_engine, "tgi", mutate=mutate))
            for path, status in (("/health", b"503"), ("/ping", b"200")):
                async with await trio.open_tcp_stream(served.host, served.port) as stream:
                    await stream.send_all(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
                    assert (await stream.receive_some()).split()[1] == status
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_split_keeps_every_byte() -> None:
    assert split(b"a\n\nb\n\n") == [b"a\n\n", b"b\n\n"]
    assert split(b"a\n\nb") == [b"a\n\n", b"b"]
    assert split(b"") == []
