"""The program as a gRPC server, to clients as they come: grpcio, its aio and ours. Who may ask for how much, who leaves
and when, engines that fail, and the end of the process.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
import h2.connection
import pytest
import trio
import trustme
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame

from gateway.wire.grpc import Code, Messages, framed
from protocols.grpc.client import Channel, RpcError, connect
from protocols.grpc.client.inference import InferenceClient
from protocols.grpc.generated.inference import v1
from protocols.grpc.generated.upb import inference as pb
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import admin, fetch, pool, settings, state, written

PREFIX: Final = "/inference.v1.InferenceService/"
SERVICE: Final = "inference.v1.InferenceService"
LONG: Final = 3000
NOTICED_S: Final = 1.0
"""Ten times the 100 ms in which it is noticed: the machine may be busy."""
_M = TypeVar("_M", bound=Message)


def chat(model: str = "m", text: str = "hi", **fields: Any) -> Any:
    return pb.CreateChatCompletionRequest(
        model=model, messages=[pb.ChatMessage(role="user", text=text)], **{"max_tokens": 5, **fields}
    )


def streamed(**fields: Any) -> Any:
    return pb.StreamChatCompletionRequest(request=chat(**fields))


def unary(channel: Any, name: str) -> Any:
    return channel.unary_unary(
        PREFIX + name,
        request_serializer=lambda it: it.SerializeToString(),
        response_deserializer=getattr(pb, f"{name}Response").FromString,
    )


def stream(channel: Any, name: str) -> Any:
    return channel.unary_stream(
        PREFIX + name,
        request_serializer=lambda it: it.SerializeToString(),
        response_deserializer=getattr(pb, f"{name}Response").FromString,
    )


def ask(channel: grpc.Channel, message: Any = None, name: str = "CreateChatCompletion", **metadata: str) -> Any:
    return unary(channel, name)(message or chat(), timeout=30, metadata=[*metadata.items()])


def failure(channel: grpc.Channel, message: Any = None, **metadata: str) -> Any:
    with pytest.raises(grpc.RpcError) as raised:
        ask(channel, message, **metadata)
    return raised.value


def detail(error: Any, kind: type[_M]) -> _M | None:
    """What the status says of this kind."""
    status = rpc_status.from_call(error)
    assert status is not None
    found = kind()
    return found if any(packed.Unpack(found) for packed in status.details) else None


def reason(error: Any) -> str:
    info = detail(error, details_pb2.ErrorInfo)
    assert info is not None
    assert info.domain == "infer-gateway.dev"
    return str(info.reason)


def metric(gateway: InferGateway, name: str, **labels: str) -> float:
    """The sum of all samples of that name with these labels."""
    answer = raw.exchange(admin(gateway), raw.get("/metrics", "connection: close"))
    assert answer is not None
    samples = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", answer.body.decode(), re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(value) for said, value in samples if all(want in said for want in wanted))


def channel_to(gateway: InferGateway) -> grpc.Channel:
    return grpc.insecure_channel(gateway.ready["grpc"], options=[("grpc.use_local_subchannel_pool", 1)])


def busy(engine: InferGateway, count: int = 1) -> bool:
    """Whether it comes to run so many."""
    return eventually(lambda: state(engine)["running"] == count)


def freed(engine: InferGateway) -> bool:
    """Whether it soon has nothing to do."""
    idle = {"running": 0, "waiting": 0}
    return eventually(lambda: state(engine).items() >= idle.items(), within_s=NOTICED_S)


def queued(gateway: InferGateway, count: int) -> bool:
    def told() -> bool:
        return bool(sum(door["queued"] for door in fetch(admin(gateway), "/api/flows")) == count)

    return eventually(told, within_s=NOTICED_S if not count else 10.0)


def run_trio(gateway: InferGateway, client: Callable[[Channel], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            async with connect(gateway.ready["grpc"]) as channel:
                await client(channel)

    trio.run(main)


def run_asyncio(gateway: InferGateway, client: Callable[[grpc.aio.Channel], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), grpc.aio.insecure_channel(gateway.ready["grpc"]) as channel:
            await client(channel)

    asyncio.run(main())


@pytest.fixture
def engine() -> Iterator[InferGateway]:
    with simulate("vllm", "m", "--ttft", "0.001", "--itl", "0.001") as running:
        yield running


@pytest.fixture(scope="module")
def slow() -> Iterator[InferGateway]:
    """Slow on both sides of the first token."""
    with simulate("vllm", "m", "--ttft", "0.3", "--itl", "0.02") as running:
        yield running


# -- clients ----------------------------------------------------------------------------------------------------------


def test_asyncio_clients_get_the_same(fleet: InferGateway, model: str) -> None:
    with channel_to(fleet) as channel:
        expected = ask(channel, chat(model, seed=7, temperature=0.0))

    async def client(channel: grpc.aio.Channel) -> None:
        asked = chat(model, seed=7, temperature=0.0)
        told = await unary(channel, "CreateChatCompletion")(asked)
        assert (told.choices, told.usage) == (expected.choices, expected.usage)
        call = stream(channel, "StreamChatCompletion")(pb.StreamChatCompletionRequest(request=asked))
        pieces = [piece async for piece in call]
        text = "".join(choice.delta.content for piece in pieces for choice in piece.choices)
        assert text == expected.choices[0].message.content
        assert pieces[-1].usage == expected.usage
        assert dict(await call.initial_metadata())["x-request-id"]
        many = [unary(channel, "CreateChatCompletion")(asked) for _ in range(50)]
        assert all([(await one).choices == expected.choices for one in many])

    run_asyncio(fleet, client)


def test_our_client_has_every_call(fleet: InferGateway) -> None:
    with channel_to(fleet) as grpcio:
        expected = ask(grpcio, chat("demo-vllm", seed=7))
    turns = [v1.ChatMessage(role="user", text="hi")]

    async def client(channel: Channel) -> None:
        api = InferenceClient(channel, metadata={"x-request-id": "ours"})
        asked = v1.CreateChatCompletionRequest(model="demo-vllm", messages=turns, max_tokens=5, seed=7)
        whole = await api.create_chat_completion(asked)
        assert whole.choices[0].message is not None
        assert whole.choices[0].message.content == expected.choices[0].message.content
        async with api.stream_chat_completion(asked) as call:
            pieces = [piece async for piece in call]
        said = [choice.delta.content or "" for piece in pieces for choice in piece.choices if choice.delta]
        assert "".join(said) == whole.choices[0].message.content
        assert pieces[-1].usage == whole.usage
        prompt = v1.Prompt(text="Once")
        completion = v1.CreateCompletionRequest(model="demo-sglang", prompt=[prompt], max_tokens=5, seed=7)
        text = (await api.create_completion(completion)).choices[0].text
        async with api.stream_completion(completion) as texts:
            assert "".join([choice.text async for piece in texts for choice in piece.choices]) == text
        vectors = await api.create_embedding(v1.CreateEmbeddingRequest(model="demo-vllm", input=[prompt, prompt]))
        assert [len(vector.embedding) > 0 for vector in vectors.data] == [True, True]
        counted = await api.count_tokens(v1.CountTokensRequest(model="demo-vllm", prompt="x" * 40))
        assert counted.count == 10
        models = [model.id for model in (await api.list_models()).models]
        assert {"demo-openai", "demo-sglang", "demo-tgi", "demo-vllm"} < set(models)
        assert models == sorted(models)
        with pytest.raises(RpcError) as unknown:
            await api.get_model(v1.GetModelRequest(model="nobody"))
        assert unknown.value.code is Code.NOT_FOUND

    run_trio(fleet, client)


def test_pages_of_models(fleet: InferGateway) -> None:
    with channel_to(fleet) as channel:
        everything = [model.id for model in ask(channel, pb.ListModelsRequest(), "ListModels").models]
        token, seen = "", []
        for _ in range(len(everything) // 2 + len(everything) % 2):
            page = ask(channel, pb.ListModelsRequest(page_size=2, page_token=token), "ListModels")
            assert len(page.models) <= 2
            seen += [model.id for model in page.models]
            token = page.next_page_token
        assert (seen, token) == (everything, "")


def test_many_calls_share_a_connection(fleet: InferGateway) -> None:
    with channel_to(fleet) as channel:
        calls = [stream(channel, "StreamChatCompletion")(streamed(model="demo-vllm")) for _ in range(100)]
        assert [sum(len(piece.choices) for piece in call) > 3 for call in calls] == [True] * 100
        assert metric(fleet, "infer_gateway_connections", listener="grpc") >= 1


def test_a_message_of_twenty_megabytes(engine: InferGateway) -> None:
    """What of it is the prompt's is too long for the engine; what is not, is no matter."""
    padding = json.dumps({"chat_template_kwargs": {"padding": "x" * 20_000_000}})
    with serve("--backend", f"vllm={engine.url}") as gateway, channel_to(gateway) as channel:
        assert ask(channel, chat(extra_body_json=padding)).usage.completion_tokens == 5
        error = failure(channel, chat(text="four" * 5_000_000))
        assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED")
        error = failure(channel, chat(text="x" * 40_000_000))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ask(channel).choices


