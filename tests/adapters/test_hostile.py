"""What no client should send: every adapter translates it or refuses it by name, and nothing else comes of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import constraint, dialect, registry
from gateway.errors import GatewayError, InvalidRequest
from gateway.types import Endpoint, InferenceRequest, Operation, UpstreamRequest
from protocols.openai.parse import parse

ADAPTERS = registry.load()
ENDPOINTS = [
    *(Endpoint(name, "http", "127.0.0.1", 8000) for name in ADAPTERS),
    Endpoint("openai", "https", "x.example", 443, query="api-version=1", deployments=True),
    *(Endpoint("vllm", "http", "127.0.0.1", 8000, labels=(("version", v),)) for v in ("0.6.0", "0.11.0")),
]
BASES = {
    Operation.CHAT: '"model":"m","messages":[{"role":"user","content":"hi"}]',
    Operation.MESSAGES: '"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]',
    Operation.COMPLETIONS: '"model":"m","prompt":"hi"',
}
NAMES = sorted(
    {
        *dialect.STEERING, *dialect.EXTRAS, *dialect.IDLE, *dialect.NEEDED - {"messages", "prompt"},
        *constraint.MEMBERS, *(name for adapter in ADAPTERS.values() for name in getattr(adapter, "refused", ())),
        "stop", "user", "thinking", "output_config", "system", "stop_sequences", "top_p", "temperature",
        "reasoning_effort", "parallel_tool_calls", "stream_options", "max_completion_tokens", "cache_control",
    }
)  # fmt: skip


def encoded(operation: Operation, body: str | bytes) -> Iterator[tuple[str, UpstreamRequest | InvalidRequest]]:
    """What each endpoint would be sent of what the gateway takes in, or why it would not."""
    data = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    try:
        request: InferenceRequest = parse(operation, data, (), request_id="r", path=operation.value)
    except InvalidRequest:
        return
    for endpoint in ENDPOINTS:
        try:
            yield endpoint.engine, ADAPTERS[endpoint.engine].encode(request, endpoint, "theirs")
        except InvalidRequest as error:
            yield endpoint.engine, error
        except GatewayError:  # does not offer it
            pass


def check(operation: Operation, body: str | bytes) -> None:
    for engine, sent in encoded(operation, body):
        if isinstance(sent, UpstreamRequest):
            whole = json.loads(sent.body)
            generates = engine == "tgi" and operation is Operation.COMPLETIONS
            assert generates or whole["model"] == ("tgi" if engine == "tgi" else "theirs")


def told(operation: Operation, body: str) -> set[str | None]:
    """The members that endpoints refuse."""
    return {sent.param for _, sent in encoded(operation, body) if isinstance(sent, InvalidRequest)}


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["", "a", "none", "auto", "text", "json_schema", "function", "{", "{}", "high", "enabled"]),
    ),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "function", "name", "json", "regex", "choice", "schema", "json_schema", "effort"]),
        inner,
        max_size=3,
    ),
    max_leaves=6,
)  # fmt: skip


@given(st.sampled_from(list(BASES)), st.dictionaries(st.sampled_from(NAMES), json_values, min_size=1, max_size=4))
def test_members_of_odd_types(operation: Operation, members: dict[str, Any]) -> None:
    check(operation, f"{{{BASES[operation]},{json.dumps(members)[1:]}")


@pytest.mark.parametrize("operation", list(BASES))
@pytest.mark.parametrize("value", ["1e999", '"\\ud800"', '["\\ud800"]', "1" + "0" * 5000])
@pytest.mark.parametrize("name", ["seed", "top_p", "logit_bias", "guided_json", "guided_choice", "stop", "tools"])
def test_values_that_are_json_and_cannot_be_read(operation: Operation, value: str, name: str) -> None:
    body = f'{{{BASES[operation]},"{name}":{value}}}'
    assert told(operation, body) <= {name, "stop_sequences", None}


def deep(depth: int, call: Any) -> Any:
    return call() if depth == 0 else deep(depth - 1, call)


@pytest.mark.parametrize("name", ["seed", "tools", "logit_bias", "guided_json", "whatever"])
@pytest.mark.parametrize("operation", list(BASES))
def test_as_deep_as_can_be_read(operation: Operation, name: str) -> None:
    """What one reader still takes may be too deep for the next, which is called from further down."""
    for depth in range(870, 1000, 2):
        told(operation, f'{{{BASES[operation]},"{name}":{"[" * depth}{"]" * depth}}}')


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("guided_choice", [1]),
        ("guided_choice", "a"),
        ("structured_outputs", {"choice": [1]}),
        ("structured_outputs", 5),
    ],
)
def test_a_constraint_of_the_wrong_type_is_named_as_its_sender_called_it(member: str, value: Any) -> None:
    body = f'{{{BASES[Operation.CHAT]},"{member}":{json.dumps(value)}}}'
    assert told(Operation.CHAT, body) == {member}


@pytest.mark.parametrize(("operation", "member"), [(Operation.CHAT, "top_p"), (Operation.COMPLETIONS, "best_of")])
def test_tgi_names_what_should_be_a_number(operation: Operation, member: str) -> None:
    body = f'{{{BASES[operation]},"{member}":[1]}}'
    refusals = {engine: sent for engine, sent in encoded(operation, body) if isinstance(sent, InvalidRequest)}
    assert refusals["tgi"].param == member


@pytest.mark.parametrize("member", sorted(constraint.MEMBERS | {"documents", "response_format", "tools"}))
def test_what_an_answer_is_read_by_is_not_left_out(member: str) -> None:
    """Where a route would have what an engine ignores left out."""
    for value in ('[{"a":1}]', '{"a":1}', '"x"'):
        for _, sent in encoded(Operation.CHAT, f'{{{BASES[Operation.CHAT]},"{member}":{value}}}'):
            assert member not in getattr(sent, "droppable", ())


def test_names_of_too_many_members_are_not_even_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes a microsecond each, of everybody's time; many turns are no such members."""
    turns = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}] * 20_000}).encode()
    assert dialect.members(turns).keys() == {"model", "messages"}
    monkeypatch.setattr(dialect, "_MEMBERS", None)
    for body in (json.dumps({f"k{n}": 1 for n in range(20_000)}).encode(), b'{"k":1' + b',"k":1' * 20_000 + b"}"):
        with pytest.raises(InvalidRequest, match="more than 10000 members"):
            dialect.members(body)
