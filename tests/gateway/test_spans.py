"""What spans hold of a request, and that nothing in one keeps it from being encoded."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource

from gateway import otlp
from gateway.meter import Record
from gateway.spans import Followed, Span, of
from gateway.trace import Context, Trace
from gateway.types import Operation

CHAT = Operation.CHAT.value
anything = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=20)
"""Lone surrogates, control characters and all."""


class Ids:
    """2, 3, 4 …"""

    def __init__(self) -> None:
        self.last = 1

    def __call__(self, bits: int) -> int:
        self.last += 1
        return self.last


def traced(parent: Context | None = None, *, content: bool = False) -> Trace:
    """A sampled trace whose own span is 2, with a queue (3) and two attempts (4, 5), of which the first failed."""
    trace = Trace(parent, 7, True, Ids(), content)
    for name, start, end in (("queue", 1.0, 2.0), ("attempt", 2.0, 3.0), ("attempt", 3.0, 5.0)):
        trace.step(name, start).ended = end
    trace.steps[1].attributes |= {"error.type": "upstream_error", "infer_gateway.engine": "vLLM"}
    trace.steps[2].attributes |= {"gen_ai.request.model": "inner", "infer_gateway.engine": "gemini"}
    trace.steps[2].events = (("first token", 4.0),)
    return trace


def record(**more: object) -> Record:
    given = {"model": "m", "operation": CHAT, "started": 1.0, "ended": 5.0, "engine": "gemini", "attempts": 2, **more}
    return Record(**given)  # type: ignore[arg-type]


def own(followed: Followed) -> Span:
    return of(followed)[0]


def test_a_request_is_a_span_and_its_steps_are_beneath_it() -> None:
    spans = of(Followed(traced(Context(7, 99)), record()))
    shapes = [(span.name, span.kind, span.span_id, span.parent_id, span.error) for span in spans]
    assert shapes == [
        ("chat m", "server", 2, 99, ""),
        ("queue", "internal", 3, 2, ""),
        ("attempt", "client", 4, 2, "upstream_error"),
        ("attempt", "client", 5, 2, ""),
    ]
    assert spans[3].events == (("first token", 4.0),)
    assert spans[2].attributes["gen_ai.provider.name"] == "vllm"
    assert spans[3].attributes["gen_ai.provider.name"] == "gcp.gemini"


def test_its_own_span_in_the_words_of_the_conventions() -> None:
    what = record(
        pool="p", endpoint="e:1", route="r", tenant="t", tier="gold", id="req-1", queue_s=0.0, ttft_s=0.5, stream=True,
        tokens_in=3, tokens_out=2, tokens_cached=1,
    )  # fmt: skip
    assert own(Followed(traced(), what, "alias", "/v1/chat/completions")).attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "alias",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "inner",
        "gen_ai.response.time_to_first_chunk": 0.5,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 1,
        "infer_gateway.attempts": 2,
        "infer_gateway.endpoint": "e:1",
        "infer_gateway.pool": "p",
        "infer_gateway.protocol": "http",
        "infer_gateway.queue_seconds": 0.0,
        "infer_gateway.request_id": "req-1",
        "infer_gateway.route": "r",
        "infer_gateway.tenant": "t",
        "infer_gateway.tier": "gold",
        "infer_gateway.ttft_seconds": 0.5,
    }


def test_who_is_at_fault() -> None:
    def error(status: int, reason: str) -> tuple[str, object]:
        span = own(Followed(traced(), record(status=status, reason=reason)))
        return span.error, span.attributes.get("error.type")

    assert error(503, "overloaded") == ("overloaded", "overloaded")
    assert error(200, "upstream_error") == ("upstream_error", "upstream_error")
    assert error(429, "rate_limited") == ("", None)
    assert error(499, "client_gone") == ("", None)


def test_an_attempt_that_nobody_waits_for_has_not_failed() -> None:
    trace = traced()
    trace.steps[2].attributes["error.type"] = "cancelled"
    assert of(Followed(trace, record()))[3].error == ""


def test_a_name_that_only_a_client_knows_makes_no_span_name() -> None:
    span = own(Followed(traced(), record(model=""), "gpt-of-my-own"))
    assert span.name == "chat"
    assert span.attributes["gen_ai.request.model"] == "gpt-of-my-own"


def test_what_passes_as_it_is_is_named_by_its_method() -> None:
    trace = traced()
    trace.method = "DELETE"
    span = own(Followed(trace, record(operation=""), path="/files/1"))
    assert span.name == "DELETE"
    assert span.attributes["url.path"] == "/files/1"
    assert not [name for name in span.attributes if name.startswith("gen_ai.")]


def test_grpc_has_no_http() -> None:
    attributes = own(Followed(traced(), record(protocol="grpc"))).attributes
    assert attributes["rpc.system.name"] == "grpc"
    assert not [name for name in attributes if name.startswith(("http.", "url."))]


def test_what_is_said_stays_out_unless_it_is_wanted() -> None:
    body = b'{"messages":[{"role":"user","content":"open sesame"}]}'
    for content in (False, True):
        trace = traced(content=content)
        trace.say(b'{"choices":[{"index":0,"message":{"content":"it opens"},"finish_reason":"stop"}]}')
        spans = of(Followed(trace, record(), "m", "/", body))
        assert ("sesame" in repr(spans), "it opens" in repr(spans)) == (content, content)
    asked = spans[0].attributes["gen_ai.input.messages"]
    assert json.loads(str(asked)) == [{"role": "user", "parts": [{"type": "text", "content": "open sesame"}]}]


@given(
    anything,
    anything,
    anything,
    st.binary(max_size=40),
    st.booleans(),
    st.integers(),
    st.sampled_from([*Operation, ""]),
)
def test_nothing_keeps_a_span_from_being_sent(
    model: str, name: str, path: str, body: bytes, content: bool, tokens: int, operation: str
) -> None:
    trace = traced(content=content)
    trace.method = name
    trace.say(body)
    trace.steps[1].attributes["infer_gateway.endpoint"] = name
    what = record(
        model=model, id=name, tenant=path, engine=name, operation=operation, tokens_in=tokens, ttft_s=math.inf
    )
    sent = otlp._made(otlp.Queued(Followed(trace, what, model * 1000, path, body), 1e9), Resource({}))
    read = encode_spans(sent).resource_spans[0].scope_spans[0].spans
    assert len(read) == 4
    assert max(len(each.value.string_value) for span in read for each in span.attributes) <= 1 << 21
