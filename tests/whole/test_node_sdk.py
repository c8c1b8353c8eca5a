"""The official OpenAI Node SDK, two major releases of it, against the gateway: what it makes of answers and failures.

It parses streams by a code of its own, stricter here and laxer there than the Python SDK's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process import InferGateway, serve
from tests.sdk.node_sdk import PACKAGES, NodeSdk, installed
from tests.whole.test_sdk import QUESTION, WEATHER
from tests.whole.test_sdk_helpers import CALLED, EMBEDDING, RESPONDING, TELLING
from tests.whole.troubled import KEY, NARROW_KEY, SAID, Troubled, cutting

CHAT = "chat.completions.create"
ASKED = {"messages": QUESTION, "max_tokens": 12}


@pytest.fixture(scope="session")
def node_modules() -> Path:
    return installed()


@pytest.fixture(scope="module", params=PACKAGES)
def sdk(request: pytest.FixtureRequest, node_modules: Path) -> Iterator[NodeSdk]:
    with NodeSdk(node_modules, request.param) as running:
        yield running


def good(came: dict[str, Any]) -> dict[str, Any]:
    assert "error" not in came, came["error"]
    return came


def text(events: list[dict[str, Any]]) -> str:
    deltas = (choice["delta"] for event in events for choice in event["choices"])
    return "".join(delta.get("content") or "" for delta in deltas)


def finishes(events: list[dict[str, Any]]) -> list[str]:
    return [choice["finish_reason"] for event in events for choice in event["choices"] if choice.get("finish_reason")]


# --- what its users do every day -------------------------------------------------------------------------------------


def test_chat(sdk: NodeSdk, fleet: InferGateway, any_model: str) -> None:
    came = good(sdk(fleet.url, CHAT, {"model": any_model, **ASKED}))
    answer = came["value"]
    assert (answer["object"], answer["model"]) == ("chat.completion", any_model)
    assert answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert (answer["usage"]["completion_tokens"], came["attempts"]) == (12, 1)
    assert came["request_id"] == came["headers"]["x-request-id"] != ""


def test_a_stream_says_what_the_whole_answer_says(sdk: NodeSdk, fleet: InferGateway, any_model: str) -> None:
    asked = {"model": any_model, **ASKED, "temperature": 0}
    whole = good(sdk(fleet.url, CHAT, asked))["value"]
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    events = good(sdk(fleet.url, CHAT, {**asked, **usage}, take="events"))["events"]
    assert text(events) == whole["choices"][0]["message"]["content"]
    assert (finishes(events), events[-1]["choices"]) == (["length"], [])
    assert events[-1]["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert not any(event.get("usage") for event in events[:-1])


def test_the_accumulating_helper(sdk: NodeSdk, fleet: InferGateway, any_model: str) -> None:
    asked = {"model": any_model, **ASKED, "stream_options": {"include_usage": True}}
    came = good(sdk(fleet.url, "chat.completions.stream", asked, take="chatHelper"))
    assert came["value"]["choices"][0]["message"]["content"] == text(came["events"]) != ""
    assert came["usage"]["completion_tokens"] == 12
    assert came["counts"].keys() == {"content", "content.done", "end"}


def test_a_streamed_tool_call_accumulates(sdk: NodeSdk, fleet: InferGateway, any_model: str) -> None:
    asked = {"model": any_model, "messages": CALLED, "tools": [WEATHER]}
    came = good(sdk(fleet.url, "chat.completions.stream", asked, take="chatHelper"))
    [call] = came["value"]["choices"][0]["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert call["id"]
    assert json.loads(call["function"]["arguments"]).keys() == {"city"}


def test_tools_that_the_sdk_runs(sdk: NodeSdk, fleet: InferGateway, any_model: str) -> None:
    """Whole answers: the call goes out, its result comes in, the model answers."""
    tool = {"type": "function", "function": {**WEATHER["function"], "$answers": "sunny"}}
    asked = {"model": any_model, "messages": CALLED, "tools": [tool], "stop": ["the"]}
    messages = good(sdk(fleet.url, "chat.completions.runTools", asked, take="tools"))["value"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"]
    assert (messages[2]["content"], bool(messages[3]["content"])) == ("sunny", True)


@pytest.mark.parametrize(("call", "take"), [("parse", "value"), ("stream", "chatHelper")])
def test_structured_output(sdk: NodeSdk, fleet: InferGateway, any_model: str, call: str, take: str) -> None:
    asked = {"model": any_model, "messages": QUESTION, "response_format": {"$city": "chat"}}
    answer = good(sdk(fleet.url, f"chat.completions.{call}", asked, take=take))["value"]
    assert answer["choices"][0]["message"]["parsed"] == {"city": "value", "size": 0}


@pytest.mark.parametrize("any_model", TELLING, indirect=True)
def test_logprobs(sdk: NodeSdk, fleet: InferGateway, any_model: str) -> None:
    """Streamed ones by hand: release 6's helper counts those of a first chunk twice."""
    asked = {"model": any_model, **ASKED, "logprobs": True, "top_logprobs": 2}
    [choice] = good(sdk(fleet.url, CHAT, asked))["value"]["choices"]
    events = good(sdk(fleet.url, CHAT, {**asked, "stream": True}, take="events"))["events"]
    pieces = [piece.get("logprobs") for event in events for piece in event["choices"]]
    streamed = [piece["content"] for piece in pieces if piece]
    for told in (choice["logprobs"]["content"], [entry for content in streamed for entry in content]):
        assert "".join(entry["token"] for entry in told) == choice["message"]["content"]
        assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in told)


