"""Engines that die, stop answering or break off: what a client sees of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.process import serve, simulate, together
from tests.whole import raw
from tests.whole.test_configuration import ROUTE, SERVER

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
IMPATIENT = """
apiVersion: infer-gateway.dev/v1alpha1
kind: GatewayConfiguration
timeouts: {firstToken: 500ms, betweenTokens: 500ms}
---
"""


def impatient(directory: Path, url: str) -> tuple[str, str]:
    """Arguments of a gateway that gives the engine at ``url`` half a second."""
    file = directory / "gateway.yaml"
    file.write_text(IMPATIENT + SERVER.format(name="s", url=url) + ROUTE.format(model="m", server="s"))
    return "-c", str(file)


def broken_off(reader: raw.Reader) -> dict[str, object]:
    """The rest of a stream, which has to end with an error event and nothing after it; the error is returned."""
    received = b""
    while chunk := reader.chunk():
        received += chunk
    events = raw.events(received)
    assert "[DONE]" not in events
    error = json.loads(events[-1])["error"]
    assert error.keys() >= {"message", "type", "param", "code"}
    assert reader.rest() == b""
    return error


def test_one_of_two_killed_between_requests_is_not_noticed() -> None:
    first, second = simulate("vllm", "m"), simulate("vllm", "m")
    with together(first, second), serve("--backend", f"vllm={first.url}", "--backend", f"vllm={second.url}") as gateway:
        for number in range(40):
            if number == 10:
                second.kill()
            answer = raw.exchange(gateway.address, raw.post("/v1/chat/completions", {**ASK, "stream": number % 2 == 0}))
            assert answer is not None
            assert answer.status == 200, answer.body
            assert answer.whole


def test_a_kept_connection_to_a_killed_engine_is_not_noticed() -> None:
    """The gateway holds idle connections to it when it dies."""
    first, second = simulate("sglang", "m"), simulate("sglang", "m")
    with (
        together(first, second),
        serve("--backend", f"sglang={first.url}", "--backend", f"sglang={second.url}") as gateway,
        raw.connect(gateway.address) as connection,
        raw.Reader(connection) as reader,
    ):
        for number in range(30):
            if number == 15:
                first.kill()
            connection.sendall(raw.post("/v1/chat/completions", ASK))
            answer = reader.answer()
            assert answer is not None
            assert answer.status == 200, answer.body


def test_killed_mid_stream_ends_in_an_error_and_never_in_done() -> None:
    first, second = (simulate("vllm", "m", "--itl", "0.02") for _ in range(2))
    with (
        together(first, second),
        serve("--backend", f"vllm={first.url}", "--backend", f"vllm={second.url}") as gateway,
        raw.connect(gateway.address) as connection,
        raw.Reader(connection) as reader,
    ):
        connection.sendall(raw.post("/v1/chat/completions", {**ASK, "stream": True, "max_tokens": 1000}))
        assert reader.head() is not None
        seen = b""
        while seen.count(b"data:") < 3:
            seen += reader.chunk() or pytest.fail("the stream ended early")
        first.kill()
        second.kill()
        assert broken_off(reader)["code"] == "upstream_error"


def test_cut_by_the_engine_mid_stream() -> None:
    with (
        simulate("vllm", "m", "--fail", "cut:5") as engine,
        serve("--backend", f"vllm={engine.url}") as gateway,
        raw.connect(gateway.address) as connection,
        raw.Reader(connection) as reader,
    ):
        connection.sendall(raw.post("/v1/chat/completions", {**ASK, "stream": True, "max_tokens": 100}))
        assert reader.head() is not None
        assert broken_off(reader)["code"] == "upstream_error"


def test_an_engine_that_goes_mute_mid_stream_is_cut(tmp_path: Path) -> None:
    with (
        simulate("vllm", "m", "--itl", "0.02") as engine,
        serve(*impatient(tmp_path, engine.url)) as gateway,
        raw.connect(gateway.address) as connection,
        raw.Reader(connection) as reader,
    ):
        connection.sendall(raw.post("/v1/chat/completions", {**ASK, "stream": True, "max_tokens": 1000}))
        assert reader.head() is not None
        assert reader.chunk()
        engine.signal(signal.SIGSTOP)
        try:
            assert broken_off(reader)["code"] == "upstream_timeout"
        finally:
            engine.signal(signal.SIGCONT)


def test_an_engine_that_never_begins_is_a_timeout(tmp_path: Path) -> None:
    with simulate("vllm", "m", "--fail", "hang") as engine, serve(*impatient(tmp_path, engine.url)) as gateway:
        answer = raw.exchange(gateway.address, raw.post("/v1/chat/completions", ASK))
        assert answer is not None
        assert answer.status == 504
        assert json.loads(answer.body)["error"]["code"] == "upstream_timeout"


@pytest.mark.parametrize("streamed", [True, False])
def test_the_first_failure_is_hidden_by_the_second_engine(streamed: bool) -> None:
    """Each request that meets the failing engine first is served by the other one."""
    failing, whole = simulate("vllm", "m", "--fail", "503@every=3"), simulate("vllm", "m")
    with (
        together(failing, whole),
        serve("--backend", f"vllm={failing.url}", "--backend", f"vllm={whole.url}") as gateway,
    ):
        for _ in range(20):
            answer = raw.exchange(gateway.address, raw.post("/v1/chat/completions", {**ASK, "stream": streamed}))
            assert answer is not None
            assert answer.status == 200, answer.body
