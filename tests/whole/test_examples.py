"""The example of tenants, started as its reader would: who is let in, what it says of limits, when it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.process import ROOT, InferGateway, serve, simulate, together
from tests.whole.fleet import admin, fetch

ASK = {"model": "llama", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
ANN, ZOE, EVE = (f"example-key-of-{name}" for name in ("ann", "zoe", "eve"))
PER_MINUTE = 20
"""Of each user of the free tier, zoe's."""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[InferGateway]:
    """As in the example but for the ports, its engines' included."""
    text = (ROOT / "examples" / "tenants.yaml").read_text()
    shutil.copy(ROOT / "examples" / "tenants.keys", tmp_path)
    engines = {port: simulate("vllm", "llama", "--ttft", "0.001", "--itl", "0.0001") for port in (8001, 8002)}
    with together(*engines.values()):
        for port, engine in engines.items():
            assert text.count(f"http://127.0.0.1:{port}\n") == 1
            text = text.replace(f"http://127.0.0.1:{port}\n", f"{engine.url}\n")
        (tmp_path / "tenants.yaml").write_text(text)
        with serve("-c", str(tmp_path / "tenants.yaml")) as running:
            yield running


def ask(gateway: InferGateway, key: str = "") -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=ASK, headers=headers, timeout=30.0)


def test_tenants(gateway: InferGateway) -> None:
    for stranger in (ask(gateway), ask(gateway, EVE)):
        assert (stranger.status_code, stranger.json()["error"]["code"]) == (401, "invalid_api_key")

    answers = [ask(gateway, ZOE)]
    fields = answers[0].headers
    assert answers[0].json()["usage"]["completion_tokens"] == 5
    assert (fields["x-ratelimit-limit-requests"], fields["x-ratelimit-remaining-requests"]) == ("20", "19")
    assert (fields["x-ratelimit-limit-tokens"], fields["x-ratelimit-remaining-tokens"]) == ("8000", "7995")

    while answers[-1].status_code == 200 and len(answers) < 10 * PER_MINUTE:
        answers.append(ask(gateway, ZOE))
    refused = answers.pop()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert len(answers) >= PER_MINUTE
    assert "requests per minute of tier 'free' and user 'zoe': 20." in refused.json()["error"]["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60 / PER_MINUTE
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"

    other = ask(gateway, ANN)
    assert other.status_code == 200
    assert "x-ratelimit-limit-requests" not in other.headers
    (pool,) = fetch(admin(gateway), "/api/flows")
    assert {(flow["tenant"], flow["caller"]) for flow in pool["flows"]} == {("zoo", "zoe"), ("acme", "ann")}
