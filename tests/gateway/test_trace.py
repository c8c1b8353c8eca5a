"""Trace Context as the specification has it, and as OpenTelemetry's own propagator reads and writes it."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace as api
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.trace import RANDOM, SAMPLED, Context, Sampling, Trace, parse
from gateway.types import Headers

logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
ID, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{ID}-{SPAN}-01".encode()
HEX = "0123456789abcdef"


def bits(count: int) -> int:
    return random.getrandbits(count) or 1


class Carrier:
    """Header fields as the propagator gets them: of a name all values."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        return [value.decode("latin-1") for name, value in carrier if name == key.encode()] or None

    def keys(self, carrier: Headers) -> Sequence[str]:
        return [name.decode() for name, _ in carrier]


def oracle(headers: Headers) -> api.SpanContext:
    context = TraceContextTextMapPropagator().extract(headers, getter=Carrier())
    return api.get_current_span(context).get_span_context()


parts = st.tuples(
    st.sampled_from(["00", "00", "01", "cc", "ff", "0", "0A", "000"]),
    st.one_of(st.text(HEX, min_size=32, max_size=32), st.sampled_from([ID, "0" * 32, ID.upper(), ID[1:], ID + "0"])),
    st.one_of(st.text(HEX, min_size=16, max_size=16), st.sampled_from([SPAN, "0" * 16, SPAN.upper(), SPAN[1:]])),
    st.one_of(st.text(HEX, min_size=2, max_size=2), st.sampled_from(["1", "zz", "001"])),
    st.sampled_from(["", "", "-", "-what-the-future-brings", "x", ".", "\n"]),
).map(lambda each: ("-".join(each[:4]) + each[4]).encode())
keys = st.one_of(
    st.from_regex(r"[a-z][a-z0-9_*/-]{0,6}(@[a-z][a-z0-9]{0,3})?", fullmatch=True), st.text("aB@ ", max_size=3)
)
members = st.tuples(keys, st.text(st.characters(codec="latin-1", exclude_characters=","), max_size=6)).map("=".join)
states = st.lists(st.one_of(members, st.sampled_from(["", " ", "\t", "a=1", "b"])), max_size=34).map(",".join)


@given(parts)
def test_what_a_parent_may_look_like(value: bytes) -> None:
    found, expected = parse([(b"traceparent", value)]), oracle([(b"traceparent", value)])
    assert (found is not None) == (expected.is_valid and not value.endswith(b"\n"))
    if found is not None:
        flags = expected.trace_flags & (SAMPLED | RANDOM)
        assert (found.trace_id, found.span_id, found.flags) == (expected.trace_id, expected.span_id, flags)


@given(st.lists(states, min_size=1, max_size=2))
def test_what_vendors_may_say(given: list[str]) -> None:
    fields = [(b"traceparent", PARENT), *((b"tracestate", state.encode("latin-1")) for state in given)]
    found = parse(fields)
    assert found is not None
    expected = oracle(fields).trace_state
    if sum(map(len, given)) + len(given) - 1 <= 512:
        assert found.state.decode() == ",".join(f"{key}={value}" for key, value in expected.items())
    else:
        assert found.state == b""


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"tracestate", b"a=1")],
        [(b"traceparent", PARENT), (b"traceparent", PARENT)],
        [(b"traceparent", b"")],
        [(b"traceparent", b"\xff" * 55)],
    ],
)
def test_nothing_to_go_by(headers: Headers) -> None:
    assert parse(headers) is None


@pytest.mark.parametrize("state", ["a=1,a=2", "a=1,b", ",".join(f"k{n}=v" for n in range(33)), "a=" + "x" * 511])
def test_all_that_vendors_say_is_left_out_if_it_makes_no_sense(state: str) -> None:
    found = parse([(b"traceparent", PARENT), (b"tracestate", state.encode())])
    assert found is not None
    assert found.state == b""


def test_a_key_may_begin_with_a_digit_as_of_level_2() -> None:
    found = parse([(b"traceparent", PARENT), (b"tracestate", b"1a@b=c")])
    assert found is not None
    assert found.state == b"1a@b=c"


@given(st.binary(min_size=16, max_size=16), st.booleans(), states)
def test_what_goes_on_is_what_everybody_else_would_read(seed: bytes, sampled: bool, state: str) -> None:
    parent = parse([(b"traceparent", PARENT), (b"tracestate", state.encode("latin-1"))])
    trace = Trace(parent, int.from_bytes(seed, "big") or 1, sampled, bits)
    step = trace.step("attempt", 1.0)
    given = [(b"traceparent", b"old"), (b"accept", b"x"), (b"tracestate", b"old")]
    sent = trace.headers(given, step)
    assert [field for field in sent if field[0] == b"accept"] == [(b"accept", b"x")]
    assert [name for name, _ in sent].count(b"traceparent") == 1
    read, ours = oracle(sent), parse(sent)
    assert ours == Context(trace.trace_id, step.span_id, trace.flags, trace.state)
    assert (read.trace_id, read.span_id, read.trace_flags) == (trace.trace_id, step.span_id, trace.flags)
    assert bool(read.trace_flags & SAMPLED) is sampled


def test_who_is_not_sampled_by_its_caller_is_passed_on_untouched() -> None:
    headers = [(b"traceparent", f"00-{ID}-{SPAN}-00".encode()), (b"tracestate", b"odd")]
    trace = Trace(parse(headers), 1, False, bits)
    assert trace.headers(headers, None) is headers


def test_a_trace_of_our_own_says_that_its_id_is_random_and_that_nobody_keeps_it() -> None:
    trace = Trace(None, 5, False, bits)
    ((_, value),) = trace.headers([(b"traceparent", b"malformed")], None)
    assert value == b"00-%032x-%016x-02" % (5, trace.span_id)


@given(st.integers(1, (1 << 128) - 1), st.floats(0, 1))
def test_replicas_agree_by_the_trace_id(trace_id: int, ratio: float) -> None:
    theirs = TraceIdRatioBased(ratio).should_sample(None, trace_id, "x").decision is Decision.RECORD_AND_SAMPLE
    assert Sampling.of(ratio).wanted(None, trace_id) == theirs


def test_a_caller_decides_for_its_own_trace() -> None:
    for flags in (0, 1, 2, 3):
        parent = Context(1, 1, flags)
        assert Sampling.of(1.0).wanted(parent, 1) is Sampling.of(0.0).wanted(parent, 1) is bool(flags & SAMPLED)
        assert Sampling.of(1.0, by_parent=False).wanted(parent, 1)
        assert not Sampling.of(0.0, by_parent=False).wanted(parent, 1)


def test_what_is_kept_of_an_answer_is_bounded() -> None:
    trace = Trace(None, 1, True, bits, content=True)
    for _ in range(100):
        trace.say(b"x" * 10_000)
    assert len(trace.said) == 256 * 1024
