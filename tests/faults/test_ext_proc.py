"""Proxies that leave while they ask where a request is to go: in each phase, and all at once."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from protocols.extproc.messages import SERVICE
from tests.faults.stage import CALM, held, unharmed
from tests.process import InferGateway, eventually, serve, simulate
from tests.whole.fleet import CHAT, pool, settings, wait_scraped, written

proxy = pytest.importorskip("tests.protocols.extproc.proxy", reason="Envoy's messages are not there")
ASKED = json.dumps({"model": CALM, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}).encode()
SAID = [
    lambda: proxy.heads("request_headers", [(":method", "POST"), (":path", CHAT)]),
    lambda: proxy.body("request_body", ASKED[:20]),
    lambda: proxy.body("request_body", ASKED[20:], end=True),
    lambda: proxy.heads("response_headers", [(":status", "200"), ("content-type", "application/json")]),
    lambda: proxy.body("response_body", b'{"choices": ['),
]
CROWD = 100


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    with simulate("vllm", "m") as calm:
        config = written(tmp_path_factory.mktemp("proxies"), pool(CALM, [calm]), settings(fairness={"enabled": True}))
        with serve("--ext-proc", "127.0.0.1:0", "-c", config) as running:
            wait_scraped(running)
            yield running


def begun(channel: grpc.Channel, phase: int) -> tuple[Any, queue.Queue[Any]]:
    """A stream that has said so much, and stays open."""
    said: queue.Queue[Any] = queue.Queue()
    for make in SAID[:phase]:
        said.put(make())
    call = channel.stream_stream(
        f"/{SERVICE}/Process",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=lambda data: data,
    )(iter(said.get, None))
    return call, said


@pytest.mark.parametrize("phase", range(len(SAID) + 1))
def test_streams_that_go_in_each_phase(gateway: InferGateway, phase: int) -> None:
    """Ended, cancelled, or with their connection, of which each has many."""
    for leave in ("end", "cancel", "close"):
        with unharmed(gateway):
            channel = grpc.insecure_channel(gateway.ready["ext_proc"])
            streams = [begun(channel, phase) for _ in range(CROWD if leave == "close" else 5)]
            # a call counts once its model is known
            if phase >= 3:
                assert eventually(lambda: held(gateway)["placed"] >= len(streams)), (phase, leave)  # noqa: B023
            for call, said in streams:
                if leave == "end":
                    said.put(None)
                elif leave == "cancel":
                    call.cancel()
            if leave == "close":
                channel.close()
            for _, said in streams:
                said.put(None)
            channel.close()
