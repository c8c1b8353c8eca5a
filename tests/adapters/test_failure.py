"""Every engine's failures as one shape."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import failure
from gateway.errors import UpstreamError
from protocols.openai.errors import body
from tests.adapters.recorded import answer


def told(status: int, content: bytes | str, headers: dict[str, str] | None = None) -> UpstreamError:
    raw = content.encode() if isinstance(content, str) else content
    fields = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return failure.of_answer(status, fields, raw)


@pytest.mark.parametrize(
    ("name", "status", "code", "param", "message"),
    [
        ("vllm/err-context-too-long", 400, "context_length_exceeded", "input_tokens", "maximum context length is 2048"),
        ("sglang/err-context-too-long", 400, "context_length_exceeded", None, "longer than the model's context"),
        ("llamacpp/err-context-too-long", 400, "context_length_exceeded", None, "exceeds the available context"),
        ("vllm/err-unknown-model", 404, "model_not_found", "model", "The model `nope` does not exist"),
        ("vllm/err-invalid-json", 400, "invalid_request_error", None, "JSON decode error"),
        ("vllm/err-temperature", 400, "invalid_request_error", "temperature", "temperature"),
        ("sglang/err-temperature", 400, "invalid_request_error", None, "temperature"),
        ("vllm/embeddings", 404, "not_found", None, "does not offer this operation"),
        ("llamacpp/embeddings", 501, "not_implemented", None, "does not support embeddings"),
        ("sglang/err-not-object", 500, "upstream_error", None, "Internal Server Error"),
        ("vllm/chat-tools", 400, "invalid_request_error", None, "tool choice requires"),
    ],
)
def test_recorded_errors(name: str, status: int, code: str, param: str | None, message: str) -> None:
    error = failure.of_answer(*answer(name))
    assert (error.status, error.code, error.param, error.retryable) == (status, code, param, False)
    assert message in error.message


@pytest.mark.parametrize("name", ["sglang/err-bad-role", "sglang/err-invalid-json", "sglang/err-no-messages"])
def test_tracebacks_and_file_names_of_the_engine_stay_with_the_operator(name: str) -> None:
    error = failure.of_answer(*answer(name))
    assert "File" not in error.message
    assert "/srv/" not in error.message
    assert "validation error" in error.message


NO_OFFER = "the engine behind this model does not offer this operation (it answered HTTP 404 Not Found)"
CODES = [
    # vLLM ≥ 0.10.1, vLLM ≤ 0.10.0 and trtllm (flat), SGLang, OpenAI, TGI, Ollama, DeepSeek, Anthropic, text, nothing
    (
        400,
        '{"error":{"message":"m","type":"BadRequestError","param":"p","code":400}}',
        400,
        "invalid_request_error",
        "m",
    ),
    (
        400,
        '{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}',
        400,
        "invalid_request_error",
        "m",
    ),
    (400, '{"error":{"message":"m","type":"t","param":"x","code":"unknown_parameter"}}', 400, "unknown_parameter", "m"),
    (422, '{"error":"m","error_type":"validation"}', 422, "invalid_request_error", "m"),
    (422, "Failed to deserialize the JSON body", 422, "invalid_request_error", "Failed to deserialize the JSON body"),
    (424, '{"error":"m","error_type":"generation"}', 502, "upstream_error", "m"),
    (
        422,
        '{"error":"`inputs` must have less than 10 tokens. Given: 12","error_type":"validation"}',
        400,
        "context_length_exceeded",
        "must have",
    ),
    (
        404,
        '{"error":{"message":"model not found: x","type":"not_found_error","param":null,"code":null}}',
        404,
        "model_not_found",
        "m",
    ),
    (
        404,
        '{"type":"error","error":{"type":"not_found_error","message":"model: claude-x"},"request_id":"r"}',
        404,
        "model_not_found",
        "model: claude-x",
    ),
    (  # TensorRT-LLM
        400,
        '{"error":"`default_max_tokens` (-21) should be greater than 0, `default_max_tokens` (-21) = max_seq_len (8)"}',
        400,
        "context_length_exceeded",
        "`default_max_tokens` (-21) should be greater than 0, `default_max_tokens` (-21) = max_seq_len (8)",
    ),
    (
        400,
        '{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed '
        'context limit: 9 + 9 > 10, decrease input length or `max_tokens` and try again"}}',
        400,
        "context_length_exceeded",
        "exceed context limit",
    ),
    (404, '{"detail":"Not Found"}', 404, "not_found", NO_OFFER),
    (404, '{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}', 404, "not_found", NO_OFFER),
    (404, "404 page not found\n", 404, "not_found", NO_OFFER),
    (404, '{"detail":"Not Found: no adapter x"}', 404, "not_found", "Not Found: no adapter x"),
    (413, "", 413, "invalid_request_error", "HTTP 413"),
    (500, "<html><body>oops</body></html>", 500, "upstream_error", "HTTP 500 Internal Server Error"),
    (504, "", 504, "upstream_timeout", "HTTP 504"),
    (302, "", 502, "upstream_error", "HTTP 302"),
    (520, "", 502, "upstream_error", "HTTP 520"),
    (400, '{"detail":[{"loc":["body"],"msg":"bad"}]}', 400, "invalid_request_error", '"msg": "bad"'),
]


@pytest.mark.parametrize(("status", "content", "expected", "code", "message"), CODES)
def test_errors_about_the_request_are_not_tried_elsewhere(
    status: int, content: str, expected: int, code: str, message: str
) -> None:
    error = told(status, content)
    assert (error.status, error.code, error.retryable) == (expected, code, False)
    assert message in error.message


RETRYABLE = [
    (429, '{"error":{"message":"slow down","code":"rate_limit_exceeded"}}', 429, "rate_limit_exceeded"),
    (429, '{"error":"Model is overloaded","error_type":"overloaded"}', 429, "overloaded"),
    (
        429,
        '{"error":{"message":"m","type":"insufficient_quota","code":"insufficient_quota"}}',
        429,
        "insufficient_quota",
    ),
    (402, '{"error":{"message":"Insufficient Balance","type":"unknown_error"}}', 402, "insufficient_quota"),
    (408, "", 408, "invalid_request_error"),
    (502, "", 502, "upstream_error"),
    (503, '{"error":"The model is currently scaling..."}', 503, "overloaded"),
    (
        503,
        '{"object":"error","message":"The request queue is full.","type":"503","param":null,"code":503}',
        503,
        "overloaded",
    ),
    (529, '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', 503, "overloaded"),
    (
        500,
        '{"error":{"message":"EngineCore encountered an issue. See","type":"InternalServerError","code":500}}',
        500,
        "upstream_error",
    ),
    (500, '{"error":{"message":"cannot schedule new futures after shutdown","code":500}}', 500, "upstream_error"),
]


@pytest.mark.parametrize(("status", "content", "expected", "code"), RETRYABLE)
def test_16_what_another_endpoint_may_be_asked(status: int, content: str, expected: int, code: str) -> None:
    error = told(status, content)
    assert (error.status, error.code, error.retryable) == (expected, code, True)


@pytest.mark.parametrize(
    ("status", "content"), [(401, '{"error":"Unauthorized"}'), (401, ""), (403, '{"error":"sk-123 is bad"}')]
)
def test_an_engine_that_refuses_the_gateway_is_not_the_callers_fault(status: int, content: str) -> None:
    error = told(status, content)
    assert (error.status, error.code, error.type, error.retryable) == (502, "upstream_error", "server_error", True)
    assert "credentials" in error.message
    assert "sk-123" not in error.message


@pytest.mark.parametrize(
    ("headers", "content", "expected"),
    [
        ({"retry-after": "7"}, "", 7.0),
        ({"retry-after": "1.5"}, "", 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, "", 0.25),
        ({"date": "Sat, 21 Nov 2026 04:00:00 GMT", "retry-after": "Sat, 21 Nov 2026 04:00:30 GMT"}, "", 30.0),
        ({"date": "Sat, 21 Nov 2026 04:00:00 GMT", "retry-after": "Sat, 21 Nov 2026 03:00:30 GMT"}, "", 0.0),
        ({"retry-after": "Sat, 21 Nov 2026 04:00:30 GMT"}, "", None),
        ({"retry-after": "-3"}, "", None),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "soon"}, "", None),
        ({}, "", None),
        (
            {},
            '[{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"13s"}]}}]',
            13.0,
        ),
    ],
)
def test_retry_after_in_all_its_spellings(headers: dict[str, str], content: str, expected: float | None) -> None:
    error = told(429, content, headers)
    assert error.retry_after == expected
    assert error.type == "rate_limit_error"


@pytest.mark.parametrize("wrap", ["%s", "[%s]"])
def test_geminis_error_as_object_or_array(wrap: str) -> None:
    error = told(400, wrap % '{"error":{"code":400,"message":"Unknown name","status":"INVALID_ARGUMENT"}}')
    assert (error.status, error.message, error.code) == (400, "Unknown name", "invalid_request_error")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["error", "\ud83d"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "param", "details", "detail"]), inner)
    ),
    max_leaves=8,
)


@given(st.integers(300, 599), JSON)
def test_no_body_is_too_odd(status: int, document: object) -> None:
    for error in (told(status, json.dumps(document)), failure.of_event(document, started=False)):
        shown = json.loads(body(error))["error"]
        assert 400 <= error.status <= 599
        assert shown["message"]
        assert isinstance(shown["code"], str | None)
        assert isinstance(shown["param"], str | None)


@pytest.mark.parametrize("name", ["message", "code", "param"])
def test_half_an_emoji_can_be_told(name: str) -> None:
    """Engines say again what a client wrote, and JSON can write what UTF-8 cannot."""
    document = {"error": {"message": "m", "status_code": 400, name: "a\ud83d"}}
    for error in (told(400, json.dumps(document)), failure.of_event(document, started=True)):
        assert json.loads(body(error))["error"][name] == "a?"


@pytest.mark.parametrize("blank", [" ", "\n", "\n ", " \n\n"])
def test_what_a_client_wrote_is_read_in_linear_time(blank: str) -> None:
    """Pydantic says it again; where that took the cube of it, a few thousand line ends held up everybody."""
    error = told(400, json.dumps({"error": {"message": f"a{blank * 200_000}b", "type": "model" * 200_000}}))
    assert error.message == f"a{blank * 200_000}"[: failure.MAX_MESSAGE]


def test_names_of_an_engine_are_short() -> None:
    error = told(400, json.dumps({"error": {"message": "m", "code": "c" * 100_000, "param": "p" * 100_000}}))
    assert (error.code, error.param) == ("c" * 200, "p" * 200)


@given(st.binary(max_size=40))
def test_no_bytes_are_too_odd(content: bytes) -> None:
    assert told(500, content).message


@pytest.mark.parametrize("code", ["\N{SUPERSCRIPT TWO}", "4" * 5000, "40", "4\N{SUPERSCRIPT TWO}9"])
def test_digits_that_are_no_status(code: str) -> None:
    assert told(500, json.dumps({"error": {"message": "m", "code": code}})).status == told(500, "{}").status


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("body.max_tokens", "max_tokens"),
        ("body", None),
        ("body.28", None),
        ("bodyguard", "bodyguard"),
        ("", None),
        (5, None),
    ],
)
def test_a_param_is_the_clients_name_for_it(param: object, expected: str | None) -> None:
    assert told(400, json.dumps({"error": {"message": "m", "param": param}})).param == expected
