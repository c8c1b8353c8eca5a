"""What a server is, by what it answers."""

import json

import pytest
import trio

from conformance.engines import Settings, serve_engine
from conformance.suite.detect import detect, engine, listed
from conformance.suite.target import Setup
from conformance.suite.wire import Address


async def seen(
    kind: str, named: str = "auto", model: str = "", served: str = "org/one", key: str = "sk-1"
) -> tuple[Setup, str]:
    async with trio.open_nursery() as nursery:
        settings = Settings(models=(served,), api_key="sk-1")
        at = await nursery.start(serve_engine, kind, settings)
        found = await detect(Setup(Address(at.host, at.port), named, model=model, key=key))
        nursery.cancel_scope.cancel()
    return found


@pytest.mark.parametrize("kind", ["vllm", "sglang", "tgi", "openai", "deepseek"])
def test_simulated_engines_are_told_apart(kind: str) -> None:
    setup, odd = trio.run(seen, kind)
    assert (setup.engine, setup.model, odd) == (kind, "org/one", "")
    assert bool(setup.version) == (kind in ("vllm", "sglang", "tgi"))


def test_what_is_odd_is_said() -> None:
    assert "looks like vllm, not sglang" in trio.run(seen, "vllm", "sglang")[1]
    assert "does not list 'org/two'" in trio.run(seen, "vllm", "vllm", "org/two")[1]
    assert trio.run(seen, "vllm", "gateway")[1] == ""


@pytest.mark.parametrize(("model", "limit"), [("org/one", None), ("o-reasons", "max_completion_tokens")])
def test_how_a_model_calls_the_limit_is_learned(model: str, limit: str | None) -> None:
    setup, odd = trio.run(seen, "openai", "openai", "", model)
    assert (setup.extra.get("limit"), odd) == (limit, "")


@pytest.mark.parametrize(("key", "told"), [("", "demands a key: --api-key"), ("sk-2", "refuses the key")])
def test_a_server_that_wants_another_key_says_so(key: str, told: str) -> None:
    assert told in trio.run(seen, "vllm", "vllm", "", "org/one", key)[1]


def test_nothing_there() -> None:
    setup, odd = trio.run(detect, Setup(Address("127.0.0.1", 1), "auto"))
    assert (setup.engine, odd) == ("openai", "http://127.0.0.1:1 does not answer")


@pytest.mark.parametrize("said", [{"data": 5}, {"data": [None, {"id": 5}]}, [], None, {"data": {"a": 1}}])
def test_what_is_no_listing_lists_nothing(said: object) -> None:
    assert listed(said) == ()


def listing(owner: str, **more: object) -> dict[str, object]:
    return {"/v1/models": {"data": [{"id": "m", "owned_by": owner, **more}]}}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (listing("vllm") | {"/version": {"version": "0.33.0"}}, "vllm"),
        (listing("vllm"), "gateway"),
        (listing("sglang"), "gateway"),
        (listing("nvidia"), "trtllm"),
        (listing("google"), "gemini"),
        (listing("library") | {"/api/version": {"version": "0.33"}}, "ollama"),
        (listing("x", type="model"), "anthropic"),
        (listing("me"), "openai"),
        ({"/props": {"default_generation_settings": {}}}, "llamacpp"),
        ({}, ""),
        ({"/v1/models": []}, ""),
        ({"/v1/models": {"data": "no"}, "/version": [1], "/info": None}, ""),
    ],
)
def test_who_answers_so(found: dict[str, object], wanted: str) -> None:
    assert engine(json.loads(json.dumps(found))) == wanted
