"""Anthropic's own SDK against the gateway's `/v1/messages`: what it makes of answers, streams and failures.

Some engines speak that themselves; before the others it is put into chats, and their answers into messages.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message, TextBlock, ToolParam, ToolUseBlock
from pydantic import BaseModel

from tests.process import InferGateway
from tests.whole.conftest import ENGINES, PROVIDERS
from tests.whole.troubled import KEY, NARROW_KEY, SAID, Troubled

SPEAKING = [engine for engine in (*ENGINES, *PROVIDERS) if engine != "deepseek"]
"""Those with messages of their own, or none; a simulated DeepSeek lacks the ones that the real one has."""
NAMING_STOPS = ("vllm", "sglang", "llamacpp", "trtllm", "anthropic")
"""Those that tell which stop sequence it was."""
COUNTING = ("vllm", "llamacpp", "anthropic")
"""Those that count a prompt's tokens beforehand."""
FORCING = [engine for engine in SPEAKING if engine != "ollama"]
FORMATTING = [engine for engine in SPEAKING if engine not in ("vllm", "sglang", "llamacpp")]
"""Those whose answers can be held to a schema by what messages have for it."""
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
ASKED: dict[str, Any] = {"messages": QUESTION, "max_tokens": 12}
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class City(BaseModel):
    city: str
    size: int


@pytest.fixture(scope="module")
def sdk(fleet: InferGateway) -> Iterator[Anthropic]:
    with Anthropic(base_url=fleet.url, api_key="unused", max_retries=0, timeout=20.0) as client:
        yield client


@pytest.fixture(scope="module")
def trouble(troubled: Troubled) -> Iterator[Anthropic]:
    """The SDK as it comes: two retries."""
    with Anthropic(base_url=troubled.url, api_key=KEY, timeout=20.0) as client:
        yield client


def text(message: Message) -> str:
    [block] = message.content
    assert isinstance(block, TextBlock)
    return block.text


def read(message: Message) -> int:
    """Tokens of the prompt, those that were cached among them."""
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize("any_model", SPEAKING, indirect=True)
def test_a_message(sdk: Anthropic, any_model: str) -> None:
    message = sdk.messages.create(model=any_model, system="Be brief.", **ASKED)
    assert (message.type, message.role, message.model) == ("message", "assistant", any_model)
    assert text(message)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 12)
    assert message.usage.input_tokens > 0


@pytest.mark.parametrize("any_model", SPEAKING, indirect=True)
def test_a_stream_says_what_the_whole_answer_says(sdk: Anthropic, any_model: str) -> None:
    whole = sdk.messages.create(model=any_model, **ASKED)
    with sdk.messages.stream(model=any_model, **ASKED) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert said == text(final) == text(whole)
    assert (final.stop_reason, final.model) == (whole.stop_reason, any_model)
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert read(final) == read(whole) > 0


@pytest.mark.parametrize("any_model", SPEAKING, indirect=True)
def test_the_events_of_a_stream(sdk: Anthropic, any_model: str) -> None:
    with sdk.messages.create(model=any_model, stream=True, **ASKED) as stream:
        kinds = [event.type for event in stream]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[2:-3] == ["content_block_delta"] * (len(kinds) - 5) != []
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


@pytest.mark.parametrize("any_model", NAMING_STOPS, indirect=True)
def test_a_stop_sequence(sdk: Anthropic, any_model: str) -> None:
    whole = sdk.messages.create(model=any_model, messages=QUESTION, max_tokens=200, stop_sequences=["the"])
    with sdk.messages.stream(model=any_model, messages=QUESTION, max_tokens=200, stop_sequences=["the"]) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "the")


@pytest.mark.parametrize("choice", [{"type": "tool", "name": "get_weather"}, {"type": "any"}])
@pytest.mark.parametrize("any_model", FORCING, indirect=True)
def test_a_tool_is_used(sdk: Anthropic, any_model: str, choice: Any) -> None:
    asked = {"model": any_model, "messages": QUESTION, "max_tokens": 100, "tools": [WEATHER], "tool_choice": choice}
    whole = sdk.messages.create(**asked)
    with sdk.messages.stream(**asked) as stream:
        pieces = "".join(event.partial_json for event in stream if event.type == "input_json")
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        [block] = message.content
        assert isinstance(block, ToolUseBlock)
        assert (block.name, block.input, message.stop_reason) == ("get_weather", {"city": "value"}, "tool_use")
        assert block.id
    assert json.loads(pieces) == {"city": "value"}


