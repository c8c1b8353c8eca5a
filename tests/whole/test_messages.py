"""Both ways between chats and Messages, through the program: OpenAI's SDK before Anthropic's API, and `/v1/messages`
before engines that know chats only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import openai
import pytest
from openai import OpenAI

from tests.process import InferGateway, serve, simulate, together

KEY = "sk-ant-in-the-environment"
API = "apiVersion: networking.serving.volcano.sh/v1alpha1"
CONFIG = f"""\
{API}
kind: ExternalModelProvider
metadata: {{name: anthropic}}
spec: {{providerType: anthropic, model: claude-simulated, baseURL: '%s', auth: {{keyEnv: INFER_GATEWAY_TEST_KEY}}}}
---
{API}
kind: ModelRoute
metadata: {{name: claude}}
spec: {{modelName: claude, rules: [{{targetModels: [{{externalModelProviderName: anthropic}}]}}]}}
---
{API}
kind: ModelServer
metadata: {{name: old}}
spec: {{inferenceEngine: vLLM, endpoints: [{{url: '%s', labels: {{version: 0.10.2}}}}]}}
---
{API}
kind: ModelRoute
metadata: {{name: old}}
spec: {{modelName: demo-old, rules: [{{targetModels: [{{modelServerName: old}}]}}]}}
---
{API}
kind: ModelServer
metadata: {{name: tgi}}
spec: {{inferenceEngine: TGI, endpoints: ['%s']}}
---
{API}
kind: ModelRoute
metadata: {{name: lenient}}
spec: {{modelName: lenient, rules: [{{targetModels: [{{modelServerName: tgi}}]}}], unsupported: drop}}
---
apiVersion: infer-gateway.dev/v1alpha1
kind: GatewayConfiguration
health: {{consecutiveFailures: 1000000}}
"""
TRANSLATED = ("openai", "tgi", "ollama", "old")
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ANY = {"type": "any"}


class Town(NamedTuple):
    gateway: InferGateway
    engines: dict[str, InferGateway]

    def fail(self, engine: str, *specs: str) -> None:
        """From now on this engine fails so; none: no more."""
        httpx.post(f"{self.engines[engine].url}/sim/fail", json={"fail": list(specs)}).raise_for_status()

    def asked(self, engine: str) -> dict[str, Any]:
        """The body of the last request that an engine got."""
        last = httpx.get(f"{self.engines[engine].url}/sim/state").json()["last"]
        body = last["body"]
        found = json.loads(body) if isinstance(body, str) else body
        assert isinstance(found, dict)
        return found

    def message(self, model: str, **members: Any) -> httpx.Response:
        body = {"model": model, "max_tokens": 12, "messages": QUESTION, **members}
        return httpx.post(f"{self.gateway.url}/v1/messages", json=body, timeout=30)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    quick = ("--itl", "0.001")
    engines = {name: simulate(name, f"demo-{name}", *quick) for name in ("openai", "tgi", "ollama")}
    engines["anthropic"] = simulate("anthropic", "claude-simulated", "--api-key", KEY)
    engines["old"] = simulate("vllm", "demo-old", *quick, "--engine-version", "0.10.2")
    with together(*engines.values()):
        file = tmp_path_factory.mktemp("messages") / "gateway.yaml"
        file.write_text(CONFIG % (engines["anthropic"].url, engines["old"].url, engines["tgi"].url))
        named = [f"{name}={engines[name].url}" for name in ("openai", "tgi", "ollama")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("INFER_GATEWAY_TEST_KEY", KEY)
            with serve("-c", str(file), *(word for name in named for word in ("--backend", name))) as gateway:
                yield Town(gateway, engines)


@pytest.fixture
def sdk(town: Town) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{town.gateway.url}/v1", api_key="unused", max_retries=0, timeout=30.0) as client:
        yield client


@pytest.fixture(params=TRANSLATED)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- OpenAI's SDK before Anthropic's API -----------------------------------------------------------------------------


def test_a_chat(town: Town, sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="claude",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}],
        max_tokens=12,
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.usage.prompt_tokens > 0) == (12, True)
    asked = town.asked("anthropic")
    assert (asked["system"], asked["messages"], asked["model"]) == ("Be brief.", QUESTION, "claude-simulated")


def test_a_stream_says_what_the_whole_chat_says(sdk: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "claude", "messages": QUESTION, "max_tokens": 12}
    whole = sdk.chat.completions.create(**asked)
    chunks = list(sdk.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_with_a_tool_and_thoughts(sdk: OpenAI, stream: bool) -> None:
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
    question: Any = {"role": "user", "content": "Use get_weather for Paris."}
    asked: Any = {"model": "claude", "tools": tools, "tool_choice": "required", "max_tokens": 2048}
    asked["reasoning_effort"] = "low"
    if stream:
        message = gathered(sdk.chat.completions.create(messages=[question], stream=True, **asked))
    else:
        message = sdk.chat.completions.create(messages=[question], **asked).choices[0].message.model_dump()
    [call] = message["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert isinstance(json.loads(call["function"]["arguments"]), dict)
    assert message["reasoning_content"]
    result: Any = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    answer = sdk.chat.completions.create(messages=[question, message, result], **{**asked, "tool_choice": "auto"})
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def gathered(chunks: Any) -> dict[str, Any]:
    """The assistant's message of a stream, as a client that keeps everything puts it together."""
    message: dict[str, Any] = {"role": "assistant", "content": "", "reasoning_content": "", "thinking_blocks": []}
    for chunk in chunks:
        for choice in chunk.choices:
            delta = choice.delta.model_dump(exclude_none=True)
            for name in ("content", "reasoning_content"):
                message[name] += delta.get(name, "")
            message["thinking_blocks"] += delta.get("thinking_blocks", [])
            for call in delta.get("tool_calls", []):
                if call["index"] == len(message.setdefault("tool_calls", [])):
                    message["tool_calls"].append(call)
                else:
                    message["tool_calls"][-1]["function"]["arguments"] += call["function"]["arguments"]
    return message


