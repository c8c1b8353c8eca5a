"""The exchanges by which endpoint pickers of the Gateway API are held to each other, message by message.

Which endpoint is best is the scheduler's affair and scripted here; expected is what an exchange does to a request: the
header fields and the body that reach the endpoint, the dynamic metadata, or the answer in place of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from gateway.errors import NoEndpoints
from gateway.types import Usage
from protocols.extproc.messages import Mode
from protocols.extproc.serve import ExternalProcessor
from protocols.extproc.session import Settings
from tests.protocols.extproc.fakes import FakeCore, played
from tests.protocols.extproc.proxy import DESTINATION, Proxy, body, heads, hint, trailers

BEST = "192.168.1.2:8000"
OBJECTIVE, REWRITE = "x-gateway-inference-objective", "x-gateway-model-name-rewrite"


def headers(objective: str = "my-model", target: str = "my-model-12345", **options: Any) -> Any:
    """No path; values in ``value`` rather than ``raw_value``."""
    fields = [("hi", "mom"), ("x-request-id", "test-request-id"), (OBJECTIVE, objective)]
    return heads("request_headers", [*fields, *([(REWRITE, target)] if target else [])], raw=False, **options)


def prompt(model: str, text: str = "test1") -> bytes:
    return json.dumps(
        {"max_tokens": 100, "model": model, "prompt": text, "temperature": 0}, separators=(",", ":")
    ).encode()


def play(core: FakeCore, *said: Any, settings: Settings | None = None) -> Proxy:
    proxy = Proxy()

    async def main() -> None:
        await played(ExternalProcessor(core, settings=settings), proxy, *said)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return proxy


def assert_routed(proxy: Proxy, endpoint: str, sent: bytes) -> None:
    assert proxy.order == ["request_headers", "request_body"]
    assert sorted(proxy.headers) == [
        ("content-length", str(len(sent)).encode()),
        ("hi", b"mom"),
        (DESTINATION, endpoint.encode()),
        ("x-request-id", b"test-request-id"),
    ]
    assert proxy.metadata == {"envoy.lb": {DESTINATION: endpoint}}
    assert proxy.sent == sent
    assert proxy.request_over


def assert_refused(proxy: Proxy, status: int, text: str, dropped: str = "") -> None:
    assert proxy.order == ["immediate_response"]
    assert proxy.immediate.status.code == status
    assert proxy.immediate.body.decode().startswith(text)
    found = {option.header.key: option.header.raw_value.decode() for option in proxy.immediate.headers.set_headers}
    assert found.get("x-llm-d-request-dropped-reason", "") == dropped


@pytest.mark.parametrize(
    ("objective", "named", "target"),
    [
        ("my-model", "my-model", "my-model-12345"),  # lower queue and KV usage
        ("sql-lora", "sql-lora", "sql-lora-1fdg2"),  # an active LoRA
        ("sql-lora-sheddable", "sql-lora-sheddable", "sql-lora-1fdg3"),  # not shed by default
        ("direct-model", "direct-model", "direct-model"),  # no objective of its own
    ],
)
def test_route(objective: str, named: str, target: str) -> None:
    core = FakeCore(BEST)
    proxy = play(core, headers(objective, target), body("request_body", prompt(named), True))
    assert_routed(proxy, BEST, prompt(target))
    assert core.picks[0].request.model == target
    assert (OBJECTIVE.encode(), objective.encode()) in core.picks[0].request.headers


def test_body_split_across_chunks() -> None:
    said = prompt("my-model")
    pieces = [body("request_body", said[:20]), body("request_body", said[20:], True)]
    assert_routed(play(FakeCore(BEST), headers(), *pieces), BEST, prompt("my-model-12345"))


def test_rewritten_by_a_rule() -> None:
    core = FakeCore(BEST, models={"model-to-be-rewritten": "rewritten-model"})
    proxy = play(core, headers(target=""), body("request_body", prompt("model-to-be-rewritten"), True))
    assert_routed(proxy, BEST, prompt("rewritten-model"))


def test_body_that_nobody_parses_passes_as_it_is() -> None:
    path = (":path", "/v1/audio/transcriptions")
    first = heads("request_headers", [path, ("hi", "mom"), ("x-request-id", "test-request-id")])
    proxy = play(FakeCore(BEST), first, body("request_body", b"\x00raw\xff", True))
    proxy.headers.remove((":path", b"/v1/audio/transcriptions"))
    assert_routed(proxy, BEST, b"\x00raw\xff")


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"no healthy upstream", "inference error: BadRequest - error unmarshaling request bodyMap: "),
        (b'{"prompt":"test"}', "inference error: BadRequest - model not found in request body"),
    ],
)
def test_bad_requests(said: bytes, text: str) -> None:
    assert_refused(play(FakeCore(BEST), headers(target=""), body("request_body", said, True)), 400, text)


def test_no_backend_at_all() -> None:
    proxy = play(FakeCore(error=NoEndpoints("none")), heads("request_headers", [("hi", "mom")], end=True))
    text = "inference error: Internal - no pods available in datastore"
    assert_refused(proxy, 500, text, "rejected-no-endpoints")


@pytest.mark.parametrize("mode", [Mode.STREAMED, Mode.NONE])
def test_no_backend_for_a_body_that_is_not_shown(mode: Mode) -> None:
    first = heads("request_headers", [("hi", "mom")], modes=(mode, mode))
    proxy = play(FakeCore(error=NoEndpoints("none")), first)
    text = "inference error: ServiceUnavailable - failed to find endpoint candidates"
    assert_refused(proxy, 503, text, "rejected-no-endpoints")


@pytest.mark.parametrize("subset", [["192.168.1.1:8000", "192.168.1.2:8000", "192.168.1.3:8000"], ["192.168.1.3:8000"]])
def test_subsets(subset: Sequence[str]) -> None:
    core = FakeCore(subset[-1])
    last = hint(body("request_body", prompt("my-model"), True), subset)
    assert_routed(play(core, headers(subset=subset), last), subset[-1], prompt("my-model-12345"))
    assert core.picks[0].request.only == tuple(subset)


def test_subset_without_anybody_in_it() -> None:
    core = FakeCore(error=NoEndpoints("nobody of the subset"))
    proxy = play(core, headers(subset=["192.168.1.99:8000"]), body("request_body", prompt("my-model"), True))
    text = "inference error: ServiceUnavailable - failed to find endpoint candidates for serving the request"
    assert_refused(proxy, 503, text, "rejected-no-endpoints")


def test_simple_get() -> None:
    fields = [("hi", "mom"), ("x-request-id", "test-request-id")]
    proxy = play(FakeCore(BEST), heads("request_headers", fields, end=True))
    assert proxy.order == ["request_headers"]
    assert sorted(proxy.headers) == [
        ("hi", b"mom"),
        (DESTINATION, BEST.encode()),
        ("x-request-id", b"test-request-id"),
    ]


JSON = [(":status", "200"), ("content-type", "application/json")]


@pytest.mark.parametrize("parts", [[b'{"max_tokens":100,', b'"model":"x"}'], [b"no ", b"json"], [b"{}", b""]])
def test_response_alone_comes_out_whole(parts: list[bytes]) -> None:
    proxy = Proxy()
    proxy.order.append("request_headers")
    said = [heads("response_headers", JSON), *(body("response_body", part) for part in parts)]
    said[-1].response_body.end_of_stream = True
    trio.run(lambda: played(ExternalProcessor(FakeCore()), proxy, *said))
    assert proxy.received == b"".join(parts)
    assert proxy.response_over
    assert ("content-type", b"application/json") in proxy.response_headers


def test_streamed_response_is_counted_and_passes_piece_by_piece() -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":10}}\n\ndata: [DONE]\n\n'
    core = FakeCore(BEST)
    asked = prompt("my-model")[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'
    proxy = play(
        core,
        headers(),
        body("request_body", asked, True),
        heads("response_headers", [(":status", "200"), ("content-type", "text/event-stream")]),
        body("response_body", b'data: {"choices":[{"text":"a","index":0}]}\n\n'),
        body("response_body", usage),
        body("response_body", b"", True),
    )
    assert proxy.order[2:] == ["response_headers", "response_body", "response_body", "response_body"]
    assert proxy.received.endswith(usage)
    assert core.picks[0].usage == Usage(prompt=7, completion=10)


def test_scores_of_all_candidates() -> None:
    core = FakeCore(BEST)
    core.scores = {"192.168.1.1:8000": 0.25, BEST: 1.0}
    said = headers(), body("request_body", prompt("my-model"), True)
    told = play(core, *said, settings=Settings(scores=True)).metadata["envoy.lb"]
    assert told == {DESTINATION: BEST, "x-gateway-destination-endpoint-scores": core.scores}


def test_grpc_passes_as_it_is_and_ends_with_trailers() -> None:
    frame = b"\x00\x00\x00\x00\x02\x0a\x00"
    fields = [(":path", "/vllm.grpc.engine.VllmEngine/Generate"), ("content-type", "application/grpc")]
    core = FakeCore(BEST)
    proxy = play(
        core,
        heads("request_headers", fields),
        body("request_body", frame[:3]),
        body("request_body", frame[3:], True),
        heads("response_headers", [(":status", "200"), ("content-type", "application/grpc")]),
        body("response_body", frame),
        trailers("response_trailers"),
    )
    assert (proxy.sent, proxy.received) == (frame, frame)
    assert (":path", b"/vllm.grpc.engine.VllmEngine/Generate") in proxy.headers
    assert proxy.order[-2:] == ["response_body", "response_trailers"]
    assert core.picks[0].finished == 1
