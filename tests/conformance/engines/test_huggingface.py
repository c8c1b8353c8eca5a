"""The simulated router: whose answer it is, and what each provider does in its own way."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.engines import Settings
from conformance.engines.engine import Engine
from tests.conformance.engines.played import JSON, Played, ask, play

CHAT = "/v1/chat/completions"
MODELS = ("org/Name", "org/Name-reason")


def chat(model: str = "org/Name", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 20, **more}


def one(body: Any, **settings: Any) -> Played:
    found: list[Played] = []

    async def script(engine: Engine) -> None:
        found.append(await ask(engine, CHAT, body))

    play("huggingface", Settings(models=MODELS, **settings), script)
    return found[0]


@pytest.mark.parametrize(
    ("suffix", "provider", "own"),
    [
        ("", "groq", "name"),
        (":fastest", "groq", "name"),
        (":cheapest", "novita", "org/Name"),
        (":novita", "novita", "org/Name"),
        (":together", "together", "org/Name-Turbo"),
        (":preferred", "together", "org/Name-Turbo"),
    ],
)
def test_providers_have_names_of_their_own(suffix: str, provider: str, own: str) -> None:
    for stream in (False, True):
        answer = one(chat("org/Name" + suffix, stream=stream))
        assert answer.headers["x-inference-provider"] == provider
        assert (answer.events[0] if stream else answer.json)["model"] == own


@pytest.mark.parametrize(("provider", "field"), [("groq", "reasoning"), ("novita", "reasoning_content")])
def test_where_thoughts_are(provider: str, field: str) -> None:
    message = one(chat(f"org/Name-reason:{provider}")).json["choices"][0]["message"]
    assert set(message) == {"role", "content", field}


def test_where_usage_is() -> None:
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    *_, last, done = one(chat("org/Name:novita", **asked)).events
    assert (last["choices"], done) == ([], "[DONE]")
    *_, last, _ = one(chat("org/Name:together", **asked)).events
    assert (last["choices"][0]["finish_reason"], last["usage"]["completion_tokens"]) == ("length", 20)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (chat("org/Other"), 400),
        (chat("org/Name:nobody"), 400),
        (chat(messages=[]), 422),
        (chat(temperature=3), 400),
        (chat(no_such_field=1), 200),
        (b"{", 400),
    ],
)
def test_errors_are_a_text(body: Any, status: int) -> None:
    answer = one(body)
    assert answer.status == status
    if status != 200:
        assert isinstance(answer.json["error"], str)


def test_credits_limits_and_keys() -> None:
    broke = one(chat(), fail=("402",))
    assert (broke.status, "monthly included credits" in broke.json["error"]) == (402, True)

    async def script(engine: Engine) -> None:
        assert (await ask(engine, CHAT, chat())).json == {"error": "Invalid username or password."}
        key = (*JSON, (b"authorization", b"Bearer k"))
        assert (await ask(engine, CHAT, chat(), headers=key)).status == 200
        assert (await ask(engine, CHAT, chat(), headers=key)).status == 429
        card = (await ask(engine, "/v1/models")).json["data"][0]
        assert (card["id"], card["owned_by"]) == ("org/Name", "org")
        assert [each["provider"] for each in card["providers"]] == ["groq", "novita", "together"]

    play("huggingface", Settings(models=MODELS, api_key="k", rate_limit_requests=1), script)


def test_responses() -> None:
    async def script(engine: Engine) -> None:
        answer = await ask(engine, "/v1/responses", {"model": "org/Name:novita", "input": "Hi"})
        assert (answer.json["object"], answer.json["model"]) == ("response", "org/Name")
        assert (await ask(engine, "/v1/models/org/Name")).status == 200

    play("huggingface", Settings(models=MODELS), script)
