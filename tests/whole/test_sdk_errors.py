"""Each failure reaches the official SDK as the exception its users catch."""

from __future__ import annotations

import itertools
import time

import openai
import pytest
from openai import OpenAI

from tests.process import serve, simulate
from tests.whole.test_sdk import QUESTION


@pytest.mark.parametrize(
    ("changed", "param"),
    [({"messages": "not a list"}, "messages"), ({"messages": openai.omit}, "messages"), ({"stream": "yes"}, "stream")],
)
def test_bad_request_names_the_parameter(client: OpenAI, changed: dict[str, object], param: str) -> None:
    body = {"model": "demo-vllm", "messages": QUESTION, **changed}
    body = {name: value for name, value in body.items() if value is not openai.omit}
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/chat/completions", body=body, cast_to=object)
    assert (raised.value.param, raised.value.type) == (param, "invalid_request_error")


def test_the_engines_own_refusal_keeps_its_status(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="demo-vllm", messages=QUESTION, max_tokens=10**9)
    assert raised.value.message


def test_unknown_model(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="nobody-serves-this", messages=QUESTION)
    assert raised.value.code == "model_not_found"
    assert "nobody-serves-this" in raised.value.message


def test_unknown_path_and_wrong_method(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.post("/no/such/path", body={}, cast_to=object)
    with pytest.raises(openai.APIStatusError) as raised:
        client.get("/chat/completions", cast_to=object)
    assert raised.value.status_code == 405
    assert "POST" in raised.value.response.headers["allow"]


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        ("429:2", openai.RateLimitError, 429),
        ("500", openai.InternalServerError, 500),
        ("rubbish", openai.InternalServerError, 502),
    ],
)
def test_a_failing_engine(fault: str, error: type[openai.APIStatusError], status: int) -> None:
    with (
        simulate("vllm", "m", "--fail", fault) as engine,
        serve("--backend", f"vllm={engine.url}") as gateway,
        OpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=0) as client,
    ):
        with pytest.raises(error) as raised:
            client.chat.completions.create(model="m", messages=QUESTION)
        assert raised.value.status_code == status
        if status == 429:
            assert raised.value.response.headers["retry-after"] == "2"


def test_no_engine_left() -> None:
    engine = simulate("vllm", "m")
    with (
        engine,
        serve("--backend", f"vllm={engine.url}") as gateway,
        OpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=0) as client,
    ):
        engine.kill()
        with pytest.raises(openai.InternalServerError) as raised:
            client.chat.completions.create(model="m", messages=QUESTION)
        assert raised.value.status_code in (502, 503)


def test_an_engine_killed_mid_stream_raises_in_the_iteration() -> None:
    engine = simulate("vllm", "m", "--itl", "0.02")
    with (
        engine,
        serve("--backend", f"vllm={engine.url}") as gateway,
        OpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=0) as client,
        client.chat.completions.create(model="m", messages=QUESTION, max_tokens=1000, stream=True) as stream,
    ):
        chunks = iter(stream)
        texts = (chunk.choices[0].delta.content for chunk in chunks if chunk.choices)
        assert sum(bool(text) for text in itertools.islice(texts, 5)) >= 3
        engine.kill()
        with pytest.raises(openai.APIError) as raised:
            list(chunks)
        assert raised.value.code == "upstream_error"


def test_the_sdk_retries_a_rate_limit_as_told() -> None:
    with (
        simulate("vllm", "m", "--fail", "429:1") as engine,
        serve("--backend", f"vllm={engine.url}") as gateway,
        OpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=1) as client,
    ):
        began = time.monotonic()
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="m", messages=QUESTION)
        assert time.monotonic() - began >= 0.9