def test_what_anthropic_cannot_do(sdk: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "claude", "messages": QUESTION, "n": 2}
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**asked)
    assert (caught.value.param, caught.value.code) == ("n", "unsupported_parameter")


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        ("status:400", openai.BadRequestError, 400),
        ("status:401", openai.InternalServerError, 502),
        ("429:0", openai.RateLimitError, 429),
        ("status:529", openai.InternalServerError, 503),
        ("status:500", openai.InternalServerError, 500),
        ("error-event:0", openai.InternalServerError, 503),
        ("rubbish", openai.InternalServerError, 502),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_failures_of_anthropic(
    town: Town, sdk: OpenAI, fault: str, error: type[openai.APIStatusError], status: int, stream: bool
) -> None:
    if fault == "error-event:0" and not stream:
        status = 500  # there is no stream to put it into
    asked: dict[str, Any] = {"model": "claude", "messages": QUESTION, "max_tokens": 9}
    town.fail("anthropic", fault)
    try:
        with pytest.raises(error) as caught:
            list(sdk.chat.completions.create(**asked, stream=stream))
    finally:
        town.fail("anthropic")
    assert caught.value.status_code == status
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("fault", ["error-event:3", "cut:3", "rubbish:sse"])
def test_a_chat_that_breaks_off_says_so(town: Town, fault: str) -> None:
    town.fail("anthropic", fault)
    body = {"model": "claude", "messages": QUESTION, "stream": True, "max_tokens": 50}
    try:
        answer = httpx.post(f"{town.gateway.url}/v1/chat/completions", json=body, timeout=30)
    finally:
        town.fail("anthropic")
    last = answer.text.rstrip().rpartition("data: ")[2] if answer.status_code == 200 else answer.text
    assert json.loads(last)["error"]["message"]
    assert "[DONE]" not in answer.text


# --- Messages before engines that know chats only --------------------------------------------------------------------


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    blocks = [block.split("\n") for block in answer.text.removesuffix("\n\n").split("\n\n")]
    found = [json.loads(lines[1].removeprefix("data: ")) for lines in blocks if not lines[0].startswith(":")]
    assert [f"event: {event['type']}" for event in found] == [b[0] for b in blocks if not b[0].startswith(":")]
    return found


def model(engine: str) -> str:
    """Ollama lists its models by their tags."""
    return "demo-ollama:latest" if engine == "ollama" else f"demo-{engine}"


def said(found: list[dict[str, Any]]) -> str:
    return "".join(e["delta"].get("text", "") for e in found if e["type"] == "content_block_delta")


def test_a_message(town: Town, engine: str) -> None:
    answer = town.message(model(engine), system="Be brief.")
    assert answer.status_code == 200, answer.text
    message = answer.json()
    assert (message["type"], message["role"], message["stop_reason"]) == ("message", "assistant", "max_tokens")
    assert [block["type"] for block in message["content"]] == ["text"]
    assert (message["usage"]["output_tokens"], message["usage"]["input_tokens"] > 0) == (12, True)
    asked = town.asked(engine)
    assert [turn["role"] for turn in asked["messages"]] == ["system", "user"]


