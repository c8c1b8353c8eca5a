"""The official OpenAI SDK over TCP: what each engine's users do with it every day."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionToolParam

from tests.process import InferGateway
from tests.whole.conftest import ENGINES

QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FORCED = {"type": "function", "function": {"name": "get_weather"}}


def test_chat(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=12)
    choice = answer.choices[0]
    assert (answer.object, answer.model, choice.message.role) == ("chat.completion", model, "assistant")
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_chat_with_usage(client: OpenAI, model: str) -> None:
    options = {"include_usage": True}
    with client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=12, stream=True, stream_options=options
    ) as stream:
        chunks = list(stream)
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert 0 < chunks[-1].usage.completion_tokens <= 12


def test_a_stream_has_no_usage_unasked(client: OpenAI, model: str) -> None:
    with client.chat.completions.create(model=model, messages=QUESTION, max_tokens=4, stream=True) as stream:
        chunks = list(stream)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_greedy_answers_are_the_same_streamed_and_whole(client: OpenAI, model: str) -> None:
    settings = {"model": model, "messages": QUESTION, "max_tokens": 16, "temperature": 0, "seed": 7}
    whole = client.chat.completions.create(**settings).choices[0].message.content
    with client.chat.completions.create(**settings, stream=True) as stream:
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert streamed == whole


def test_completions(client: OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=8)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    with client.completions.create(model=model, prompt="Once upon a time", max_tokens=8, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


@pytest.mark.parametrize("engine", ["vllm", "openai"])
def test_embeddings(client: OpenAI, engine: str) -> None:
    answer = client.embeddings.create(model=f"demo-{engine}", input=["one", "two words"])
    assert [item.index for item in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 0
    assert answer.usage.prompt_tokens > 0


def test_an_operation_that_the_engine_lacks_is_refused(client: OpenAI) -> None:
    """TGI has no embeddings at all; SGLang has them only for a model that was started for them."""
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="demo-tgi", input="one")
    with pytest.raises(openai.BadRequestError, match="embedding"):
        client.embeddings.create(model="demo-sglang", input="one")


def test_models(client: OpenAI) -> None:
    listed = {card.id: card for card in client.models.list()}
    assert listed.keys() >= {f"demo-{engine}" for engine in ENGINES}
    assert all(card.object == "model" and card.created >= 0 and card.owned_by for card in listed.values())


def test_one_model(client: OpenAI, model: str) -> None:
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("no/such-model")
    assert raised.value.code == "model_not_found"


def test_a_forced_tool_call(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=QUESTION, tools=[WEATHER], tool_choice=FORCED)
    [call] = answer.choices[0].message.tool_calls or []
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert call.id
    assert "city" in json.loads(call.function.arguments)


def test_a_streamed_tool_call(client: OpenAI, model: str) -> None:
    name, arguments = "", ""
    with client.chat.completions.create(
        model=model, messages=QUESTION, tools=[WEATHER], tool_choice=FORCED, stream=True
    ) as stream:
        for chunk in stream:
            for part in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
                assert part.function is not None
                name += part.function.name or ""
                arguments += part.function.arguments or ""
    assert name == "get_weather"
    assert "city" in json.loads(arguments)


def test_many_streams_at_once_by_the_async_client(gateway: InferGateway) -> None:
    async def one(sdk: AsyncOpenAI, number: int) -> str:
        text = ""
        model = f"demo-{ENGINES[number % len(ENGINES)]}"
        stream = await sdk.chat.completions.create(model=model, messages=QUESTION, max_tokens=20, stream=True)
        async with stream:
            async for chunk in stream:
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        return text

    async def main() -> list[str]:
        async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as sdk:
            return await asyncio.gather(*(one(sdk, number) for number in range(40)))

    assert all(asyncio.run(main()))


def test_the_request_id_is_kept_or_made(client: OpenAI, model: str) -> None:
    create = client.chat.completions.with_raw_response.create
    mine = create(model=model, messages=QUESTION, max_tokens=1, extra_headers={"x-request-id": "mine-1"})
    assert mine.headers["x-request-id"] == "mine-1"
    made = [create(model=model, messages=QUESTION, max_tokens=1).headers["x-request-id"] for _ in range(2)]
    assert all(made)
    assert made[0] != made[1]


def test_unicode_goes_through_whole(client: OpenAI, model: str) -> None:
    message = [{"role": "user", "content": 'Grüße, 世界 🌍 \u2028 "quoted" \\ \x7f'}]
    assert client.chat.completions.create(model=model, messages=message, max_tokens=4).choices[0].message.content
