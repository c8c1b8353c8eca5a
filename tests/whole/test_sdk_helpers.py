"""What the official Python SDK builds on top of answers: accumulated streams, parsed ones, Responses, retries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import trio
from openai import AsyncOpenAI, DefaultHttpxClient, OpenAI
from pydantic import BaseModel

from tests.process import InferGateway, serve
from tests.whole.conftest import ENGINES, PROVIDERS
from tests.whole.test_sdk import QUESTION, WEATHER
from tests.whole.troubled import KEY, NARROW_KEY, SAID, Troubled, cutting

CALLED: list[Any] = [{"role": "user", "content": "Use get_weather, please."}]
"""What makes a simulated model call that tool."""
RESPONDING = ("vllm", "sglang", "openai", "huggingface", "llamacpp", "trtllm")
"""Engines that have the Responses API."""
EMBEDDING = ("vllm", "openai", "gemini", "ollama")
TELLING = tuple(engine for engine in (*ENGINES, *PROVIDERS) if engine not in ("anthropic", "gemini"))
"""Those that tell of probabilities."""
ASKED: dict[str, Any] = {"messages": QUESTION, "max_tokens": 12}


class City(BaseModel):
    city: str
    size: int


@pytest.fixture(scope="module")
def sdk(fleet: InferGateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{fleet.url}/v1", api_key="unused", max_retries=0, timeout=20.0) as client:
        yield client


@pytest.fixture(scope="module")
def trouble(troubled: Troubled) -> Iterator[OpenAI]:
    """The SDK as it comes: two retries."""
    with OpenAI(base_url=f"{troubled.url}/v1", api_key=KEY, timeout=20.0) as client:
        yield client


# --- accumulated and parsed -------------------------------------------------------------------------------------------


def test_an_accumulated_stream(sdk: OpenAI, any_model: str) -> None:
    asked: dict[str, Any] = {"model": any_model, "messages": QUESTION, "stop": ["the"]}
    whole = sdk.chat.completions.create(**asked)
    with sdk.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content != ""
    assert final.choices[0].finish_reason == "stop"
    assert final.usage is not None
    assert final.usage.total_tokens == whole.usage.total_tokens
    assert kinds.count("content.done") == 1
    assert kinds.count("content.delta") > 1


def test_an_accumulated_tool_call(sdk: OpenAI, any_model: str) -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    with sdk.chat.completions.stream(model=any_model, messages=CALLED, tools=[strict]) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        [call] = stream.get_final_completion().choices[0].message.tool_calls
    assert [(event.name, event.parsed_arguments) for event in done] == [("get_weather", {"city": "value"})]
    assert (call.type, call.function.name, call.function.parsed_arguments) == (
        "function",
        "get_weather",
        {"city": "value"},
    )
    assert call.id


def test_a_tool_result_goes_back(sdk: OpenAI, any_model: str) -> None:
    turns = CALLED
    asked = sdk.chat.completions.create(model=any_model, messages=turns, tools=[WEATHER]).choices[0].message
    [call] = asked.tool_calls or []
    turns = [*turns, asked, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    answer = sdk.chat.completions.create(model=any_model, messages=turns, tools=[WEATHER], max_tokens=5).choices[0]
    assert answer.message.content
    assert (answer.finish_reason, answer.message.tool_calls or []) == ("length", [])


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # SGLang's `metadata` has more than strings in it
def test_parsed_answers(sdk: OpenAI, any_model: str) -> None:
    asked: dict[str, Any] = {"model": any_model, "messages": QUESTION, "response_format": City}
    assert sdk.chat.completions.parse(**asked).choices[0].message.parsed == City(city="value", size=0)
    with sdk.chat.completions.stream(**asked) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == City(city="value", size=0)


@pytest.mark.parametrize("any_model", TELLING, indirect=True)
def test_logprobs(sdk: OpenAI, any_model: str) -> None:
    asked: dict[str, Any] = {"model": any_model, **ASKED, "logprobs": True, "top_logprobs": 2}
    choice = sdk.chat.completions.create(**asked).choices[0]
    with sdk.chat.completions.create(**asked, stream=True) as stream:
        pieces = [piece.logprobs.content for chunk in stream for piece in chunk.choices if piece.logprobs]
    assert choice.logprobs is not None
    for told in (choice.logprobs.content, [entry for content in pieces for entry in content]):
        assert "".join(entry.token for entry in told) == choice.message.content
        assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in told)


@pytest.mark.parametrize("model", ["demo-vllm", "demo-sglang", "demo-openai"])
def test_several_choices(sdk: OpenAI, model: str) -> None:
    whole = sdk.chat.completions.create(model=model, **ASKED, n=3)
    said = ["", "", ""]
    with sdk.chat.completions.create(model=model, **ASKED, n=3, stream=True) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                said[choice.index] += choice.delta.content or ""
    assert said == [choice.message.content for choice in whole.choices]
    assert len(set(said)) == 3


@pytest.mark.parametrize("model", ["demo-tgi", "demo-deepseek"])
def test_what_would_be_ignored_is_refused_by_name(sdk: OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        sdk.chat.completions.create(model=model, **ASKED, n=3)
    assert raised.value.param == "n"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("any_model", RESPONDING, indirect=True)
def test_responses(sdk: OpenAI, any_model: str) -> None:
    whole = sdk.responses.create(model=any_model, input="Why is the sky blue?")
    with sdk.responses.stream(model=any_model, input="Why is the sky blue?") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text != ""
    assert whole.usage.total_tokens == final.usage.total_tokens == final.usage.input_tokens + final.usage.output_tokens
    assert [event.sequence_number for event in events] == list(range(len(events)))
    cut = sdk.responses.create(model=any_model, input="Why is the sky blue?", max_output_tokens=5)
    assert (cut.output_text, cut.usage.output_tokens) == (" ".join(whole.output_text.split(" ")[:6]), 5)
    parsed = sdk.responses.parse(model=any_model, input="Which city?", text_format=City)
    assert parsed.output_parsed == City(city="value", size=0)


def test_the_async_client_on_trio(fleet: InferGateway, model: str) -> None:
    """Whole answers: of a stream it leaves generators behind, which Trio complains of."""

    async def main() -> str | None:
        async with AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="unused", max_retries=0) as client:
            return (await client.chat.completions.create(model=model, **ASKED)).choices[0].message.content

    assert trio.run(main)


# --- failures ---------------------------------------------------------------------------------------------------------


def test_who_may_not(trouble: OpenAI) -> None:
    for key, error, code in (
        ("sk-nobody-0123456789", openai.AuthenticationError, "invalid_api_key"),
        (NARROW_KEY, openai.PermissionDeniedError, "model_not_allowed"),
    ):
        with pytest.raises(error) as raised:
            trouble.with_options(api_key=key).chat.completions.create(model="m", **ASKED)
        assert raised.value.code == code
        assert raised.value.request_id


@pytest.mark.parametrize(
    ("fault", "error", "retries"),
    [
        ("429:0.02", openai.RateLimitError, 2),
        ("503:0.02", openai.InternalServerError, 2),
        ("500", openai.InternalServerError, 0),
        ("rubbish", openai.InternalServerError, 0),
        ("422", openai.UnprocessableEntityError, 0),
    ],
)
def test_the_sdk_tries_again_where_it_is_told_when(
    troubled: Troubled, trouble: OpenAI, fault: str, error: type[openai.APIStatusError], retries: int
) -> None:
    with troubled.failing(fault), pytest.raises(error) as raised:
        trouble.chat.completions.create(model="m", **ASKED)
    assert raised.value.request.headers["x-stainless-retry-count"] == str(retries)
    assert raised.value.request_id


def test_a_failure_that_passes_is_not_seen(troubled: Troubled, trouble: OpenAI) -> None:
    with troubled.failing("429:0.02@first=2"):
        answer = trouble.chat.completions.with_raw_response.create(model="m", **ASKED)
    assert answer.retries_taken == 2
    assert answer.parse().choices[0].message.content


@pytest.mark.parametrize("fault", ["cut:4", "error-event:4"])
def test_a_response_that_breaks_raises(troubled: Troubled, trouble: OpenAI, fault: str) -> None:
    said: list[str] = []
    with (
        troubled.failing(fault),
        trouble.responses.create(model="m", input="Why?", stream=True) as stream,
        pytest.raises(openai.APIError),
    ):
        said.extend(event.delta for event in stream if event.type == "response.output_text.delta")
    assert len("".join(said).split()) == 4


def test_leaving_frees_the_engine(troubled: Troubled, trouble: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "m", "messages": QUESTION, "max_tokens": 5000}
    with troubled.relieved(), trouble.chat.completions.create(**asked, stream=True) as stream:
        assert next(iter(stream)).choices
    with troubled.relieved(), pytest.raises(openai.APITimeoutError):
        trouble.with_options(timeout=0.2, max_retries=0).chat.completions.create(**asked)


# --- bytes on the wire ------------------------------------------------------------------------------------------------


def test_characters_cut_into_bytes() -> None:
    with (
        cutting(SAID) as url,
        serve("--backend", f"openai={url}") as gateway,
        OpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=0) as client,
        client.chat.completions.stream(model="cut", messages=[{"role": "user", "content": SAID}]) as stream,
    ):
        assert stream.get_final_completion().choices[0].message.content == SAID + SAID


def test_two_megabytes_of_prompt(trouble: OpenAI) -> None:
    long: Any = [{"role": "user", "content": "é" * 1_000_000}]
    answer = trouble.chat.completions.create(model="m", messages=long, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 500_000


def test_one_connection_for_many_calls(troubled: Troubled) -> None:
    """Whole answers, errors and Responses' streams leave it usable; of chats' it never reads the very end."""
    ports: list[int] = []

    def note(response: Any) -> None:
        ports.append(response.extensions["network_stream"].get_extra_info("client_addr")[1])

    http = DefaultHttpxClient(event_hooks={"response": [note]})
    with OpenAI(base_url=f"{troubled.url}/v1", api_key=KEY, max_retries=0, http_client=http) as client:
        for _ in range(3):
            client.chat.completions.create(model="m", messages=QUESTION, max_tokens=2)
            assert list(client.responses.create(model="m", input="Why?", max_output_tokens=2, stream=True))
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model="nobody-serves-this", messages=QUESTION)
    assert len(ports) == 9
    assert len(set(ports)) == 1
