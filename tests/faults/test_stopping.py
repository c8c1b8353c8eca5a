"""The end of the process, as clients see it: who is there, who has just come, who is in the middle of something."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protocols.grpc.generated.upb import inference as pb
from tests.faults.load import CHAT, PREFIX, load
from tests.faults.stage import admin
from tests.process import InferGateway, eventually, serve, simulate
from tests.whole import raw
from tests.whole.fleet import Client, pool, settings, written

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def engine() -> Iterator[InferGateway]:
    with simulate("vllm", "m", "--itl", "0.01") as engine:
        yield engine


def configured(directory: Path, engine: InferGateway, **more: object) -> str:
    return written(directory, pool("m", [engine]), settings(**more))


def readiness(gateway: InferGateway) -> tuple[int, bytes]:
    answer = raw.exchange(admin(gateway), raw.get("/readyz", "connection: close"))
    assert answer is not None
    return answer.status, answer.body


def suspended(gateway: InferGateway) -> bool:
    assert gateway.process is not None
    return Path(f"/proc/{gateway.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_while_it_settles_whoever_comes_is_served_once_more(tmp_path: Path, engine: InferGateway) -> None:
    with serve("-c", configured(tmp_path, engine, settleTime="3s")) as gateway, Client(gateway) as idle:
        idle.ask("m", "hi")
        with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            gateway.signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert readiness(gateway) == (503, b"draining\n")
            models = channel.unary_unary(f"{PREFIX}ListModels", lambda it: it.SerializeToString(), bytes)
            assert models(pb.ListModelsRequest(), timeout=10)
        assert idle.ask("m", "hi").headers["connection"] == "close"
        assert idle.socket.recv(1) == b""
        with Client(gateway) as new:
            assert new.ask("m", "hi", stream=True).headers["connection"] == "close"
        assert eventually(lambda: raw.refuses(gateway.address))
        assert gateway.wait() == 0


def test_a_load_that_ends_with_the_process_loses_nothing(tmp_path: Path, engine: InferGateway) -> None:
    """Every client is served until one is refused the connection itself; none is cut."""
    file = configured(tmp_path, engine, settleTime="300ms")
    with serve("-c", file) as gateway:
        with load(gateway, ends=True) as clients:
            gateway.signal(signal.SIGTERM)
        print(f"{sum(clients.answers.values())} answers")
        assert gateway.wait() == 0


def test_who_has_connected_when_it_ends_is_answered(tmp_path: Path, engine: InferGateway) -> None:
    """What the kernel holds for a process that is not running: connections, and requests on old ones."""
    with serve("-c", configured(tmp_path, engine)) as gateway, Client(gateway) as old, Client(gateway) as silent:
        old.ask("m", "hi")
        with grpc.insecure_channel(gateway.ready["grpc"], [("grpc.use_local_subchannel_pool", 1)]) as channel:
            gateway.signal(signal.SIGSTOP)
            assert eventually(lambda: suspended(gateway))
            old.send("m", "hi")
            new = [Client(gateway) for _ in range(200)]
            for client in new[:100]:
                client.send("m", "hi")
            models = channel.unary_unary(f"{PREFIX}ListModels", lambda it: it.SerializeToString(), bytes)
            called = models.future(pb.ListModelsRequest(), timeout=20)
            time.sleep(0.3)  # the call is on its way: nothing here tells when
            gateway.signal(signal.SIGINT)
            gateway.signal(signal.SIGCONT)
            for client in new[100:]:
                client.send("m", "hi")
            answers = [client.answer() for client in (old, *new)]
            assert called.result()
        assert {answer.headers["connection"] for answer in answers} == {"close"}
        assert silent.socket.recv(1) == b""
        for client in new:
            client.__exit__(None, None, None)
        assert gateway.wait() == 0


def test_a_client_that_keeps_its_connection_past_the_stream_may_ask_once_more(
    tmp_path: Path, engine: InferGateway
) -> None:
    """The head of its answer was out before anybody knew of the end."""
    with serve("-c", configured(tmp_path, engine)) as gateway, Client(gateway) as client:
        client.send("m", "hi", max_tokens=60, stream=True)
        head = client.reader.head()
        assert head is not None
        assert "connection" not in head[1]
        gateway.signal(signal.SIGINT)
        assert eventually(lambda: raw.refuses(gateway.address))
        client.rest()
        assert client.ask("m", "hi").headers["connection"] == "close"
        assert gateway.wait() == 0


@pytest.mark.parametrize("how", ["the time is over", "a second signal"])
def test_who_is_cut_is_told(tmp_path: Path, engine: InferGateway, how: str) -> None:
    file = configured(tmp_path, engine, drainTimeout="400ms" if how == "the time is over" else "1m")
    with serve("-c", file) as gateway, Client(gateway) as client:
        client.send("m", "hi", max_tokens=5000, stream=True)
        assert client.reader.head()
        gateway.signal(signal.SIGTERM)
        if how == "a second signal":
            assert eventually(lambda: readiness(gateway)[0] == 503)
            gateway.signal(signal.SIGTERM)
        rest = client.reader.rest()
        assert b"the gateway is stopping" in rest
        assert b"[DONE]" not in rest
        assert gateway.wait() == 0


def test_what_is_pipelined_behind_the_last_answer_does_not_cut_it(tmp_path: Path, engine: InferGateway) -> None:
    with serve("-c", configured(tmp_path, engine, settleTime="2s")) as gateway, Client(gateway) as client:
        client.ask("m", "hi")
        gateway.signal(signal.SIGTERM)
        assert eventually(lambda: readiness(gateway)[0] == 503)
        client.socket.sendall(raw.post(CHAT, BODY) * 3000)
        assert client.answer().headers["connection"] == "close"
        assert client.reader.rest() == b""  # an end, not a reset
        assert gateway.wait() == 0
