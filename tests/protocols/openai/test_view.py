from __future__ import annotations

import json

import pytest

from gateway.types import Operation
from protocols.openai.parse import parse
from protocols.openai.view import VIEWS, View

TEXT_PART = {"type": "text", "text": "two"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}
TOOL_CALL = {"type": "function_call", "name": "f", "arguments": "{}"}
TOOL_RESULT = {"type": "function_call_output", "output": "42"}


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


CASES: list[tuple[Operation, dict[str, object], str]] = [
    (Operation.CHAT, {"messages": [{"role": "user", "content": "hi"}]}, turn("user", "hi")),
    (
        Operation.CHAT,
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "né"}]},
        turn("system", "s") + turn("user", "né"),
    ),
    (
        Operation.CHAT,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "one"}, IMAGE, TEXT_PART]}]},
        turn("user", "one\ntwo"),
    ),
    (
        Operation.CHAT,
        {"messages": [{"role": "assistant", "content": None}, {"role": "a"}]},
        turn("assistant", "") + turn("a", ""),
    ),
    (Operation.CHAT, {"messages": [{"role": "user", "content": 5}]}, turn("user", "")),
    (Operation.COMPLETIONS, {"prompt": "as is\n"}, "as is\n"),
    (Operation.COMPLETIONS, {"prompt": ["a", "b"]}, "a\nb"),
    (Operation.COMPLETIONS, {"prompt": [1, 2]}, "[1, 2]"),
    (Operation.COMPLETIONS, {"prompt_embeds": "AA"}, ""),
    (Operation.EMBEDDINGS, {"input": "i"}, "i"),
    (Operation.EMBEDDINGS, {"messages": [{"role": "user", "content": "m"}]}, turn("user", "m")),
    (Operation.RESPONSES, {"input": "q", "instructions": "s"}, turn("system", "s") + turn("user", "q")),
    (
        Operation.RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "q"}]}, TOOL_CALL, TOOL_RESULT]},
        turn("user", "q") + turn("", "") + turn("", "42"),
    ),
    (
        Operation.MESSAGES,
        {"system": [{"type": "text", "text": "s"}], "messages": [{"role": "user", "content": "q"}]},
        turn("system", "s") + turn("user", "q"),
    ),
    (
        Operation.COUNT_TOKENS,
        {"system": "s", "messages": [{"role": "user", "content": "q"}]},
        turn("system", "s") + turn("user", "q"),
    ),
    (Operation.RERANK, {"query": "q", "documents": ["a", "b"]}, "q\na\nb"),
    (Operation.TOKENIZE, {"prompt": "p"}, "p"),
    (Operation.DETOKENIZE, {"tokens": [1]}, ""),
]


@pytest.mark.parametrize(("operation", "members", "text"), CASES)
def test_prompts_as_one_text(operation: Operation, members: dict[str, object], text: str) -> None:
    body = json.dumps({"model": "m", **members}).encode()
    view = parse(operation, body, (), request_id="", path="").view
    assert isinstance(view, View)
    assert view.prompt_text() == text


def test_every_operation_has_a_view() -> None:
    assert VIEWS.keys() == set(Operation)
