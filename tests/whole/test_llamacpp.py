"""A real engine behind the gateway, driven by the official SDK."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest
from openai import OpenAI

from tests.engines.llamacpp import LlamaCpp
from tests.process import InferGateway, eventually, serve
from tests.whole import raw

QUESTION = [{"role": "user", "content": "Tell me everything."}]
ON_AND_ON = {"ignore_eos": True}


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaCpp]:
    with LlamaCpp(slots=2) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: LlamaCpp) -> Iterator[InferGateway]:
    with serve("--backend", f"llamacpp={engine.url}") as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: InferGateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=0, timeout=30.0) as sdk:
        yield sdk


def test_its_model_is_discovered(client: OpenAI) -> None:
    assert [card.id for card in client.models.list()] == ["tiny"]


def test_an_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=16, extra_body=ON_AND_ON)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_a_stream(client: OpenAI) -> None:
    with client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        max_tokens=64,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=ON_AND_ON,
    ) as stream:
        chunks = list(stream)
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 32
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 64


def test_a_stream_equals_the_whole_answer_and_that_of_the_engine_itself(engine: LlamaCpp, client: OpenAI) -> None:
    settings = {"model": "tiny", "messages": QUESTION, "max_tokens": 48, "temperature": 0, "extra_body": ON_AND_ON}
    whole = client.chat.completions.create(**settings).choices[0].message.content
    with client.chat.completions.create(**settings, stream=True) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == whole
    with OpenAI(base_url=f"{engine.url}/v1", api_key="-") as direct:
        assert direct.chat.completions.create(**settings).choices[0].message.content == whole


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="Once", max_tokens=8, extra_body=ON_AND_ON)
    assert answer.choices[0].text


def test_its_refusal_is_told(client: OpenAI) -> None:
    """llama.cpp refuses a prompt beyond its context with 400."""
    long = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="tiny", messages=long)
    assert "context" in raised.value.message


def test_a_client_that_goes_away_frees_the_slot(engine: LlamaCpp, gateway: InferGateway) -> None:
    """The whole stream would take many seconds. (Not streamed, llama.cpp generates to the end whoever listens.)"""
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 8000, "stream": True, **ON_AND_ON}
    with raw.connect(gateway.address) as connection:
        connection.sendall(raw.post("/v1/chat/completions", body))
        assert eventually(lambda: engine.busy_slots() == 1)
    assert eventually(lambda: engine.busy_slots() == 0, within_s=1.0)


def test_a_response_that_the_sdk_puts_together(client: OpenAI) -> None:
    """Its own events have neither numbers nor places."""
    with client.responses.stream(model="tiny", input="Tell me everything.", max_output_tokens=8) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == final.output_text
    assert final.usage is not None
    assert final.usage.output_tokens > 0


def test_tokens_there_and_back(gateway: InferGateway) -> None:
    asked = {"model": "tiny", "prompt": "Hello there.", "add_special_tokens": False}
    told = httpx.post(f"{gateway.url}/tokenize", json=asked).json()
    assert told["count"] == len(told["tokens"]) > 0
    back = httpx.post(f"{gateway.url}/detokenize", json={"model": "tiny", "tokens": told["tokens"]}).json()
    assert back["prompt"] == asked["prompt"]


def test_connections_it_closes_unannounced_are_expected(client: OpenAI) -> None:
    """As it does at the end of each stream."""
    for _ in range(50):
        with client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=2, stream=True) as stream:
            assert list(stream)
        assert client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=2).choices


@pytest.mark.parametrize(
    "members",
    [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
        {"messages": QUESTION, "tools": [{"type": "function"}]},
    ],
)
def test_requests_it_fails_at_do_not_set_it_aside(
    gateway: InferGateway, client: OpenAI, members: dict[str, object]
) -> None:
    """It says 500 of them."""
    for _ in range(6):
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json={"model": "tiny", **members})
        assert answer.status_code == 400
    assert client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=2).choices
