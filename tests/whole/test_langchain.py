"""LangChain's OpenAI chat model against the gateway, before each kind of engine: what frameworks make of answers."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from tests.process import InferGateway
from tests.whole.conftest import ENGINES, PROVIDERS
from tests.whole.test_sdk_helpers import EMBEDDING, RESPONDING, TELLING
from tests.whole.troubled import KEY, NARROW_KEY, Troubled

# LangChain writes parsed answers where the SDK's types have none, and SGLang's `metadata` has more than strings in it.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")

QUESTION = [SystemMessage("Be brief."), HumanMessage("Why is the sky blue?")]


FORCING = [engine for engine in (*ENGINES, *PROVIDERS) if engine != "ollama"]
"""Those that heed ``tool_choice``."""


class City(BaseModel):
    """A city and how many live there."""

    city: str
    size: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.fixture(autouse=True)
def _nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """LangChain's own clients are never closed."""
    with httpx.Client() as client:
        yield client


@pytest.fixture
def chat(any_model: str, fleet: InferGateway, http: httpx.Client) -> ChatOpenAI:
    return model(fleet.url, any_model, http)


@pytest.fixture
def trouble(troubled: Troubled, http: httpx.Client) -> ChatOpenAI:
    return model(troubled.url, "m", http, api_key=KEY)


def model(url: str, name: str, http: httpx.Client, **more: Any) -> ChatOpenAI:
    settings = {"api_key": "unused", "max_retries": 0, "timeout": 20.0, "stream_usage": True, **more}
    return ChatOpenAI(model=name, base_url=f"{url}/v1", http_client=http, **settings)


def added(chunks: Iterator[BaseMessage]) -> AIMessageChunk:
    whole = functools.reduce(operator.add, chunks)
    assert isinstance(whole, AIMessageChunk)
    return whole


def counts(answer: AIMessage) -> tuple[int, int, int]:
    told = answer.usage_metadata
    assert told is not None
    assert told["total_tokens"] == told["input_tokens"] + told["output_tokens"]
    return told["input_tokens"], told["output_tokens"], told["total_tokens"]


def test_invoke(chat: ChatOpenAI) -> None:
    answer = chat.invoke(QUESTION, max_tokens=12)
    assert answer.text
    assert counts(answer)[1] == 12
    assert answer.response_metadata["model_name"] == chat.model_name
    assert answer.response_metadata["finish_reason"] == "length"


def test_a_stream_adds_up_to_the_whole_answer(chat: ChatOpenAI) -> None:
    whole = chat.invoke(QUESTION, max_tokens=12)
    chunks = list(chat.stream(QUESTION, max_tokens=12))
    assert len([chunk for chunk in chunks if chunk.text]) > 1
    streamed = added(iter(chunks))
    assert (streamed.text, counts(streamed)) == (whole.text, counts(whole))
    assert streamed.response_metadata["finish_reason"] == "length"


def test_many_at_once(chat: ChatOpenAI) -> None:
    questions = [f"Why {number}?" for number in range(8)]
    answers = chat.batch(questions, max_tokens=6)
    assert [answer.text for answer in answers] == [chat.invoke(question, max_tokens=6).text for question in questions]


def test_asynchronously(chat: ChatOpenAI, fleet: InferGateway) -> None:
    async def main() -> tuple[str, str]:
        async with httpx.AsyncClient() as http:
            own = model(fleet.url, chat.model_name, chat.http_client, http_async_client=http)
            whole = await own.ainvoke(QUESTION, max_tokens=12)
            streamed = "".join([chunk.text async for chunk in own.astream(QUESTION, max_tokens=12)])
            return whole.text, streamed

    whole, streamed = asyncio.run(main())
    assert whole == streamed != ""


@pytest.mark.parametrize("any_model", FORCING, indirect=True)
@pytest.mark.parametrize("choice", ["get_weather", "any"])
def test_a_bound_tool_is_called(chat: ChatOpenAI, choice: str) -> None:
    bound = chat.bind_tools([get_weather], tool_choice=choice)
    whole, streamed = bound.invoke(QUESTION), added(bound.stream(QUESTION))
    for answer in (whole, streamed):
        [call] = answer.tool_calls
        assert (call["name"], call["args"]) == ("get_weather", {"city": "value"})
        assert call["id"]
        assert answer.invalid_tool_calls == []


def test_a_tool_runs_and_its_result_goes_back(chat: ChatOpenAI) -> None:
    bound = chat.bind_tools([get_weather])
    turns: list[BaseMessage] = [HumanMessage("Use get_weather, please.")]
    asked = bound.invoke(turns, max_tokens=50)
    assert isinstance(asked, AIMessage)
    result = get_weather.invoke(asked.tool_calls[0])
    assert isinstance(result, ToolMessage)
    answer = bound.invoke([*turns, asked, result], max_tokens=5)
    assert (result.content, answer.tool_calls, bool(answer.text)) == ("sunny in value", [], True)


def test_structured_output(chat: ChatOpenAI) -> None:
    structured = chat.with_structured_output(City)
    assert structured.invoke(QUESTION) == City(city="value", size=0)
    assert list(structured.stream(QUESTION))[-1] == City(city="value", size=0)


