"""What providers say they will still take, however they say it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import rations
from adapters.openai import OpenAI
from adapters.rations import ANTHROPIC, OPENAI, read
from adapters.registry import load
from gateway.types import Headers, Ration

INF = float("inf")
DATE = (b"date", b"Sat, 21 Nov 2026 12:00:00 GMT")


def openai(**fields: bytes) -> Headers:
    return [DATE, *((f"x-ratelimit-{name.replace('_', '-')}".encode(), value) for name, value in fields.items())]


@pytest.mark.parametrize(
    ("fields", "ration"),
    [
        (
            {
                "limit_requests": b"60",
                "remaining_requests": b"59",
                "reset_requests": b"1s",
                "remaining_tokens": b"149984",
                "reset_tokens": b"6m0s",
            },
            Ration(59, 1, 149984, 360),
        ),
        ({"remaining_requests": b"0", "reset_requests": b"20ms"}, Ration(0, 0.02)),
        ({"remaining_tokens": b"0", "reset_tokens": b"1m12.5s"}, Ration(INF, 0, 0, 72.5)),
        ({"remaining_requests": b"7", "reset_requests": b"12"}, Ration(7, 12)),  # Azure
        ({"remaining_requests": b"7"}, None),
        ({"remaining_requests": b"-1", "reset_requests": b"1s"}, None),
        ({"remaining_requests": b"many", "reset_requests": b"1s"}, None),
        ({"remaining_requests": b"7", "reset_requests": b"soon"}, None),
        ({"remaining_requests": b"7", "reset_requests": b""}, None),
        ({"limit_requests": b"7"}, None),
        ({}, None),
    ],
)
def test_openais(fields: dict[str, bytes], ration: Ration | None) -> None:
    assert read(openai(**fields), OPENAI) == ration


def anthropic(*fields: tuple[str, str]) -> Headers:
    return [(f"anthropic-ratelimit-{name}".encode(), value.encode()) for name, value in fields]


def test_anthropics_times_are_counted_from_the_answers_own_date() -> None:
    fields = anthropic(
        ("requests-remaining", "3"),
        ("requests-reset", "2026-11-21T12:00:05Z"),
        ("input-tokens-remaining", "900"),
        ("input-tokens-reset", "2026-11-21T12:00:09Z"),
        ("output-tokens-remaining", "0"),
        ("output-tokens-reset", "2026-11-21T12:01:00Z"),
        ("tokens-remaining", "5000"),
        ("tokens-reset", "2026-11-21T11:59:00Z"),
    )
    assert read([DATE, *fields], ANTHROPIC) == Ration(3, 5, 0, 60)
    assert read(fields, ANTHROPIC) is None  # without a date nobody knows how long that is
    past = anthropic(("tokens-remaining", "5"), ("tokens-reset", "2026-11-21T11:59:00Z"))
    assert read([DATE, *past], ANTHROPIC) == Ration(INF, 0, 5, 0)
    local = anthropic(("tokens-remaining", "5"), ("tokens-reset", "2026-11-21T11:59:00"))
    assert read([DATE, *local], ANTHROPIC) is None


@given(
    st.lists(st.tuples(st.sampled_from([n for pair in OPENAI.requests + ANTHROPIC.tokens for n in pair]), st.binary()))
)
def test_whatever_it_says_nothing_is_raised_and_no_time_is_negative(headers: list[tuple[bytes, bytes]]) -> None:
    for names in (OPENAI, ANTHROPIC):
        ration = read([DATE, *headers], names)
        assert ration is None or (ration.requests_reset >= 0 and ration.tokens_reset >= 0 and ration.wait < INF)


def test_when_anything_is_taken_again() -> None:
    assert Ration(0, 5).wait == 5
    assert Ration(0, 5, 0, 7).wait == 7
    assert Ration(1, 5, 1, 7).wait == 0


def test_a_refusal_without_retry_after_is_as_long_as_the_ration_lasts() -> None:
    headers = openai(remaining_requests=b"0", reset_requests=b"8s")
    assert OpenAI().error(429, headers, b"{}").retry_after == 8
    assert OpenAI().error(429, [*headers, (b"retry-after", b"2")], b"{}").retry_after == 2
    assert OpenAI().error(429, openai(remaining_requests=b"3", reset_requests=b"8s"), b"{}").retry_after is None
    assert OpenAI().error(503, headers, b"{}").retry_after is None


def test_engines_of_ones_own_ration_nothing() -> None:
    headers = openai(remaining_requests=b"0", reset_requests=b"8s")
    rationing = {name for name, adapter in load().items() if adapter.ration(headers) is not None}
    assert rationing.isdisjoint({"vllm", "sglang", "tgi", "llamacpp", "ollama", "trtllm"})
    assert "openai" in rationing
    assert rations.read(headers, OPENAI) == Ration(0, 8)