def test_completions(sdk: NodeSdk, fleet: InferGateway, model: str) -> None:
    asked = {"model": model, "prompt": "Once upon a time", "max_tokens": 8}
    whole = good(sdk(fleet.url, "completions.create", asked))["value"]["choices"][0]["text"]
    events = good(sdk(fleet.url, "completions.create", {**asked, "stream": True}, take="events"))["events"]
    assert "".join(choice["text"] for event in events for choice in event["choices"]) == whole != ""


@pytest.mark.parametrize("any_model", EMBEDDING, indirect=True)
def test_embeddings(sdk: NodeSdk, fleet: InferGateway, any_model: str) -> None:
    """As numbers, and as the base64 that the SDK asks for unasked."""
    given = {"model": any_model, "input": ["one", "two words"]}
    encoded = good(sdk(fleet.url, "embeddings.create", given))["value"]
    plain = good(sdk(fleet.url, "embeddings.create", {**given, "encoding_format": "float"}))["value"]
    assert [item["index"] for item in encoded["data"]] == [0, 1]
    for one, other in zip(encoded["data"], plain["data"], strict=True):
        assert one["embedding"] == pytest.approx(other["embedding"], rel=1e-5)


def test_models(sdk: NodeSdk, fleet: InferGateway, any_model: str) -> None:
    assert any_model in {card["id"] for card in good(sdk(fleet.url, "models.list", take="page"))["value"]}
    assert good(sdk(fleet.url, "models.retrieve", any_model))["value"]["id"] == any_model


def test_a_model_that_nobody_serves(sdk: NodeSdk, fleet: InferGateway) -> None:
    missing = sdk(fleet.url, "models.retrieve", "no/such-model")["error"]
    assert (missing["kinds"][0], missing["code"]) == ("NotFoundError", "model_not_found")


@pytest.mark.parametrize("any_model", RESPONDING, indirect=True)
def test_responses(sdk: NodeSdk, fleet: InferGateway, any_model: str) -> None:
    asked = {"model": any_model, "input": "Why is the sky blue?", "max_output_tokens": 12}
    whole = good(sdk(fleet.url, "responses.create", asked))["value"]
    came = good(sdk(fleet.url, "responses.stream", asked, take="responseHelper"))
    assert (whole["object"], whole["model"], whole["usage"]["output_tokens"]) == ("response", any_model, 12)
    assert came["value"]["output_text"] == whole["output_text"] != ""
    assert [event["sequence_number"] for event in came["events"]] == list(range(len(came["events"])))
    deltas = (event["delta"] for event in came["events"] if event["type"] == "response.output_text.delta")
    assert "".join(deltas) == whole["output_text"]


@pytest.mark.parametrize("any_model", RESPONDING, indirect=True)
def test_responses_parsed(sdk: NodeSdk, fleet: InferGateway, any_model: str) -> None:
    asked = {"model": any_model, "input": "Which city?", "text": {"format": {"$city": "text"}}}
    assert good(sdk(fleet.url, "responses.parse", asked))["value"]["output_parsed"] == {"city": "value", "size": 0}


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "key", "kind", "status", "code", "param"),
    [
        ({"stream": "yes"}, KEY, "BadRequestError", 400, "invalid_request_error", "stream"),
        ({"messages": None}, KEY, "BadRequestError", 400, "invalid_request_error", "messages"),
        ({"max_tokens": 10**9}, KEY, "BadRequestError", 400, "invalid_request_error", "max_tokens"),
        ({}, "sk-nobody-0123456789", "AuthenticationError", 401, "invalid_api_key", None),
        ({}, NARROW_KEY, "PermissionDeniedError", 403, "model_not_allowed", "model"),
        ({"model": "nobody-serves-this"}, KEY, "NotFoundError", 404, "model_not_found", "model"),
    ],
)
def test_refused(
    sdk: NodeSdk,
    troubled: Troubled,
    changed: dict[str, object],
    key: str,
    kind: str,
    status: int,
    code: str,
    param: str | None,
) -> None:
    """None of these is tried again: it would fail again."""
    asked = {"model": "m", **ASKED, **changed}
    came = sdk(troubled.url, CHAT, asked, options={"apiKey": key, "maxRetries": 2})
    error = came["error"]
    assert error["kinds"][:2] == [kind, "APIError"]
    assert (error["status"], error["code"], error["param"], came["attempts"]) == (status, code, param, 1)
    assert error["request_id"]