def test_reflection_as_v1(fleet: InferGateway) -> None:
    with channel_to(fleet) as channel:
        call = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=30)
        names = {service.name for service in answer.list_services_response.service}
        assert {SERVICE, "grpc.health.v1.Health"} <= names


# -- who may ask, and for how much ------------------------------------------------------------------------------------


def key(name: str, *models: str) -> dict[str, object]:
    digest = hashlib.sha256(f"sk-{name}".encode()).hexdigest()
    return {"name": name, "tenant": f"{name}-inc", "keySha256": digest, "models": models}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{name}"}


def test_keys_limits_and_what_is_written_of_it(tmp_path: Path, engine: InferGateway) -> None:
    more = settings(
        auth={"apiKeys": [key("ann"), key("bob", "open-*")]},
        limits=[{"match": {"user": "bob"}, "requestsPerDay": 2}],
        usage={"file": "usage.jsonl"},
    )
    file = written(tmp_path, pool("open-m", [engine]), pool("closed-m", [engine]), more)
    with serve("-c", file, "--access-log") as gateway, channel_to(gateway) as channel:
        for metadata in ({}, bearer("mallory"), {"x-api-key": "sk-mallory"}):
            error = failure(channel, chat("open-m"), **metadata)
            assert (error.code(), reason(error)) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")
        error = failure(channel, chat("closed-m"), **bearer("bob"))
        assert (error.code(), reason(error)) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
        for who, expected in (("bob", ["open-m"]), ("ann", ["closed-m", "open-m"])):
            listed = ask(channel, pb.ListModelsRequest(), "ListModels", **bearer(who)).models
            assert [model.id for model in listed] == expected
        assert ask(channel, chat("closed-m"), **{"x-api-key": "sk-ann"}).choices

        call = unary(channel, "CreateChatCompletion")
        for left in ("1", "0"):
            _, told = call.with_call(chat("open-m"), timeout=30, metadata=[*bearer("bob").items()])
            assert dict(told.initial_metadata())["x-ratelimit-remaining-requests"] == left
        error = failure(channel, chat("open-m"), **bearer("bob"), **{"x-request-id": "refused"})
        assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        wait, quota = detail(error, details_pb2.RetryInfo), detail(error, details_pb2.QuotaFailure)
        assert wait is not None
        assert quota is not None
        assert 40_000 < wait.retry_delay.ToSeconds() <= 43_200
        assert "requests per day of user 'bob': 2" in quota.violations[0].description
        assert dict(error.trailing_metadata())["x-ratelimit-remaining-requests"] == "0"
        assert dict(error.trailing_metadata())["x-request-id"] == "refused"
        assert ask(channel, chat("open-m"), **bearer("ann")).choices

        events = tmp_path / "usage.jsonl"
        assert eventually(lambda: events.exists() and len(events.read_bytes().splitlines()) == 6)
        seen = [json.loads(line) for line in events.read_text().splitlines()]
        assert {event["protocol"] for event in seen} == {"grpc"}
        assert [(event["user"], event["status"]) for event in seen] == [
            ("bob", 403), ("ann", 200), ("bob", 200), ("bob", 200), ("bob", 429), ("ann", 200)
        ]  # fmt: skip
        assert {event["tokens"]["output"] for event in seen if event["status"] == 200} == {5}
        served = {"protocol": "grpc", "model": "open-m"}
        assert metric(gateway, "infer_gateway_requests_total", code="200", **served) == 3
        assert metric(gateway, "infer_gateway_requests_total", code="429", protocol="grpc") == 1
        assert metric(gateway, "infer_gateway_tokens_total", direction="output", **served) == 15
        assert metric(gateway, "infer_gateway_request_duration_seconds_count", **served) >= 3
        assert metric(gateway, "infer_gateway_requests_total", protocol="http") == 0
        assert eventually(lambda: gateway.stderr.count('"protocol":"grpc"') >= 6)


