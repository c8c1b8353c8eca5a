"""Time, queues, cancellation and faults: what all simulated engines share."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from conformance.engines import ENGINES, Served, Settings, build, serve_engine
from conformance.engines.engine import Engine
from conformance.engines.model import Bell
from tests.conformance.engines.played import JSON, Played, ask, play

CHAT = "/v1/chat/completions"
PATHS = {"anthropic": "/v1/messages", "gemini": "/v1beta/openai/chat/completions"}
"""Where others are asked for a chat than at CHAT."""


def chat(tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": tokens, **more}


def served(**settings: Any) -> Settings:
    return Settings(models=("m",), **settings)


def text(answer: Played) -> str:
    """What a chat stream said."""
    chunks = (each for each in answer.events if isinstance(each, dict))
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


def test_time_to_first_token_and_between_tokens() -> None:
    async def script(engine: Engine) -> None:
        begin = trio.current_time()
        answer = await ask(engine, CHAT, chat(4, stream=True))
        times = [round(at - begin, 6) for at, _ in answer.writes]
        # The head at once; role and first token after the fixed part and 14 prompt tokens at 28 a second.
        assert times == [0, 1.5, 1.6, 1.7, 1.8]

    play("vllm", served(ttft=1.0, itl=0.1, prefill_rate=28.0), script)


def test_sglang_holds_its_head_until_the_first_token() -> None:
    async def script(engine: Engine) -> None:
        begin = trio.current_time()
        answer = await ask(engine, CHAT, chat(2, stream=True))
        assert next(at - begin for at, _ in answer.writes) == 1.0

    play("sglang", served(ttft=1.0, itl=0.1), script)


def test_a_batch_shares_its_steps() -> None:
    async def script(engine: Engine) -> None:
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask, engine, CHAT, chat(11))
        assert trio.current_time() - begin == pytest.approx(10 * 0.1 + 10 * 3 * 0.01)
        assert engine.model.statistics.generated.total() == 44

    play("vllm", served(itl=0.1, itl_growth=0.01), script)


def test_what_does_not_fit_waits() -> None:
    async def script(engine: Engine) -> None:
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask, engine, CHAT, chat(3))
            await trio.testing.wait_all_tasks_blocked()
            state = (await ask(engine, "/sim/state")).json
            assert (state["running"], state["waiting"]) == (2, 2)
        assert trio.current_time() - begin == pytest.approx(0.5)

    play("tgi", served(itl=0.1, max_running=2), script)


def test_streamed_and_whole_answers_agree() -> None:
    async def script(engine: Engine) -> None:
        whole = await ask(engine, CHAT, chat(20))
        stream = await ask(engine, CHAT, chat(20, stream=True))
        assert text(stream) == whole.json["choices"][0]["message"]["content"]
        other = build("vllm", served(instance="another"))
        async with trio.open_nursery() as nursery:
            await nursery.start(other.run)
            again = await ask(other, CHAT, chat(20))
            nursery.cancel_scope.cancel()
        assert again.json["choices"] == whole.json["choices"]
        assert again.json["id"] != whole.json["id"]

    play("vllm", served(), script)


def test_cached_tokens_are_reported_and_salted() -> None:
    body = chat(1)
    body["messages"][0]["content"] = "A long enough prompt to fill blocks. " * 8

    async def script(engine: Engine) -> None:
        async def cached(**more: Any) -> int:
            answer = await ask(engine, CHAT, {**body, **more})
            return int(answer.json["usage"]["prompt_tokens_details"]["cached_tokens"])

        assert [await cached(), await cached()] == [0, 80]
        assert [await cached(cache_salt="a"), await cached(cache_salt="a")] == [0, 80]
        page = (await ask(engine, "/metrics")).body.decode()
        assert 'vllm:prefix_cache_hits_total{engine="0",model_name="m"} 160.0' in page

    play("vllm", served(), script)


def test_a_cancelled_handler_leaves_nothing_behind() -> None:
    async def script(engine: Engine) -> None:
        for stream in (True, False):
            with trio.move_on_after(1.0):
                await ask(engine, CHAT, chat(1000, stream=stream))
            batch = engine.model.batch
            assert (len(batch.running), len(batch.waiting), batch.pool.used) == (0, 0, 0)
        assert (await ask(engine, "/sim/state")).json["aborted"] == 2

    play("sglang", served(itl=0.05), script)


def test_a_client_that_hangs_up_frees_its_slot_over_tcp() -> None:
    async def state(url: Served) -> dict[str, Any]:
        stream = await trio.open_tcp_stream(url.host, url.port)
        async with stream:
            await stream.send_all(b"GET /sim/state HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = b"".join([chunk async for chunk in stream])
        found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return found

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            start = partial(nursery.start, serve_engine, "vllm", served(itl=0.01, max_running=1))
            url: Served = await start()
            body = json.dumps(chat(10_000, stream=True)).encode()
            head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            client = await trio.open_tcp_stream(url.host, url.port)
            await client.send_all(head % (CHAT.encode(), len(body)) + body)
            seen = b""
            while b'"content":"' not in seen:
                seen += await client.receive_some()
            assert (await state(url))["running"] == 1
            await client.aclose()
            with trio.fail_after(2):
                while (await state(url))["running"]:
                    pass
            assert (await state(url))["aborted"] == 1
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize(("kind", "status"), [("vllm", 503), ("sglang", 503), ("tgi", 429), ("openai", 429)])
def test_a_full_queue_is_refused(kind: str, status: int) -> None:
    async def script(engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, engine, CHAT, chat(100))
            await trio.testing.wait_all_tasks_blocked()
            assert (await ask(engine, CHAT, chat(1))).status == status
            stream = await ask(engine, CHAT, chat(1, stream=True))
            assert stream.status == (200 if kind in ("sglang", "tgi") else status)
            if stream.status == 200:
                assert "error" in stream.events[0]
            nursery.cancel_scope.cancel()

    play(kind, served(itl=0.1, max_running=1, max_queued=0), script)


def test_every_stream_ends_whole() -> None:
    """Tools, thoughts, logprobs, stops and several choices: each stream adds up to the whole answer."""
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"required": ["q"]}}}]
    bodies = [
        chat(30),
        chat(30, n=3),
        chat(30, stop=["e"]),
        chat(5, logprobs=True, top_logprobs=2),
        chat(30, tools=tools, tool_choice="required"),
    ]

    async def script(engine: Engine) -> None:
        for body in bodies:
            whole = (await ask(engine, CHAT, body)).json
            stream = await ask(engine, CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}})
            *chunks, last = stream.events
            assert last == "[DONE]"
            assert chunks[-1]["choices"] == []
            for name in ("prompt_tokens", "completion_tokens"):
                assert chunks[-1]["usage"][name] == whole["usage"][name]
            for choice in whole["choices"]:
                mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
                assert [c["finish_reason"] for c in mine if c["finish_reason"]] == [choice["finish_reason"]]
                said = "".join(c["delta"].get("content") or "" for c in mine)
                assert said == (choice["message"]["content"] or "")
                calls = [call for c in mine for call in c["delta"].get("tool_calls", ())]
                arguments = "".join(call["function"].get("arguments") or "" for call in calls)
                wanted = choice["message"].get("tool_calls") or [{"function": {"arguments": ""}}]
                assert arguments == wanted[0]["function"]["arguments"]

    for kind in ("vllm", "sglang", "openai"):
        play(kind, served(), script)
        play(kind, Settings(models=("m", "m-reason")), script)


FAULTS: list[tuple[str, int, bool]] = [
    ("503", 503, False),
    ("status:500", 500, False),
    ("429:7", 429, False),
    ("529", 529, False),
]


@pytest.mark.parametrize(("spec", "status", "stream"), FAULTS)
@pytest.mark.parametrize("kind", [kind for kind in ENGINES if kind not in PATHS])
def test_statuses_on_request(kind: str, spec: str, status: int, stream: bool) -> None:
    async def script(engine: Engine) -> None:
        answer = await ask(engine, CHAT, chat(3))
        assert answer.status == status
        assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
        assert answer.json
        assert (await ask(engine, "/v1/models")).status == 200

    play(kind, served(fail=(spec,)), script)


def test_breaks_in_the_middle() -> None:
    async def script(engine: Engine) -> None:
        cut = await ask(engine, CHAT, chat(9, stream=True))
        assert cut.aborted
        assert len(text(cut).split()) == 3
        error = await ask(engine, CHAT, chat(9, stream=True))
        assert error.events[-2]["error"]["code"] == 500
        assert len(text(error).split()) == 2
        with trio.move_on_after(5) as scope:
            await ask(engine, CHAT, chat(9, stream=True))
        assert scope.cancelled_caught
        assert not engine.model.batch.held
        assert (await ask(engine, CHAT, chat(9, stream=True))).events[-1] == "[DONE]"
        assert (await ask(engine, CHAT, chat(9))).aborted

    specs = ("cut:3@first=1", "error-event:2@after=1,first=1", "stall:4@after=2,first=1")
    play("vllm", served(fail=(*specs, "cut@after=4,first=1")), script)


def test_hang_slow_refuse_and_rubbish() -> None:
    async def script(engine: Engine) -> None:
        async def set_fault(*specs: str) -> Played:
            return await ask(engine, "/sim/fail", {"fail": list(specs)})

        await set_fault("hang")
        with trio.move_on_after(100) as scope:
            await ask(engine, CHAT, chat(1))
        assert scope.cancelled_caught
        await set_fault("slow:3")
        begin = trio.current_time()
        assert (await ask(engine, CHAT, chat(1))).status == 200
        assert trio.current_time() - begin == 3
        await set_fault("refuse")
        refused = await ask(engine, CHAT, chat(1))
        assert refused.aborted
        assert not refused.started
        await set_fault("rubbish")
        assert not (await ask(engine, CHAT, chat(1))).body.startswith(b"{")
        await set_fault("rubbish:http")
        assert (await ask(engine, CHAT, chat(1))).headers["content-length"] == "plenty"
        await set_fault("503@path=/metrics")
        assert (await ask(engine, "/metrics")).status == 503
        assert (await ask(engine, CHAT, chat(1))).status == 200
        assert (await set_fault("nonsense")).status == 400
        await set_fault()
        assert (await ask(engine, "/metrics")).status == 200

    play("vllm", served(), script)


def test_the_last_request_can_be_seen() -> None:
    async def script(engine: Engine) -> None:
        await ask(engine, CHAT, chat(1), headers=(*JSON, (b"X-Trace", b"1")))
        state = (await ask(engine, "/sim/state")).json
        assert state["requests"] == 1
        assert state["last"]["headers"]["x-trace"] == "1"
        assert json.loads(state["last"]["body"]) == chat(1)

    play("vllm", served(), script)


def test_silent_streams_get_comments() -> None:
    async def script(engine: Engine) -> None:
        answer = await ask(engine, CHAT, chat(1, stream=True))
        assert answer.body.startswith(b":\n\n:\n\ndata:")

    play("tgi", served(ttft=40.0), script)


def test_preemption_shows_as_a_gap_and_loses_nothing() -> None:
    async def script(engine: Engine) -> None:
        answers: list[Played] = []

        async def one(content: str) -> None:
            body = chat(60, stream=True)
            body["messages"][0]["content"] = content
            answers.append(await ask(engine, CHAT, body))

        async with trio.open_nursery() as nursery:
            for content in ("first", "other"):
                nursery.start_soon(one, content)
        assert engine.model.batch.preemptions > 0
        assert [len(text(answer).split()) for answer in answers] == [60, 60]

    play("vllm", served(itl=0.01, kv_blocks=6, block_size=16), script)


def test_unknown_engine_or_fault() -> None:
    with pytest.raises(ValueError, match="no simulated engine is called 'gpt'"):
        build("gpt")
    with pytest.raises(ValueError, match="unknown kind 'explode'"):
        build("vllm", Settings(fail=("explode",)))


@pytest.mark.parametrize("kind", list(ENGINES))
def test_nonsense_gets_an_answer(kind: str) -> None:
    path = PATHS.get(kind, CHAT)
    headers = (*JSON, (b"anthropic-version", b"2023-06-01"))

    async def script(engine: Engine) -> None:
        for body in (b"{", b"[]", b"null", b"\xff", b"{}"):
            answer = await ask(engine, path, body, headers=headers)
            assert 400 <= answer.status <= 500
        assert (await ask(engine, "/nowhere", headers=headers)).status == 404
        assert (await ask(engine, path, headers=headers)).status == (404 if kind == "llamacpp" else 405)

    play(kind, served(), script)


def test_a_fault_says_how_long_to_wait_as_the_provider_would() -> None:
    def waits(kind: str) -> Played:
        found: list[Played] = []

        async def script(engine: Engine) -> None:
            headers = (*JSON, (b"anthropic-version", b"2023-06-01"))
            found.append(await ask(engine, PATHS.get(kind, CHAT), chat(3), headers=headers))

        play(kind, served(fail=("429:7",)), script)
        assert found[0].status == 429
        return found[0]

    for kind in ("vllm", "openai", "anthropic"):
        assert waits(kind).headers["retry-after"] == "7"
    anthropic = waits("anthropic")
    assert anthropic.json["request_id"] == anthropic.headers["request-id"]
    gemini = waits("gemini")
    assert gemini.json[0]["error"]["details"][0]["retryDelay"] == "7s"
    assert "retry-after" not in gemini.headers


def test_a_bell_rings_once_for_who_comes_late() -> None:
    async def main() -> None:
        bell = Bell()
        bell.ring()
        bell.ring()
        await bell.wait()
        with trio.move_on_after(1) as scope:
            await bell.wait()
        assert scope.cancelled_caught
        bell.ring()
        await bell.wait()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