def test_a_stream_says_what_the_whole_message_says(town: Town, engine: str) -> None:
    whole = town.message(model(engine)).json()
    found = events(town.message(model(engine), stream=True))
    assert said(found) == whole["content"][0]["text"]
    kinds = [event["type"] for event in found]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert found[-2]["delta"]["stop_reason"] == "max_tokens"
    assert found[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


@pytest.mark.parametrize("engine", ["openai", "tgi", "old"], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_used(town: Town, engine: str, stream: bool) -> None:
    tools = [{"name": "get_weather", "description": "The weather", "input_schema": SCHEMA}]
    question: Any = {"role": "user", "content": "Use get_weather for Paris."}
    asked: dict[str, Any] = {"tools": tools, "tool_choice": ANY, "max_tokens": 200}
    answer = town.message(model(engine), messages=[question], stream=stream, **asked)
    assert answer.status_code == 200, answer.text
    if stream:
        found = events(answer)
        [start] = [e["content_block"] for e in found if e["type"] == "content_block_start"]
        given = "".join(e["delta"]["partial_json"] for e in found if e["type"] == "content_block_delta")
        used = {**start, "input": json.loads(given)}
        assert found[-2]["delta"]["stop_reason"] == "tool_use"
    else:
        [used] = answer.json()["content"]
        assert answer.json()["stop_reason"] == "tool_use"
    assert (used["type"], used["name"], isinstance(used["input"], dict)) == ("tool_use", "get_weather", True)
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": used["id"], "content": "sunny"}]}
    turns = [question, {"role": "assistant", "content": [used]}, result]
    after = town.message(model(engine), messages=turns, tools=tools, max_tokens=20)
    assert after.status_code == 200, after.text
    assert [turn["role"] for turn in town.asked(engine)["messages"]] == ["user", "assistant", "tool"]


def test_messages_go_to_anthropic_as_they_are(town: Town) -> None:
    asked: dict[str, Any] = {"metadata": {"user_id": "ann"}, "top_k": 5}
    message = town.message("claude", **asked).json()
    assert message["type"] == "message"
    expected = {"model": "claude-simulated", "max_tokens": 12, "messages": QUESTION, **asked}
    assert town.asked("anthropic") == expected


def test_tokens_are_counted_by_who_can(town: Town) -> None:
    path = f"{town.gateway.url}/v1/messages/count_tokens"
    counted = httpx.post(path, json={"model": "claude", "messages": QUESTION})
    assert counted.status_code == 200, counted.text
    assert counted.json()["input_tokens"] == town.message("claude").json()["usage"]["input_tokens"]
    unknown = httpx.post(path, json={"model": "demo-openai", "messages": QUESTION})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")


def test_refusals_are_in_the_clients_words(town: Town) -> None:
    answer = town.message("demo-tgi", thinking={"type": "enabled", "budget_tokens": 1024})
    envelope = answer.json()
    assert (answer.status_code, envelope["type"], envelope["error"]["type"]) == (400, "error", "invalid_request_error")
    assert (envelope["error"]["param"], envelope["error"]["code"]) == ("thinking", "unsupported_parameter")
    assert envelope["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_may_be_left_out_is_named_in_the_clients_words(town: Town, stream: bool) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = town.message("lenient", thinking=thinking, top_k=5, stream=stream)
    assert answer.status_code == 200, answer.text
    assert set(answer.headers["x-infer-gateway-dropped"].split(", ")) == {"thinking", "top_k"}
    schema = {"format": {"type": "json_schema", "schema": SCHEMA}}
    needed = town.message("lenient", output_config=schema, tools=[{"name": "f", "input_schema": SCHEMA}])
    assert (needed.status_code, needed.json()["error"]["param"]) == (400, "output_config")


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("503", 503, "overloaded_error"),
        ("429", 429, "rate_limit_error"),
        ("status:400", 400, "invalid_request_error"),
        ("refuse", 502, "api_error"),
    ],
)
@pytest.mark.parametrize("engine", ["openai", "tgi"], indirect=True)
def test_failures_are_in_anthropics_envelope(town: Town, engine: str, fault: str, status: int, kind: str) -> None:
    town.fail(engine, fault)
    try:
        answer = town.message(model(engine))
    finally:
        town.fail(engine)
    envelope = answer.json()
    assert (answer.status_code, envelope["type"], envelope["error"]["type"]) == (status, "error", kind)
    assert set(envelope["error"]) == {"message", "type", "param", "code"}
    assert envelope["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize("fault", ["error-event:3", "cut:3"])
@pytest.mark.parametrize("engine", ["openai", "tgi"], indirect=True)
def test_a_message_that_breaks_off_says_so(town: Town, engine: str, fault: str) -> None:
    town.fail(engine, fault)
    try:
        answer = town.message(model(engine), stream=True, max_tokens=50)
    finally:
        town.fail(engine)
    found = events(answer)
    assert [event["type"] for event in found][:2] == ["message_start", "content_block_start"]
    assert (found[-1]["type"], found[-1]["request_id"]) == ("error", answer.headers["request-id"])
    assert not {"message_delta", "message_stop"} & {event["type"] for event in found}