def fair(directory: Path, engine: InferGateway, **more: object) -> str:
    """One request at a time; the others wait."""
    return written(directory, pool("m", [engine]), settings(fairness={"enabled": True, "maxConcurrent": 1, **more}))


def test_a_full_queue_says_when_to_come_again(tmp_path: Path, slow: InferGateway) -> None:
    with serve("-c", fair(tmp_path, slow, maxQueued=1)) as gateway, channel_to(gateway) as channel:
        call = stream(channel, "StreamChatCompletion")
        held = call(streamed(max_tokens=LONG))
        assert next(held)
        waiting = call(streamed())
        assert queued(gateway, 1)
        error = failure(channel)
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
        wait = detail(error, details_pb2.RetryInfo)
        assert wait is not None
        assert wait.retry_delay.ToMilliseconds() > 0
        held.cancel()
        assert len(list(waiting)) > 5
        assert freed(slow)


# -- who leaves, and when ---------------------------------------------------------------------------------------------

PHASES = ["queued", "before the first token", "streaming"]


@asynccontextmanager
async def occupied(gateway: InferGateway, channel: Channel) -> AsyncIterator[None]:
    """Somebody else has the engine's one place."""
    async with channel.unary_stream(PREFIX + "StreamChatCompletion", streamed(max_tokens=LONG), bytes) as held:
        assert await held.receive()
        yield