@pytest.mark.parametrize("any_model", FORCING, indirect=True)
def test_structured_output_by_a_tool(chat: ChatOpenAI) -> None:
    structured = chat.with_structured_output(City, method="function_calling")
    assert structured.invoke(QUESTION) == City(city="value", size=0)
    assert list(structured.stream(QUESTION))[-1] == City(city="value", size=0)


@pytest.mark.parametrize("any_model", [engine for engine in FORCING if engine != "anthropic"], indirect=True)
def test_json_of_any_shape(chat: ChatOpenAI) -> None:
    plain = chat.bind(response_format={"type": "json_object"}) | JsonOutputParser()
    assert isinstance(plain.invoke("Answer in JSON."), dict)


@pytest.mark.parametrize("any_model", TELLING, indirect=True)
def test_logprobs(chat: ChatOpenAI) -> None:
    answer = chat.bind(logprobs=True, top_logprobs=2).invoke(QUESTION, max_tokens=4)
    told = answer.response_metadata["logprobs"]["content"]
    assert "".join(entry["token"] for entry in told) == answer.text
    assert all(len(entry["top_logprobs"]) == 2 for entry in told)


@pytest.mark.parametrize("any_model", RESPONDING, indirect=True)
def test_through_the_responses_api(fleet: InferGateway, http: httpx.Client, any_model: str) -> None:
    chat = model(fleet.url, any_model, http, use_responses_api=True)
    whole, streamed = chat.invoke(QUESTION), added(chat.stream(QUESTION))
    assert whole.text == streamed.text != ""
    assert counts(whole) == counts(streamed)
    [call] = chat.bind_tools([get_weather], tool_choice="get_weather").invoke(QUESTION).tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "value"})
    assert chat.with_structured_output(City).invoke(QUESTION) == City(city="value", size=0)


@pytest.mark.parametrize("any_model", EMBEDDING, indirect=True)
def test_embeddings(fleet: InferGateway, http: httpx.Client, any_model: str) -> None:
    """As texts: as token ids, which is LangChain's way without this, it would ask a tokenizer of OpenAI's."""
    settings = {"api_key": "unused", "check_embedding_ctx_length": False, "http_client": http}
    embeddings = OpenAIEmbeddings(model=any_model, base_url=f"{fleet.url}/v1", **settings)
    one, other = embeddings.embed_documents(["one", "two words"])
    assert len(one) == len(other) > 0
    assert embeddings.embed_query("one") == one


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key", "error", "code"),
    [
        ("nobody-serves-this", KEY, openai.NotFoundError, "model_not_found"),
        ("m", "sk-nobody-0123456789", openai.AuthenticationError, "invalid_api_key"),
        ("m", NARROW_KEY, openai.PermissionDeniedError, "model_not_allowed"),
    ],
)
def test_refused(
    troubled: Troubled, http: httpx.Client, name: str, key: str, error: type[openai.APIStatusError], code: str
) -> None:
    chat = model(troubled.url, name, http, api_key=key)
    for call in (chat.invoke, lambda question: list(chat.stream(question))):
        with pytest.raises(error) as raised:
            call(QUESTION)
        assert raised.value.code == code


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("429:0.02", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("503:0.02", openai.InternalServerError),
        ("rubbish", openai.InternalServerError),
    ],
)
def test_a_failing_engine(
    troubled: Troubled, trouble: ChatOpenAI, fault: str, error: type[openai.APIStatusError]
) -> None:
    with troubled.failing(fault), pytest.raises(error):
        trouble.invoke(QUESTION)


def test_a_failure_that_passes_is_not_seen(troubled: Troubled, http: httpx.Client) -> None:
    chat = model(troubled.url, "m", http, api_key=KEY, max_retries=2)
    with troubled.failing("503:0.02@first=2"):
        assert chat.invoke(QUESTION, max_tokens=2).text


def test_another_model_takes_over(troubled: Troubled, trouble: ChatOpenAI, fleet: InferGateway) -> None:
    """What LangChain's users write for it: the error has to be one that it knows."""
    other = model(fleet.url, "demo-vllm", trouble.http_client)
    with troubled.failing("500"):
        answer = trouble.with_fallbacks([other]).invoke(QUESTION)
    assert answer.response_metadata["model_name"] == "demo-vllm"


@pytest.mark.parametrize("fault", ["cut:4", "error-event:4"])
def test_a_stream_that_breaks_raises(troubled: Troubled, trouble: ChatOpenAI, fault: str) -> None:
    seen: list[str] = []
    with troubled.failing(fault), pytest.raises(openai.APIError):
        seen.extend(chunk.text for chunk in trouble.stream(QUESTION, max_tokens=12))
    assert len("".join(seen).split()) == 4


def test_leaving_a_stream_frees_the_engine(troubled: Troubled, trouble: ChatOpenAI) -> None:
    with troubled.relieved():
        chunks = trouble.stream(QUESTION, max_tokens=5000)
        assert next(chunks) is not None
        chunks.close()
