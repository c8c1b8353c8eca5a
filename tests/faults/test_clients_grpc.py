"""The same over gRPC, where one connection has many calls."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import h2.connection
import h2.settings
import pytest
from h2.errors import ErrorCodes

from gateway.wire.grpc import framed
from protocols.grpc.generated.upb import inference as pb
from tests.faults.peers import deafen, needs_filters, reset
from tests.faults.stage import CALM, held, unharmed
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import pool, settings, state, written

CALLS = 100
NOTICED_S = 3.0
HEAD = {":method": "POST", ":scheme": "http", ":authority": "it", ":path": "/inference.v1.InferenceService/"}


class Stage:
    def __init__(self, gateway: InferGateway, slow: InferGateway) -> None:
        self.gateway = gateway
        self.slow = slow
        host, _, port = gateway.ready["grpc"].rpartition(":")
        self.address = host, int(port)

    def connected(self, count: int, model: str = "slow", *, window: int | None = None, **more: Any) -> socket.socket:
        """A connection with so many streamed calls, of which nothing is read."""
        connection = raw.connect(self.address)
        client = h2.connection.H2Connection()
        if window is not None:
            client.local_settings[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE] = window
        client.initiate_connection()
        fields = {**HEAD, ":path": HEAD[":path"] + "StreamChatCompletion", "content-type": "application/grpc"}
        asked: Any = pb.CreateChatCompletionRequest(
            model=model, messages=[pb.ChatMessage(role="user", text="hi")], **{"max_tokens": 500, **more}
        )
        message = framed(pb.StreamChatCompletionRequest(request=asked).SerializeToString())
        for number in range(count):
            client.send_headers(2 * number + 1, [*fields.items(), ("te", "trailers")])
            client.send_data(2 * number + 1, message, end_stream=True)
        connection.sendall(client.data_to_send())
        return connection

    def working(self, count: int) -> bool:
        return eventually(lambda: state(self.slow)["running"] + state(self.slow)["waiting"] == count)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    calm, slow = simulate("vllm", "m"), simulate("vllm", "m", "--ttft", "0.1", "--itl", "0.1")
    with together(calm, slow):
        pools = pool(CALM, [calm]), pool("slow", [slow])
        config = written(tmp_path_factory.mktemp("grpc"), *pools, settings(timeouts={"clientWrite": "1s"}))
        with serve("-c", config) as gateway:
            yield Stage(gateway, slow)


@pytest.mark.parametrize("way", ["close", "reset", "half-close"])
def test_a_connection_goes_with_all_its_calls(stage: Stage, way: str) -> None:
    with unharmed(stage.gateway, within_s=NOTICED_S), stage.connected(CALLS) as connection:
        assert stage.working(CALLS)
        if way == "half-close":
            connection.shutdown(socket.SHUT_WR)
        elif way == "reset":
            reset(connection)
        else:
            connection.close()
        assert stage.working(0)


@needs_filters
def test_who_vanishes_is_noticed_with_all_its_calls(stage: Stage) -> None:
    with ExitStack() as stack, unharmed(stage.gateway):
        deafen(stack.enter_context(stage.connected(CALLS)))
        deafen(stack.enter_context(stage.connected(0)))
        assert eventually(lambda: not held(stage.gateway)["connections"]["grpc"], within_s=10)
        assert stage.working(0)


def test_who_gives_no_window_is_cut_call_by_call(stage: Stage) -> None:
    """Its connection is well: it may have calls that are read."""
    with unharmed(stage.gateway), stage.connected(CALLS, window=0):
        assert stage.working(CALLS)
        assert stage.working(0)
        assert held(stage.gateway)["connections"]["grpc"] == 1


def test_a_storm_of_resets(stage: Stage) -> None:
    with unharmed(stage.gateway), raw.connect(stage.address) as connection:
        client = h2.connection.H2Connection()
        client.initiate_connection()
        fields = {**HEAD, ":path": HEAD[":path"] + "StreamChatCompletion", "content-type": "application/grpc"}
        for number in range(5000):
            client.send_headers(2 * number + 1, [*fields.items(), ("te", "trailers")])
            client.reset_stream(2 * number + 1)
        with suppress(OSError):  # it is sent away meanwhile
            connection.sendall(client.data_to_send())
        assert _goodbye(connection) == ErrorCodes.ENHANCE_YOUR_CALM
        assert eventually(lambda: not held(stage.gateway)["connections"]["grpc"])


def _goodbye(connection: socket.socket) -> int | None:
    """The code of the GOAWAY among the frames that have come, once the connection is over."""
    received = b""
    with suppress(OSError):
        while data := connection.recv(65536):
            received += data
    code = None
    while received:
        size, kind = int.from_bytes(received[:3]), received[3]
        if kind == 7:
            code = int.from_bytes(received[13:17])
        received = received[9 + size :]
    return code