@pytest.fixture
def one_at_a_time(tmp_path: Path, slow: InferGateway) -> Iterator[InferGateway]:
    with serve("-c", fair(tmp_path, slow)) as gateway:
        yield gateway
        assert metric(gateway, "infer_gateway_inflight_requests") == 0


def reached(phase: str, gateway: InferGateway, engine: InferGateway) -> bool:
    return queued(gateway, 1) if phase == "queued" else busy(engine)


def left(phase: str, gateway: InferGateway, engine: InferGateway, before: dict[str, Any]) -> bool:
    """Whether nobody waits or works for who has gone. Who was only queued has never been seen by the engine."""
    if phase == "queued":
        return queued(gateway, 0) and state(engine)["requests"] == before["requests"]
    return freed(engine) and state(engine)["aborted"] == before["aborted"] + 1


@pytest.mark.parametrize("phase", PHASES)
def test_grpcio_leaves(one_at_a_time: InferGateway, slow: InferGateway, phase: str) -> None:
    with channel_to(one_at_a_time) as channel:
        call = stream(channel, "StreamChatCompletion")
        held = call(streamed(max_tokens=LONG)) if phase == "queued" else None
        assert held is None or next(held)
        before = state(slow)
        leaving = call(streamed(max_tokens=LONG))
        assert phase != "streaming" or next(leaving)
        assert reached(phase, one_at_a_time, slow)
        leaving.cancel()
        assert left(phase, one_at_a_time, slow, before)
        if held is not None:
            held.cancel()
    assert freed(slow)


