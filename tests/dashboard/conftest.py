"""What the tests of the page share: a browser, and a gateway with tenants before three engines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.dashboard.browser import CHROMIUM, Browser
from tests.process import InferGateway, serve, simulate, together
from tests.whole.fleet import pool, settings, written

MARKUP = '<img src=x onerror="window.struck=1"><script>window.struck=1</script>'
TURNED = "safe\u202etxt.exe\u2066\u200b"
KEYS = {"key-alice-0123456789": ("alice", "acme"), "key-markup-0123456789": (MARKUP, f"</b>{TURNED}")}


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not on PATH")
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    """Two engines in the pool `chat`, one whose model is called MARKUP; callers have keys, fairness is on."""
    engines = [simulate("vllm", "m", "--itl", "0.002"), simulate("vllm", "m", "--itl", "0.002")]
    hostile = simulate("vllm", MARKUP)
    with together(*engines, hostile):
        keys = [
            {"name": f"key-{at}", "keySha256": hashlib.sha256(key.encode()).hexdigest(), "user": user, "tenant": tenant}
            for at, (key, (user, tenant)) in enumerate(KEYS.items())
        ]
        directory = tmp_path_factory.mktemp("house")
        configured = settings(auth={"apiKeys": keys, "required": True}, fairness={"enabled": True})
        file = written(directory, pool("chat", engines), configured)
        with serve("-c", file, "--backend", f"vllm={hostile.url}") as gateway:
            yield gateway
