"""What holds an answer to a form, asked for in one engine's words and told to another."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.constraint import as_regex
from adapters.llamacpp import LlamaCpp
from adapters.openai import OpenAI
from adapters.providers import DeepSeek, Gemini, HuggingFace, Ollama, TensorRT
from adapters.sglang import SGLang
from adapters.tgi import TGI
from adapters.vllm import VLLM
from gateway.errors import InvalidRequest, Unsupported
from gateway.ports import Adapter
from gateway.types import Operation
from tests.adapters.recorded import endpoint, request

SCHEMA = {"type": "object", "properties": {"a": {"const": "50%"}}}
OBJECT = {"type": "json_object"}
OPENAI_SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}


def sent(adapter: Adapter, version: str = "", operation: Operation = Operation.CHAT, **members: Any) -> dict[str, Any]:
    """The members beside the model that an engine gets."""
    asked = request(json.dumps({"model": "tiny", **members}).encode(), operation=operation)
    labels = (("version", version),) if version else ()
    decoded = json.loads(adapter.encode(asked, endpoint(labels=labels), "tiny").body)
    assert isinstance(decoded, dict)
    decoded.pop("model", None)
    return decoded


@pytest.mark.parametrize(
    ("adapter", "version", "given", "told"),
    [
        (VLLM(), "", {"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}),
        (VLLM(), "0.33.0", {"guided_regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
        (VLLM(), "0.12.0", {"guided_choice": ["a"]}, {"structured_outputs": {"choice": ["a"]}}),
        (VLLM(), "dev", {"guided_json_object": True}, {"structured_outputs": {"json_object": True}}),
        (VLLM(), "", {"regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
        (VLLM(), "", {"ebnf": "root"}, {"structured_outputs": {"grammar": "root"}}),
        (VLLM(), "", {"structured_outputs": {"json": SCHEMA}}, {"structured_outputs": {"json": SCHEMA}}),
        (VLLM(), "0.11.2", {"guided_json": SCHEMA}, {"guided_json": SCHEMA}),
        (VLLM(), "0.11.2", {"structured_outputs": {"regex": "a"}}, {"structured_outputs": {"regex": "a"}}),
        (VLLM(), "0.11.2", {"ebnf": "root"}, {"structured_outputs": {"grammar": "root"}}),
        (VLLM(), "0.6.6", {"structured_outputs": {"json": SCHEMA}}, {"guided_json": SCHEMA}),
        (VLLM(), "0.10.2", {"structured_outputs": {"choice": ["a"], "regex": None}}, {"guided_choice": ["a"]}),
        (VLLM(), "0.10.2", {"guided_grammar": "root"}, {"guided_grammar": "root"}),
        (SGLang(), "", {"guided_json": SCHEMA}, {"response_format": OPENAI_SCHEMA}),
        (SGLang(), "", {"guided_json": json.dumps(SCHEMA)}, {"response_format": OPENAI_SCHEMA}),
        (SGLang(), "", {"structured_outputs": {"regex": "a+"}}, {"regex": "a+"}),
        (SGLang(), "", {"guided_grammar": "root"}, {"ebnf": "root"}),
        (SGLang(), "", {"guided_choice": ["a", 'b"']}, {"ebnf": 'root ::= "a" | "b\\""'}),
        (SGLang(), "", {"guided_json_object": True}, {"response_format": OBJECT}),
        (SGLang(), "", {"regex": "a", "ebnf": None}, {"regex": "a", "ebnf": None}),
        (TensorRT(), "", {"guided_json": SCHEMA}, {"response_format": {"type": "json", "schema": SCHEMA}}),
        (TensorRT(), "", {"regex": "a"}, {"response_format": {"type": "regex", "regex": "a"}}),
        (TensorRT(), "", {"guided_choice": ["a"]}, {"response_format": {"type": "ebnf", "ebnf": 'root ::= "a"'}}),
        (LlamaCpp(), "", {"guided_json": SCHEMA}, {"json_schema": SCHEMA}),
        (LlamaCpp(), "", {"structured_outputs": {"json_object": True}}, {"json_schema": {"type": "object"}}),
        (LlamaCpp(), "", {"guided_choice": ["a"]}, {"grammar": 'root ::= "a"'}),
        (LlamaCpp(), "", {"json_schema": SCHEMA}, {"json_schema": SCHEMA}),
        (TGI(), "", {"guided_json": SCHEMA}, {"response_format": {"type": "json", "value": SCHEMA}}),
        (TGI(), "", {"guided_regex": "a"}, {"response_format": {"type": "regex", "value": "a"}}),
        (TGI(), "", {"guided_choice": ["a.", "b"]}, {"response_format": {"type": "regex", "value": "(a\\.|b)"}}),
        (Ollama(), "", {"guided_json": SCHEMA}, {"response_format": OPENAI_SCHEMA}),
        (Gemini(), "", {"guided_json": SCHEMA}, {"response_format": OPENAI_SCHEMA}),
        (DeepSeek(), "", {"guided_json_object": True}, {"response_format": OBJECT}),
        (OpenAI(), "", {"guided_json": SCHEMA, "regex": "a"}, {"guided_json": SCHEMA, "regex": "a"}),
        (HuggingFace(), "", {"guided_json": SCHEMA}, {"guided_json": SCHEMA}),
    ],
)
def test_it_is_told_in_the_engines_words(
    adapter: Adapter, version: str, given: dict[str, Any], told: dict[str, Any]
) -> None:
    assert sent(adapter, version, **given) == told


@pytest.mark.parametrize(
    ("adapter", "given", "param"),
    [
        (LlamaCpp(), {"regex": "a"}, "regex"),
        (LlamaCpp(), {"guided_grammar": "a"}, "guided_grammar"),
        (TGI(), {"ebnf": "a"}, "ebnf"),
        (DeepSeek(), {"guided_json": SCHEMA}, "guided_json"),
        (Gemini(), {"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        (Ollama(), {"guided_choice": ["a"]}, "guided_choice"),
        (SGLang(), {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " "}}, "structured_outputs"),
        (SGLang(), {"guided_json": SCHEMA, "guided_regex": "a"}, "guided_regex"),
        (SGLang(), {"guided_json": SCHEMA, "response_format": OBJECT}, "guided_json"),
        (VLLM(), {"guided_json": SCHEMA, "response_format": OBJECT}, "guided_json"),
        (TGI(), {"guided_json": SCHEMA, "tools": [{"type": "function"}]}, "response_format"),
    ],
)
def test_what_an_engine_has_no_words_for_is_refused_whatever_the_route_says(
    adapter: Adapter, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(Unsupported) as caught:
        sent(adapter, **given)
    assert (caught.value.param, caught.value.droppable) == (param, ())


def test_a_plain_text_format_is_no_second_constraint() -> None:
    told = sent(VLLM(), guided_json=SCHEMA, response_format={"type": "text"})
    assert told == {"structured_outputs": {"json": SCHEMA}}


@pytest.mark.parametrize("value", [None, {}, [], "", False])
def test_nothing_asked_for_is_nothing_told(value: Any) -> None:
    assert sent(SGLang(), guided_json=value) == {"guided_json": value}


def test_completions_of_tgi_are_held_by_a_grammar_and_those_of_ollama_not_at_all() -> None:
    told = sent(TGI(), operation=Operation.COMPLETIONS, prompt="x", guided_json=SCHEMA)
    assert told["parameters"]["grammar"] == {"type": "json", "value": SCHEMA}
    with pytest.raises(Unsupported, match="guided_json"):
        sent(Ollama(), operation=Operation.COMPLETIONS, prompt="x", guided_json=SCHEMA)


@pytest.mark.parametrize("given", [{"guided_json": "no schema"}, {"guided_choice": "a"}, {"guided_choice": [1]}])
def test_what_makes_no_sense_is_the_callers_mistake(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        sent(SGLang(), **given)


@given(st.lists(st.text(), min_size=1), st.text())
def test_a_choice_is_one_of_its_texts_as_a_regex(texts: list[str], other: str) -> None:
    pattern = re.compile(as_regex(texts))
    assert all(pattern.fullmatch(text) for text in texts)
    assert bool(pattern.fullmatch(other)) == (other in texts)