@pytest.mark.parametrize("phase", PHASES)
def test_aio_leaves(one_at_a_time: InferGateway, slow: InferGateway, phase: str) -> None:
    async def client(channel: grpc.aio.Channel) -> None:
        call = stream(channel, "StreamChatCompletion")
        held = call(streamed(max_tokens=LONG)) if phase == "queued" else None
        assert held is None or await held.read()
        before = await asyncio.to_thread(state, slow)
        leaving = call(streamed(max_tokens=LONG))
        reading = asyncio.create_task(leaving.read())
        if phase == "streaming":
            await reading
        assert await asyncio.to_thread(reached, phase, one_at_a_time, slow)
        leaving.cancel()
        assert await asyncio.to_thread(left, phase, one_at_a_time, slow, before)
        await asyncio.wait([reading])
        assert reading.cancelled() == (phase != "streaming")
        if held is not None:
            held.cancel()

    run_asyncio(one_at_a_time, client)
    assert freed(slow)


@pytest.mark.parametrize("phase", PHASES)
def test_our_client_leaves(one_at_a_time: InferGateway, slow: InferGateway, phase: str) -> None:
    async def leave(channel: Channel) -> None:
        before = await trio.to_thread.run_sync(state, slow)
        path, asked = PREFIX + "StreamChatCompletion", streamed(max_tokens=LONG)
        async with channel.unary_stream(path, asked, bytes) as call:
            assert phase != "streaming" or await call.receive()
            assert await trio.to_thread.run_sync(reached, phase, one_at_a_time, slow)
        assert await trio.to_thread.run_sync(left, phase, one_at_a_time, slow, before)

    async def client(channel: Channel) -> None:
        if phase == "queued":
            async with occupied(one_at_a_time, channel):
                await leave(channel)
        else:
            await leave(channel)

    run_trio(one_at_a_time, client)
    assert freed(slow)


@pytest.mark.parametrize("phase", PHASES)
def test_a_deadline_ends_the_call_and_the_work(one_at_a_time: InferGateway, slow: InferGateway, phase: str) -> None:
    with channel_to(one_at_a_time) as channel:
        call = stream(channel, "StreamChatCompletion")
        held = call(streamed(max_tokens=LONG)) if phase == "queued" else None
        assert held is None or next(held)
        before = state(slow)
        leaving = call(streamed(max_tokens=LONG), timeout=1.0 if phase == "streaming" else 0.2)
        assert phase != "streaming" or next(leaving)
        with pytest.raises(grpc.RpcError) as raised:
            list(leaving)
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert left(phase, one_at_a_time, slow, before)
        if held is not None:
            held.cancel()
    assert freed(slow)
    assert eventually(lambda: metric(one_at_a_time, "infer_gateway_inflight_requests") == 0)


# -- engines that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refuse@every=2", "503@every=2"])
def test_what_fails_before_its_first_token_is_served_by_another(fault: str) -> None:
    failing, whole = simulate("vllm", "m", "--fail", fault), simulate("vllm", "m")
    with (
        together(failing, whole),
        serve("--backend", f"vllm={failing.url}", "--backend", f"vllm={whole.url}") as gateway,
        channel_to(gateway) as channel,
    ):
        made = 0
        while (
            metric(gateway, "infer_gateway_attempts_total", endpoint=failing.ready["http"]) < 3
        ):  # the other is idle, too
            whole_ones = [unary(channel, "CreateChatCompletion").future(chat(text=f"{made} {n}")) for n in range(4)]
            streams = [stream(channel, "StreamChatCompletion")(streamed(text=f"{made} s {n}")) for n in range(4)]
            assert all(each.result(30).usage.completion_tokens == 5 for each in whole_ones)
            assert all(list(each)[-1].usage.completion_tokens == 5 for each in streams)
            made += 8
        tried = metric(gateway, "infer_gateway_attempts_total")
        assert tried > metric(gateway, "infer_gateway_attempts_total", outcome="ok") == made
        assert metric(gateway, "infer_gateway_requests_total", protocol="grpc", code="200") == made