@pytest.mark.parametrize(
    ("fault", "kind", "status", "attempts"),
    [
        ("429:0.02", "RateLimitError", 429, 3),
        ("503:0.02", "InternalServerError", 503, 3),
        ("500", "InternalServerError", 500, 1),
        ("502", "InternalServerError", 502, 1),
        ("422", "UnprocessableEntityError", 422, 1),
        ("rubbish", "InternalServerError", 502, 1),
        ("refuse", "InternalServerError", 502, 1),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_engine(
    sdk: NodeSdk, troubled: Troubled, fault: str, kind: str, status: int, attempts: int, stream: bool
) -> None:
    """The SDK tries again where it is told when, and only there: elsewhere the gateway has tried what there was."""
    asked = {"model": "m", **ASKED, "stream": stream}
    take = "events" if stream else "value"
    with troubled.failing(fault if fault != "rubbish" or not stream else "rubbish:sse"):
        came = sdk(troubled.url, CHAT, asked, take=take, options={"apiKey": KEY, "maxRetries": 2})
    assert (came["error"]["kinds"][0], came["error"]["status"]) == (kind, status)
    assert came["retry_counts"] == [str(number) for number in range(attempts)]
    assert came["events"] == []
    assert came["error"]["request_id"]


def test_a_failure_that_passes_is_not_seen(sdk: NodeSdk, troubled: Troubled) -> None:
    with troubled.failing("429:0.02@first=2"):
        came = good(sdk(troubled.url, CHAT, {"model": "m", **ASKED}, options={"apiKey": KEY, "maxRetries": 2}))
    assert came["attempts"] == 3


@pytest.mark.parametrize("fault", ["cut:4", "error-event:4"])
def test_a_stream_that_breaks_raises(sdk: NodeSdk, troubled: Troubled, fault: str) -> None:
    with troubled.failing(fault):
        options = {"apiKey": KEY, "maxRetries": 2}
        came = sdk(troubled.url, CHAT, {"model": "m", **ASKED, "stream": True}, take="events", options=options)
    assert len(text(came["events"]).split()) == 4
    assert finishes(came["events"]) == []
    assert (came["error"]["kinds"][0], came["attempts"]) == ("APIError", 1)
    assert came["error"]["code"]
    assert came["error"]["message"]


@pytest.mark.parametrize("how", [{"leave": 4}, {"abort": 4}])
def test_leaving_a_stream_frees_the_engine(sdk: NodeSdk, troubled: Troubled, how: dict[str, int]) -> None:
    asked = {"model": "m", "messages": QUESTION, "max_tokens": 5000, "stream": True}
    with troubled.relieved():
        came = good(sdk(troubled.url, CHAT, asked, take="events", options={"apiKey": KEY}, **how))
    assert 4 <= len(came["events"]) < 1000


def test_an_aborted_or_timed_out_call_frees_the_engine(sdk: NodeSdk, troubled: Troubled) -> None:
    asked = {"model": "m", "messages": QUESTION, "max_tokens": 5000}
    with troubled.relieved():
        came = sdk(troubled.url, CHAT, asked, {"signal": {"$signal": 200}}, options={"apiKey": KEY})
    assert came["error"]["kinds"][0] == "APIUserAbortError"
    with troubled.relieved():
        came = sdk(troubled.url, CHAT, asked, options={"apiKey": KEY, "timeout": 200})
    assert came["error"]["kinds"][0] == "APIConnectionTimeoutError"


# --- bytes on the wire ------------------------------------------------------------------------------------------------


def test_characters_cut_into_bytes(sdk: NodeSdk) -> None:
    with cutting(SAID) as url, serve("--backend", f"openai={url}") as gateway:
        asked = {"model": "cut", "messages": [{"role": "user", "content": SAID}], "stream": True}
        events = good(sdk(gateway.url, CHAT, asked, take="events"))["events"]
    assert (text(events), finishes(events)) == (SAID + SAID, ["stop"])


def test_two_megabytes_of_prompt(sdk: NodeSdk, troubled: Troubled) -> None:
    asked = {"model": "m", "messages": [{"role": "user", "content": "é" * 1_000_000}], "max_tokens": 1}
    answer = good(sdk(troubled.url, CHAT, asked, options={"apiKey": KEY}))["value"]
    assert answer["usage"]["prompt_tokens"] > 500_000


def test_one_connection_for_many_calls(sdk: NodeSdk, node_modules: Path, troubled: Troubled) -> None:
    """Whole answers, streams read to their end and errors leave it usable."""
    opened = []
    with NodeSdk(node_modules, sdk.package) as fresh:
        for changed in ({}, {"stream": True}, {"model": "nobody-serves-this"}) * 3:
            asked = {"model": "m", **ASKED, "max_tokens": 2, **changed}
            take = "events" if "stream" in changed else "value"
            opened.append(fresh(troubled.url, CHAT, asked, take=take, options={"apiKey": KEY})["connections"])
    assert opened == [1] + 8 * [0]


def test_streams_at_once(sdk: NodeSdk, fleet: InferGateway, model: str) -> None:
    came = good(sdk(fleet.url, CHAT, {"model": model, **ASKED, "stream": True}, take="events", times=20))
    assert len(came["events"]) == 20
    assert len({text(events) for events in came["events"]}) == 1
