"""The OpenAI dialect: what is sent, and what is not."""

import json

import pytest

from adapters.dialect import STEERING
from adapters.openai import OpenAI
from adapters.vllm import VLLM
from gateway.errors import InvalidRequest, NotFound
from gateway.types import Endpoint, Operation
from tests.adapters.recorded import endpoint, request

ADAPTER = OpenAI()
BODY = b'{ "model" : "tiny", "messages":[{"role":"user","content":"hi"}], "seed": 12345678901234567890123, "x":1.10 }'


def sent(body: bytes, model: str = "tiny", adapter: OpenAI = ADAPTER, **kwargs: object) -> bytes:
    return adapter.encode(request(body, **kwargs), endpoint(), model).body  # type: ignore[arg-type]


def test_a_body_in_which_nothing_changes_is_sent_byte_for_byte() -> None:
    assert sent(BODY) is BODY


def test_another_model_name_is_spliced_in() -> None:
    assert sent(BODY, model='org/"m"') == BODY.replace(b'"tiny"', b'"org/\\"m\\""')


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETIONS])
def test_a_stream_is_asked_for_usage(operation: Operation) -> None:
    body = b'{"model":"tiny","stream":true}'
    after = json.loads(sent(body, stream=True, operation=operation))
    assert after == {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}}


def test_other_stream_options_stay() -> None:
    body = b'{"model":"tiny","stream":true,"stream_options":{"include_usage":false,"x":1.0}}'
    assert sent(body, stream=True) == body.replace(b"false", b"true")


def test_a_client_that_asked_for_usage_is_sent_as_it_came() -> None:
    body = b'{"model":"tiny","stream":true,"stream_options":{"include_usage":true}}'
    assert sent(body, stream=True, include_usage=True) is body


@pytest.mark.parametrize("operation", [Operation.RESPONSES, Operation.MESSAGES])
def test_other_streams_know_no_stream_options(operation: Operation) -> None:
    body = b'{"model":"tiny","stream":true}'
    assert sent(body, adapter=VLLM(), stream=True, operation=operation) is body


@pytest.mark.parametrize("name", STEERING)
def test_15_members_that_steer_an_engine_are_not_the_clients_to_set(name: str) -> None:
    body = b'{"model":"tiny","messages":[{"%b":1}],"%b":{"a":[1]},"n":1}' % (name.encode(), name.encode())
    assert sent(body) == b'{"model":"tiny","messages":[{"%b":1}],"n":1}' % name.encode()
    assert sent(body, adapter=OpenAI(trusted=frozenset({name}))) is body


def test_15_an_escaped_spelling_steers_no_more_than_a_plain_one() -> None:
    assert sent(b'{"model":"tiny","lor\\u0061_path":"/etc","priority":null}') == b'{"model":"tiny"}'


def test_15_of_the_clients_headers_only_the_trace_goes_upstream() -> None:
    headers = [
        (b"authorization", b"Bearer secret"),
        (b"x-data-parallel-rank", b"3"),
        (b"x-vllm-priority", b"0"),
        (b"x-override-rid", b"1"),
        (b"x-sglext-ids-framed", b"1"),
        (b"x-session-id", b"s"),
        (b"accept-encoding", b"gzip"),
        (b"expect", b"100-continue"),
        (b"traceparent", b"00-1-2-01"),
        (b"tracestate", b"a=b"),
    ]
    encoded = ADAPTER.encode(request(BODY, headers=headers), endpoint(), "tiny")
    sent = dict((*encoded.headers, *encoded.extra))
    assert sent == {
        b"content-type": b"application/json",
        b"accept": b"application/json",
        b"accept-encoding": b"identity",
        b"user-agent": b"infer-gateway",
        b"x-request-id": b"req-1",
        b"traceparent": b"00-1-2-01",
        b"tracestate": b"a=b",
    }


def test_8_streams_are_asked_for_uncompressed() -> None:
    sent = dict(ADAPTER.encode(request(BODY, stream=True), endpoint(), "tiny").headers)
    assert sent[b"accept-encoding"] == b"identity"
    assert sent[b"accept"] == b"text/event-stream"


def test_an_operation_that_is_not_offered_is_not_found() -> None:
    with pytest.raises(NotFound, match="/v1/rerank"):
        ADAPTER.encode(request(BODY, operation=Operation.RERANK), endpoint(), "tiny")


@pytest.mark.parametrize(
    ("base", "path"), [("", b"/v1/chat/completions"), ("/v1", b"/chat/completions"), ("/llm", b"/v1/chat/completions")]
)
def test_a_base_path_that_ends_in_v1_is_not_followed_by_another(base: str, path: bytes) -> None:
    assert ADAPTER.encode(request(BODY), endpoint(base), "tiny").path == path


def test_a_base_path_of_another_version_is_kept() -> None:
    provider = Endpoint("openai", "https", "h", 443, "/api/paas/v4", versioned=True)
    assert ADAPTER.encode(request(BODY), provider, "tiny").path == b"/chat/completions"


def test_what_is_no_object_is_the_clients_mistake() -> None:
    with pytest.raises(InvalidRequest):
        sent(b"[1]")


@pytest.mark.parametrize(
    ("base_path", "operation", "path"),
    [
        ("", Operation.CHAT, b"/openai/deployments/my%20gpt/chat/completions"),
        ("", Operation.EMBEDDINGS, b"/openai/deployments/my%20gpt/embeddings"),
        ("/team/openai", Operation.CHAT, b"/deployments/my%20gpt/chat/completions"),
        ("", Operation.RESPONSES, b"/openai/responses"),
    ],
)
def test_a_deployment_is_part_of_the_path(base_path: str, operation: Operation, path: bytes) -> None:
    at = Endpoint("openai", "https", "x", 443, base_path, deployments=True, versioned=bool(base_path))
    made = ADAPTER.encode(request(b'{"model":"tiny"}', operation=operation), at, "my gpt")
    assert made.path == path
    assert json.loads(made.body) == {"model": "my gpt"}