def test_an_engine_that_dies_mid_stream_is_told_of() -> None:
    with (
        simulate("vllm", "m", "--itl", "0.02") as engine,
        serve("--backend", f"vllm={engine.url}") as gateway,
        channel_to(gateway) as channel,
    ):
        call = stream(channel, "StreamChatCompletion")(streamed(max_tokens=LONG), timeout=30)
        assert [next(call) for _ in range(3)]
        engine.kill()
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
        error: Any = raised.value
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "STREAM_INTERRUPTED")
        info = detail(error, details_pb2.ErrorInfo)
        assert info is not None
        assert info.metadata["partial"] == "true"
        assert detail(error, details_pb2.RetryInfo) is None

        def gone() -> bool:
            said = failure(channel)
            return said.code() == grpc.StatusCode.UNAVAILABLE and detail(said, details_pb2.RetryInfo) is not None

        assert gone()
        stub = health_pb2_grpc.HealthStub(channel)
        down = health_pb2.HealthCheckResponse.NOT_SERVING
        assert eventually(lambda: stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status == down)


# -- connections, and the end of the process ----------------------------------------------------------------------


def test_connections_that_grow_old_cost_no_call(tmp_path: Path, engine: InferGateway) -> None:
    file = written(tmp_path, pool("m", [engine]), settings(listeners={"grpc": {"maxConnectionAge": "100ms"}}))
    with serve("-c", file) as gateway, channel_to(gateway) as channel:
        seen: list[grpc.ChannelConnectivity] = []
        channel.subscribe(seen.append)
        call = stream(channel, "StreamChatCompletion")

        def again() -> bool:
            assert ask(channel).choices
            *_, last = call(streamed(max_tokens=20), timeout=30)
            assert last.usage.completion_tokens == 20
            return seen.count(grpc.ChannelConnectivity.READY) > 2

        assert eventually(again)


def refuses(channel: grpc.Channel) -> bool:
    """Whether it comes to take no new call."""

    def refused() -> bool:
        try:
            ask(channel, pb.ListModelsRequest(), "ListModels")
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAVAILABLE)
        return False

    return eventually(refused)


def test_sigterm_lets_streams_finish(slow: InferGateway) -> None:
    with serve("--backend", f"vllm={slow.url}") as gateway, channel_to(gateway) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        call = stream(channel, "StreamChatCompletion")(streamed(max_tokens=60))
        assert next(call)
        gateway.signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError):
            next(watch)
        assert refuses(channel)
        assert [*call][-1].usage.completion_tokens == 60
        assert gateway.wait() == 0


