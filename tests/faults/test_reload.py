"""The configuration is written again and again under load: no request fails."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.load import load
from tests.faults.stage import unharmed
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole.fleet import Client, pool, settings, written

TIMES = 24


@pytest.fixture(scope="module")
def engines() -> Iterator[list[InferGateway]]:
    engines = [simulate("vllm", "m", "--itl", "0.005") for _ in range(2)]
    with together(*engines):
        yield engines


def variant(number: int, engines: list[InferGateway]) -> list[str]:
    """All of them serve `m` and `calm`; the rest is another one each time."""
    first, second = engines
    calm = pool("calm", [second])
    limits = [{"users": ["nobody"], "requestsPerMinute": number + 1}]
    return [
        [pool("m", engines), calm],
        [pool("m", [first]), calm, pool(f"other-{number}", [second])],
        ["kind: ["],
        [pool("m", [second]), calm, settings(limits=limits)],
        [pool("m", engines[::-1]), calm, settings(fairness={"enabled": True}, retry={"attempts": 2})],
        [settings(streaming={"keepAlive": "1s"}), calm, pool("m", [second]), json.dumps({"kind": "ModelServer"})],
    ][number % 6]


def test_no_request_notices_that_the_file_changes(tmp_path: Path, engines: list[InferGateway]) -> None:
    file = written(tmp_path, *variant(0, engines))
    with serve("-c", file) as gateway, unharmed(gateway):
        with load(gateway) as clients:
            for number in range(TIMES):
                written(tmp_path, *variant(number, engines))
                before = gateway.stderr.count("reloaded")
                gateway.signal(signal.SIGHUP)
                assert eventually(lambda: gateway.stderr.count("reloaded") > before)  # noqa: B023
            assert gateway.stderr.count("not reloaded") >= TIMES // 3
            assert gateway.stderr.count("configuration reloaded") >= TIMES // 2
            assert clients.goes_on()
            written(tmp_path, *variant(0, engines))
        print(f"{sum(clients.answers.values())} answers")


def test_a_stream_finishes_at_an_endpoint_that_is_not_configured_any_more(
    tmp_path: Path, engines: list[InferGateway]
) -> None:
    first, second = engines
    file = written(tmp_path, pool("m", [first]), pool("calm", [second]))
    with serve("-c", file) as gateway, unharmed(gateway), Client(gateway) as client:
        client.send("m", "hi", max_tokens=300, stream=True)
        assert client.reader.head()
        assert client.reader.chunk()
        written(tmp_path, pool("other", [second]), pool("calm", [second]))
        gateway.signal(signal.SIGHUP)
        assert eventually(lambda: "configuration reloaded" in gateway.stderr)
        with Client(gateway) as other:
            other.ask("other", "hi")
        assert b"[DONE]" in client.rest()
