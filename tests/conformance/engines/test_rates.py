"""A provider's limits: what a minute allows, to the request and to the token."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from conformance.engines import Settings
from conformance.engines.engine import Engine
from conformance.engines.rates import PERIOD_S, Rates, elapse
from tests.conformance.engines.played import ask, play

CHAT = "/v1/chat/completions"
COSTS = st.tuples(st.floats(0, 40), st.integers(0, 30))


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4, **more}


@given(st.lists(COSTS, max_size=60))
def test_no_window_grants_more_than_its_limits(steps: list[tuple[float, int]]) -> None:
    rates, now = Rates({"requests": 5, "tokens": 60}), 0.0
    granted: list[tuple[float, int]] = []
    ends = 0.0
    for pause, tokens in steps:
        now += pause
        window = granted if now < ends else []
        spent, count = sum(cost for _, cost in window), len(window)
        refused = rates.take({"requests": 1, "tokens": tokens}, now)
        assert refused == ("requests" if count == 5 else "tokens" if spent + tokens > 60 else None)
        if refused is None:
            if now >= ends:
                granted, ends = [], now + PERIOD_S
            granted.append((now, tokens))
        assert rates.remaining("requests", now) == 5 - (len(granted) if now < ends else 0)
        assert rates.reset(now) == pytest.approx(max(0.0, ends - now))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.02, "20ms"), (0.0201, "21ms"), (1.5, "1.5s"), (59.9995, "1m0s"), (60, "1m0s"), (361.5, "6m1.5s")],
)
def test_durations_as_go_writes_them(seconds: float, text: str) -> None:
    assert elapse(seconds) == text


def test_openai_counts_down_and_refuses() -> None:
    async def script(engine: Engine) -> None:
        first = await ask(engine, CHAT, chat())
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-reset-requests"] == "1m0s"
        await trio.sleep(10.5)
        assert (await ask(engine, CHAT, chat(stream=True))).headers["x-ratelimit-reset-requests"] == "49.5s"
        refused = await ask(engine, CHAT, chat())
        assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.json["error"]["type"] == "requests"
        assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("50", "49500")
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await ask(engine, "/sim/state")).json["rate_limits"]["requests"] == {"limit": 2, "remaining": 0}
        await trio.sleep(49.5)
        assert (await ask(engine, CHAT, chat())).headers["x-ratelimit-remaining-requests"] == "1"

    play("openai", Settings(models=("m",), rate_limit_requests=2), script)


def test_tokens_are_counted_too() -> None:
    async def script(engine: Engine) -> None:
        usage = (answer := await ask(engine, CHAT, chat())).json["usage"]["total_tokens"]
        assert answer.headers["x-ratelimit-remaining-tokens"] == str(100 - usage)
        embedded = await ask(engine, "/v1/embeddings", {"model": "m", "input": "abcd"})
        assert embedded.headers["x-ratelimit-remaining-tokens"] == str(99 - usage)
        refused = await ask(engine, CHAT, chat(max_tokens=99))
        assert (refused.status, refused.json["error"]["type"]) == (429, "tokens")
        assert (await ask(engine, "/sim/state")).json["refused"] == 0

    play("openai", Settings(models=("m",), rate_limit_tokens=100), script)


def test_what_is_malformed_costs_nothing() -> None:
    async def script(engine: Engine) -> None:
        assert (await ask(engine, CHAT, chat(temperature=9))).status == 400
        assert (await ask(engine, CHAT, chat())).status == 200

    play("openai", Settings(models=("m",), rate_limit_requests=1), script)


def test_deepseek_says_no_more_than_that_it_is_too_much() -> None:
    async def script(engine: Engine) -> None:
        assert (await ask(engine, CHAT, chat())).status == 200
        refused = await ask(engine, CHAT, chat())
        assert refused.status == 429
        assert not [name for name in refused.headers if "ratelimit" in name or name.startswith("retry")]

    play("deepseek", Settings(models=("m",), rate_limit_requests=1), script)