def test_sigterm_as_it_stands_on_the_wire(tmp_path: Path, slow: InferGateway) -> None:
    """GOAWAY for those to come, then for all but the one under way, whose answer is whole; then the connection ends."""
    with serve("--backend", f"vllm={slow.url}", "-c", written(tmp_path, settings(settleTime="100ms"))) as gateway:
        with closing(socket.create_connection(address(gateway), timeout=10)) as connection:
            client = h2.connection.H2Connection()
            client.initiate_connection()
            head = {":method": "POST", ":scheme": "http", ":authority": "it", ":path": PREFIX + "StreamChatCompletion"}
            client.send_headers(1, [*head.items(), ("content-type", "application/grpc"), ("te", "trailers")])
            client.send_data(1, framed(streamed(max_tokens=40).SerializeToString()), end_stream=True)
            connection.sendall(client.data_to_send())
            seen: list[Frame] = []
            for frame in frames(connection):
                if isinstance(frame, DataFrame) and not any(isinstance(former, DataFrame) for former in seen):
                    gateway.signal(signal.SIGTERM)
                if isinstance(frame, PingFrame) and "ACK" not in frame.flags:
                    connection.sendall(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
                seen.append(frame)
        farewells = [frame for frame in seen if isinstance(frame, GoAwayFrame)]
        assert [(frame.error_code, frame.last_stream_id) for frame in farewells] == [(0, 2**31 - 1), (0, 1)]
        (end,) = [frame for frame in seen if "END_STREAM" in frame.flags]
        assert isinstance(end, HeadersFrame)  # trailers
        assert seen.index(farewells[0]) < seen.index(end)
        body = b"".join(frame.data for frame in seen if isinstance(frame, DataFrame))
        *_, last = Messages(1 << 20).feed(body)
        assert pb.StreamChatCompletionResponse.FromString(last).usage.completion_tokens == 40
        assert gateway.wait() == 0


def address(gateway: InferGateway) -> tuple[str, int]:
    host, _, port = gateway.ready["grpc"].rpartition(":")
    return host, int(port)


def frames(connection: socket.socket) -> Iterator[Frame]:
    """What comes until the connection ends; after GOAWAY h2 takes nothing any more."""
    with connection.makefile("rb") as file:
        while head := file.read(9):
            frame, size = Frame.parse_frame_header(memoryview(head))
            frame.parse_body(memoryview(file.read(size)))
            yield frame


def test_a_second_sigterm_cuts(slow: InferGateway) -> None:
    with serve("--backend", f"vllm={slow.url}") as gateway, channel_to(gateway) as channel:
        call = stream(channel, "StreamChatCompletion")(streamed(max_tokens=LONG))
        assert next(call)
        gateway.signal(signal.SIGTERM)
        assert refuses(channel)
        gateway.signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
        assert (raised.value.code(), reason(raised.value)) == (grpc.StatusCode.UNAVAILABLE, "STREAM_INTERRUPTED")
        assert gateway.wait() == 0
    assert freed(slow)


# -- TLS --------------------------------------------------------------------------------------------------------------


def test_tls_and_who_a_certificate_names(tmp_path: Path, engine: InferGateway) -> None:
    servers, clients = trustme.CA(), trustme.CA()
    own = servers.issue_cert("127.0.0.1")
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    own.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    listener = {"tls": {"certFile": "cert.pem", "keyFile": "key.pem"}, "clientCAFile": "clients.pem"}
    auth = {"trustedProxies": {"subjects": ["lb.example.com"]}}
    file = written(tmp_path, pool("m", [engine]), settings(auth=auth, listeners={"grpc": listener}))
    lb, other, stranger = clients.issue_cert("lb.example.com"), clients.issue_cert("other.example.com"), trustme.CA()

    def code(certificate: trustme.LeafCert | None, **metadata: str) -> Any:
        pair: list[bytes] = []
        if certificate is not None:
            pair = [certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes()]
        credentials = grpc.ssl_channel_credentials(servers.cert_pem.bytes(), *pair)
        with grpc.secure_channel(gateway.ready["grpc"], credentials) as channel:
            try:
                ask(channel, **metadata)
            except grpc.RpcError as error:
                return error.code()
        return grpc.StatusCode.OK

    with serve("-c", file) as gateway:
        ann = {"x-auth-user": "ann"}
        assert code(lb, **ann) == grpc.StatusCode.OK
        assert code(lb, **ann, **{"x-auth-models": "other-*"}) == grpc.StatusCode.PERMISSION_DENIED
        assert code(lb) == code(other, **ann) == grpc.StatusCode.UNAUTHENTICATED
        for certificate in (None, stranger.issue_cert("lb.example.com")):
            assert code(certificate, **ann) == grpc.StatusCode.UNAVAILABLE  # it has not come past the handshake
        assert "without listeners.http.clientCAFile" not in gateway.stderr
        with channel_to(gateway) as plain, pytest.raises(grpc.RpcError):
            ask(plain)

        async def ours() -> None:
            context = ssl.create_default_context()
            servers.configure_trust(context)
            lb.configure_cert(context)
            async with connect(gateway.ready["grpc"], context) as channel:
                api = InferenceClient(channel, metadata=ann)
                assert (await api.get_model(v1.GetModelRequest(model="m"))).model is not None

        trio.run(ours)
        assert metric(gateway, "infer_gateway_requests_total", code="200", protocol="grpc") == 1
