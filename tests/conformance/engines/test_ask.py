"""Tokens, texts, plans and made-up values."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.engines import chatml, intake, text, vectors
from conformance.engines.ask import Ask, example, plan


@given(st.text(max_size=200))
def test_text_survives_tokenizing(value: str) -> None:
    if "\0" not in value:
        assert text.decode(text.encode(value)) == value
    assert len(text.encode(value)) == text.count(value.encode())


@given(st.lists(st.integers(0, 1 << 31), max_size=50))
def test_token_ids_count_as_themselves(tokens: list[int]) -> None:
    assert text.count(text.raw(tokens)) == len(tokens)


def asked(**more: Any) -> Ask:
    return Ask(model="m", prompts=[b"p"], **more)


@settings(max_examples=100)
@given(
    prompt=st.binary(max_size=64),
    limit=st.none() | st.integers(0, 100),
    room=st.integers(0, 100),
    stop=st.lists(st.text("aeiou ", min_size=1, max_size=3), max_size=3),
    reasons=st.booleans(),
)
def test_plans_keep_their_limits(prompt: bytes, limit: int | None, room: int, stop: list[str], reasons: bool) -> None:
    made = plan(asked(limit=limit, stop=stop, reasons=reasons), prompt, 0, room, 7)
    assert made == plan(asked(limit=limit, stop=stop, reasons=reasons), prompt, 0, room, 7)
    assert made.length <= min(room, math.inf if limit is None else limit)
    assert len(made.quoted) == made.length
    assert made.reasoning <= made.length
    assert not any(word in made.content for word in stop if made.matched is not None)
    if limit is not None and limit <= room and not made.matched:
        assert (made.length, made.finish) == (limit, "length")


@pytest.mark.parametrize(("read", "more"), [(intake.chat, {"messages": []}), (intake.completion, {"prompt": "p"})])
def test_nobody_is_given_more_answers_than_there_is_memory_for(read: Any, more: dict[str, Any]) -> None:
    assert read({"n": 2**31 - 1, **more}, "m").n == intake.MOST


def test_choices_and_seeds_differ() -> None:
    texts = {tuple(plan(asked(limit=9), b"p", n, 99, seed).pieces) for n in (0, 1) for seed in (0, 1)}
    assert len(texts) == 4


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}, {"a": 0, "b": "value"}),
        ({"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "b": {}}, "required": ["a"]}, {"a": "x"}),
        ({"type": "array", "items": {"type": "number", "minimum": 2}, "minItems": 2}, [2.0, 2.0]),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, False),
        ({"$defs": {"n": {"type": ["integer", "null"]}}, "$ref": "#/$defs/n"}, 0),
        ({"type": "string", "minLength": 7, "maxLength": 7}, "valuexx"),
        (True, {}),
    ],
)
def test_examples_fit_their_schema(schema: Any, value: Any) -> None:
    assert example(schema) == value


def test_a_schema_that_refers_to_itself_ends() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}, "required": ["next"]}
    assert example({"$defs": {"n": node}, "$ref": "#/$defs/n"})


def test_a_longer_conversation_begins_with_the_shorter() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert chatml.render(turns).startswith(chatml.render(turns[:1]).removesuffix(b"assistant\n"))


WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}


@pytest.mark.parametrize(
    ("said", "choice", "called", "forced"),
    [
        ("What is the weather?", "auto", False, False),
        ("Please get weather for Paris.", "auto", True, False),
        ("get_weather", "none", False, False),
        ("Hello", "required", True, False),
        ("Hello", {"type": "function", "function": {"name": "get_weather"}}, True, True),
    ],
)
def test_tools(said: str, choice: Any, called: bool, forced: bool) -> None:
    fields = {"messages": [{"role": "user", "content": said}], "tools": [WEATHER], "tool_choice": choice}
    made = intake.chat(fields, "m")
    assert (made.tool is not None, made.tool_forced) == (called, forced)


def test_a_tool_result_is_answered_in_words() -> None:
    messages = [{"role": "user", "content": "get_weather"}, {"role": "tool", "content": "sunny"}]
    assert intake.chat({"messages": messages, "tools": [WEATHER]}, "m").tool is None


@given(st.binary(max_size=60), st.integers(1, 80))
def test_embeddings_are_unit_vectors(data: bytes, dimensions: int) -> None:
    made = vectors.embedding(data, dimensions)
    assert len(made) == dimensions
    assert math.isclose(sum(value * value for value in made), 1, rel_tol=1e-9)
    assert made == vectors.embedding(data, dimensions)


def test_relevance_follows_shared_words() -> None:
    ranked = vectors.ranked("warm cache", ["cold start", "a warm cache", {"text": "warm"}])
    assert next(at for at, _, _ in ranked) == 1


def test_the_token_that_completes_a_stop_is_the_last() -> None:
    free = plan(asked(limit=20), b"p", 0, 99, 7).pieces
    stop = (free[3] + free[4])[1:]
    made = plan(asked(limit=20, stop=[stop]), b"p", 0, 99, 7)
    assert (made.finish, made.matched, made.length) == ("stop", stop, 5)
    assert made.content == "".join(free[:3]) + free[3][:1]