@pytest.mark.parametrize("any_model", SPEAKING, indirect=True)
def test_a_tool_runs_and_its_result_goes_back(sdk: Anthropic, any_model: str) -> None:
    turns: list[Any] = [{"role": "user", "content": "Use get_weather, please."}]
    asked = sdk.messages.create(model=any_model, messages=turns, max_tokens=100, tools=[WEATHER])
    [use] = asked.content
    assert isinstance(use, ToolUseBlock)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "sunny"}]}
    turns += [{"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
    answer = sdk.messages.create(model=any_model, messages=turns, max_tokens=12, tools=[WEATHER])
    assert text(answer)


@pytest.mark.parametrize("any_model", SPEAKING, indirect=True)
def test_what_is_hard_to_write_comes_through(sdk: Anthropic, any_model: str) -> None:
    """There: the prompt is counted by its bytes, and a tool's constant is said as it was given."""
    schema = {"type": "object", "properties": {"said": {"const": SAID}}, "required": ["said"]}
    tool: ToolParam = {"name": "say_it", "input_schema": schema}
    turns: Any = [{"role": "user", "content": f"{SAID} say_it"}]
    with sdk.messages.stream(model=any_model, messages=turns, max_tokens=500, tools=[tool]) as stream:
        [block] = stream.get_final_message().content
    assert isinstance(block, ToolUseBlock)
    assert block.input == {"said": SAID}


@pytest.mark.parametrize("any_model", FORMATTING, indirect=True)
def test_an_answer_of_a_given_shape(sdk: Anthropic, any_model: str) -> None:
    parsed = sdk.messages.parse(model=any_model, messages=QUESTION, max_tokens=100, output_format=City)
    assert parsed.parsed_output == City(city="value", size=0)


@pytest.mark.parametrize("any_model", COUNTING, indirect=True)
def test_counted_tokens(sdk: Anthropic, any_model: str) -> None:
    counted = sdk.messages.count_tokens(model=any_model, messages=QUESTION)
    assert counted.input_tokens == read(sdk.messages.create(model=any_model, **ASKED))


def test_models(sdk: Anthropic, any_model: str) -> None:
    assert any_model in {card.id for card in sdk.models.list()}
    assert sdk.models.retrieve(any_model).id == any_model


def test_many_streams_at_once_by_the_async_client(fleet: InferGateway) -> None:
    async def one(client: AsyncAnthropic, number: int) -> str:
        model = f"demo-{ENGINES[number % len(ENGINES)]}"
        async with client.messages.stream(model=model, **ASKED) as stream:
            return "".join([piece async for piece in stream.text_stream])

    async def main() -> list[str]:
        async with AsyncAnthropic(base_url=fleet.url, api_key="unused", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(20)))

    assert all(asyncio.run(main()))


def test_the_request_id(trouble: Anthropic) -> None:
    message = trouble.messages.create(model="m", extra_headers={"x-request-id": "mine-1"}, **ASKED)
    assert message._request_id == "mine-1"
    with trouble.messages.stream(model="m", **ASKED) as stream:
        assert stream.request_id
    with pytest.raises(anthropic.NotFoundError) as raised:
        trouble.messages.create(model="nobody-serves-this", **ASKED)
    assert raised.value.request_id


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "key", "error", "kind"),
    [
        ({"messages": "not a list"}, KEY, anthropic.BadRequestError, "invalid_request_error"),
        ({}, "sk-nobody-0123456789", anthropic.AuthenticationError, "authentication_error"),
        ({}, NARROW_KEY, anthropic.PermissionDeniedError, "permission_error"),
        ({"model": "nobody-serves-this"}, KEY, anthropic.NotFoundError, "not_found_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refused(
    troubled: Troubled,
    trouble: Anthropic,
    changed: dict[str, object],
    key: str,
    error: type[anthropic.APIStatusError],
    kind: str,
    stream: bool,
) -> None:
    """The key comes as ``x-api-key``, which is this SDK's way."""
    asked: dict[str, Any] = {"model": "m", **ASKED, **changed, "stream": stream, "timeout": 20.0}
    with pytest.raises(error) as raised:
        trouble.with_options(api_key=key).messages.create(**asked)
    assert isinstance(raised.value.body, dict)
    assert (raised.value.body["type"], raised.value.body["error"]["type"], raised.value.type) == ("error", kind, kind)


@pytest.mark.parametrize(
    ("fault", "error", "status", "retries"),
    [
        ("400", anthropic.BadRequestError, 400, 0),
        ("429:0.02", anthropic.RateLimitError, 429, 2),
        ("503:0.02", anthropic.InternalServerError, 503, 2),
        ("529:0.02", anthropic.InternalServerError, 503, 2),
        ("500", anthropic.InternalServerError, 500, 0),
        ("refuse", anthropic.InternalServerError, 502, 0),
        ("rubbish", anthropic.InternalServerError, 502, 0),
    ],
)
def test_a_failing_engine(
    troubled: Troubled,
    trouble: Anthropic,
    fault: str,
    error: type[anthropic.APIStatusError],
    status: int,
    retries: int,
) -> None:
    """The SDK tries again where it is told when, and only there."""
    with troubled.failing(fault), pytest.raises(error) as raised:
        trouble.messages.create(model="m", **ASKED)
    assert raised.value.status_code == status
    assert raised.value.request.headers["x-stainless-retry-count"] == str(retries)


def test_a_failure_that_passes_is_not_seen(troubled: Troubled, trouble: Anthropic) -> None:
    with troubled.failing("503:0.02@first=2"):
        answer = trouble.messages.with_raw_response.create(model="m", **ASKED)
    assert answer.retries_taken == 2
    assert text(answer.parse())


@pytest.mark.parametrize("fault", ["cut:4", "error-event:4"])
def test_a_stream_that_breaks_raises(troubled: Troubled, trouble: Anthropic, fault: str) -> None:
    said: list[str] = []
    with (
        troubled.failing(fault),
        trouble.messages.stream(model="m", **ASKED) as stream,
        pytest.raises(anthropic.APIStatusError) as raised,
    ):
        said.extend(stream.text_stream)
    assert len("".join(said).split()) == 4
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["error"]["type"] == "api_error"


def test_leaving_a_stream_frees_the_engine(troubled: Troubled, trouble: Anthropic) -> None:
    with troubled.relieved(), trouble.messages.stream(model="m", messages=QUESTION, max_tokens=5000) as stream:
        assert next(stream.text_stream)


def test_a_timeout_frees_the_engine(troubled: Troubled, trouble: Anthropic) -> None:
    impatient = trouble.with_options(timeout=0.2, max_retries=0)
    with troubled.relieved(), pytest.raises(anthropic.APITimeoutError):
        impatient.messages.create(model="m", messages=QUESTION, max_tokens=5000)
