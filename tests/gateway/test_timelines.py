"""What real engines did over time when they were full, preempting, stopped or killed, and what a client sees of it.

The silences, bodies and last events are those of vLLM 0.32.0 and SGLang 0.5.23, played to the walk in virtual time.
"""

from __future__ import annotations

import json

import pytest

from adapters.registry import load
from gateway.config.snapshot import Policy
from gateway.types import Endpoint
from tests.adapters.recorded import answer
from tests.gateway.scripted import A, B, C, FakeExchange, Step, World, run, with_watch

ADAPTERS = load()
DEFAULTS = Policy()
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
SHUT_DOWN = (
    b'{"error":{"message":"cannot schedule new futures after shutdown","type":"InternalServerError",'
    b'"param":null,"code":500}}'
)
CORE_DIED = (
    b'{"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",'
    b' "type": "InternalServerError", "param": null, "code": 500}}'
)
EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"),)
JSON = ((b"content-type", b"application/json"),)


Scripts = dict[Endpoint, list[tuple[int, list[Step]]]]


def played(engine: str, scripts: Scripts, *, stream: bool) -> tuple[list[tuple[float, str]], World]:
    """What a client is told, and when, by a pool of such engines that plays these scripts, ``A`` first."""
    exchange = FakeExchange(stream=stream)
    worlds: list[World] = []

    async def scenario() -> None:
        world = World(scripts, headers=EVENTS if stream else JSON, policy=DEFAULTS)
        world.adapter.decoder = ADAPTERS[engine].decoder  # type: ignore[assignment, method-assign]
        world.adapter.error = ADAPTERS[engine].error  # type: ignore[method-assign]
        world.prefer(A)
        worlds.append(world)
        await with_watch(world, lambda: world.ask(exchange))

    run(scenario)
    return exchange.said, worlds[0]


def spoken() -> list[bytes]:
    """The events of a recorded stream."""
    return [event + b"\n\n" for event in answer("vllm/chat-stream").body.split(b"\n\n")[:-1]]


def whole() -> bytes:
    return answer("vllm/chat").body


def test_an_engine_stopped_with_requests_open_says_nothing_more_and_its_clients_are_told() -> None:
    """SIGTERM, --shutdown-timeout 0: the port closes, connections neither end nor close, however long one waits."""
    role, first, *_ = spoken()
    streamed, _ = played("vllm", {A: [(200, [role, first, None])]}, stream=True)
    when, what = streamed[-1]
    assert what == "FAIL 504 upstream_timeout"
    assert when <= DEFAULTS.between_tokens + 1
    assert not any("[DONE]" in each for _, each in streamed)
    plain, _ = played("vllm", {A: [(200, [None])]}, stream=False)
    assert plain[-1][1] == "FAIL 504 upstream_timeout"
    assert plain[-1][0] <= DEFAULTS.first_token + 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("body", [SHUT_DOWN, CORE_DIED])
def test_an_engine_that_is_going_is_no_failure_of_the_request(stream: bool, body: bytes) -> None:
    """A request sent at the end of --shutdown-timeout 10, or when its EngineCore has just been killed."""
    reply = b"".join(spoken()) if stream else whole()
    told, world = played("vllm", {A: [(500, [body])], B: [(200, [reply])]}, stream=stream)
    assert told[-1][1] == "END"
    assert not any("FAIL" in what for _, what in told)
    assert world.records[0].attempts == 2


def test_a_killed_core_ends_its_streams_in_an_error_and_not_in_done() -> None:
    role, *tokens = spoken()
    script: list[Step] = [role, *tokens[:2], b"data: " + CORE_DIED + b"\n\n" + DONE]
    told, world = played("vllm", {A: [(200, script)], B: [(200, [whole()])]}, stream=True)
    assert told[-1][1] == "FAIL 500 upstream_error"
    assert not any("[DONE]" in what for _, what in told)
    assert world.transport.log.count("to b") == 0  # tokens were seen


def test_waiting_in_the_queue_and_being_preempted_are_no_silence() -> None:
    """Headers at once, data after 5.6 s, gaps of up to 2.8 s, comments meanwhile: the engine is well."""
    role, *rest = spoken()
    waiting: list[Step] = [1.0, KEEP_ALIVE, 1.75, KEEP_ALIVE, 0.54, KEEP_ALIVE, 1.84, KEEP_ALIVE, 0.518]
    preempted: list[Step] = [2.768, KEEP_ALIVE]
    script: list[Step] = [*waiting, role, rest[0], *preempted, rest[1], *preempted, *rest[2:]]
    told, world = played("vllm", {A: [(200, script)], B: [(200, [b"never"])]}, stream=True)
    assert told[-1][1] == "END"
    assert told[-1][0] == pytest.approx(5.648 + 2 * 2.768, abs=0.01)
    assert world.records[0].attempts == 1
    assert json.loads(rest[0][6:])["choices"][0]["delta"]["content"] in "".join(what for _, what in told)


@pytest.mark.parametrize(
    ("engine", "name"),
    [(engine, name) for engine in ("vllm", "sglang") for name in ("queue-full", "queue-full-stream")],
)
def test_a_full_queue_is_somebody_elses_turn(engine: str, name: str) -> None:
    """vLLM refuses with a 503 either way, SGLang a stream with a 200 that holds the error and then ``[DONE]``."""
    recorded, stream = answer(f"{engine}-limits/{name}"), name.endswith("stream")
    assert recorded.status == (200 if (engine, stream) == ("sglang", True) else 503)
    assert not any(field == b"retry-after" for field, _ in recorded.headers)
    reply = b"".join(spoken()) if stream else whole()
    full: tuple[int, list[Step]] = (recorded.status, [recorded.body])
    told, world = played(engine, {A: [full], B: [(200, [reply])]}, stream=stream)
    assert told[-1][1] == "END"
    assert world.transport.log[-2:] == ["to b", "kept b"]
    told, _ = played(engine, {A: [full], B: [full], C: [full]}, stream=stream)
    assert told[-1][1] == "FAIL 503 overloaded"


def test_tokens_that_share_a_chunk_are_counted_by_the_engine() -> None:
    """SGLang puts several into one: what it says of usage counts, not how many chunks there were."""
    recorded = answer("sglang/chat-tools-forced-stream")
    decoder = ADAPTERS["sglang"].decoder(FakeExchange().request, 200, EVENTS)
    decoder.feed(recorded.body.replace(DONE, b""))
    chunks = decoder.tokens
    counted = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":999}}\n\n'
    decoder.feed(counted % (chunks + 40) + DONE)
    decoder.finish()
    assert decoder.usage is not None
    assert decoder.usage.completion == chunks + 40
