"""What OpenAI's API looks at before a model sees a request: types, ranges, and what has to go together. (P)

Invariant: `flaw` returns None, or the first thing wrong as (message, param, code) in the API's words.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Flaw = tuple[str, str, str]
Limit = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
_PATH = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


class Part(msgspec.Struct):
    type: str


class ChatMessage(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class Named(msgspec.Struct):
    name: str


class Tool(msgspec.Struct):
    type: str
    function: Named | None = None


class Options(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: Named | None = None


class Sampled(msgspec.Struct):
    """What chat and completions have in common."""

    model: str
    max_tokens: Limit | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: Options | None = None
    user: str | None = None


class ChatRequest(Sampled, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Meta(min_length=1)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Tool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None


class CompletionRequest(Sampled, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None


class EmbeddingsRequest(msgspec.Struct):
    model: str
    input: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None


def flaw(fields: dict[str, Any], shape: type[msgspec.Struct]) -> Flaw | None:
    """The first thing wrong with a request of this shape."""
    try:
        asked = msgspec.convert(fields, shape)
    except msgspec.ValidationError as error:
        return _told(str(error))
    if fields.get("stream_options") and not fields.get("stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        return message, "stream_options", "invalid_value"
    return _tools(asked) if isinstance(asked, ChatRequest) else None


def _told(error: str) -> Flaw:
    found = _PATH.search(error)
    param = found[1] if found else ""
    what = error[: found.start()] if found else error
    name = param.partition("[")[0].partition(".")[0]
    if what.startswith("Object missing required field"):
        field = what.rpartition("`")[0].rpartition("`")[2]
        whole = f"{param}.{field}" if param else field
        return f"Missing required parameter: '{whole}'.", whole, "missing_required_parameter"
    wrong_type = what.startswith("Expected `") and "got" in what
    said = f"Invalid type for '{param}': {what[0].lower()}{what[1:]}." if wrong_type else f"Invalid '{param}': {what}."
    return said, param or name, "invalid_type" if wrong_type else "invalid_value"


def _tools(asked: ChatRequest) -> Flaw | None:
    wanted = asked.tool_choice
    if wanted is None:
        return None
    if not asked.tools:
        message = "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified."
        return message, "tool_choice", "invalid_value"
    names = [tool.function.name for tool in asked.tools if tool.function]
    if isinstance(wanted, Tool) and wanted.function and wanted.function.name not in names:
        message = f"Tool choice '{wanted.function.name}' not found in 'tools' parameter."
        return message, "tool_choice", "invalid_value"
    return None
