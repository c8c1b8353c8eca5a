"""A chat request as a request of Anthropic's Messages. (P)

Invariant: no member is dropped that would change the answer: what cannot be said is refused by name, what is unknown
goes along as it is.
Source: Anthropic's Messages API, version 2023-06-01.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from adapters import dialect
from adapters.anthropic_turns import TITLE, conversation, marked, thoughtful
from adapters.shapes import absent, invalid, read

DEFAULT_MAX_TOKENS: Final = 4096
"""Sent where the client sets no limit, which Anthropic demands: the most that every one of its models can do."""

BUDGETS: Final = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 32_768, "max": 32_768}
"""Tokens of thinking by ``reasoning_effort``."""
_LEAST_BUDGET: Final = 1024

_ENGINES: Final = (
    "best_of", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "bad_words", "regex",
    "ebnf", "allowed_token_ids", "prompt_logprobs", "use_beam_search", "structured_outputs",
    "chat_template_kwargs", "echo", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    "guided_json_object",
)  # fmt: skip
"""Members that open engines have of their own."""

REFUSED: Final[Mapping[str, dialect.Refuses]] = {
    **dict.fromkeys(_ENGINES, dialect.always),
    "n": dialect.above_one,
    "temperature": dialect.above_one,
    "logprobs": dialect.always,
    "top_logprobs": dialect.always,
    "logit_bias": dialect.always,
    "seed": lambda value, _: value is not None,
    "presence_penalty": dialect.not_zero,
    "frequency_penalty": dialect.not_zero,
    "functions": dialect.always,
    "function_call": dialect.always,
    "audio": dialect.always,
    "modalities": dialect.not_text_only,
    "prediction": dialect.always,
    "web_search_options": dialect.always,
}

_DROPPED: Final = frozenset(
    ("stream_options", "metadata", "store", "service_tier", "moderation", "safety_identifier", "prompt_cache_key",
     "prompt_cache_options", "prompt_cache_retention", "verbosity", *(REFUSED.keys() - {"temperature"}),
     *dialect.STEERING),
)  # fmt: skip
"""Members that change nothing in the answer, what passes of those that are refused, and what steers an engine."""

_TRANSLATED: Final = frozenset(
    ("model", "messages", "max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice", "parallel_tool_calls",
     "user", "reasoning_effort", "response_format"),
)  # fmt: skip
_ELSEWHERE: Final = _DROPPED | _TRANSLATED

_ABSENT: Final = msgspec.Raw()


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = _ABSENT
    strict: bool | None = None


class _Tool(msgspec.Struct):
    type: str
    function: _Function | None = None
    cache_control: msgspec.Raw = _ABSENT


class _Named(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct):
    type: str
    function: _Named | None = None


class _Schema(msgspec.Struct):
    schema: msgspec.Raw = _ABSENT


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


_TOOLS: Final = msgspec.json.Decoder(list[_Tool] | None)
_TOOL_CHOICE: Final = msgspec.json.Decoder(str | _Choice | None)
_FORMAT: Final = msgspec.json.Decoder(_Format | None)
_STOP: Final = msgspec.json.Decoder(str | list[str] | None)
_LIMIT: Final = msgspec.json.Decoder(int | None)
_FLAG: Final = msgspec.json.Decoder(bool | None)
_TEXT: Final = msgspec.json.Decoder(str | None)
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


def translated(body: bytes, model: str) -> bytes:
    """The body for ``/v1/messages``. Raises InvalidRequest and Unsupported; `REFUSED` has been looked at before."""
    found = dialect.members(body)
    out: dict[str, Any] = {name: raw for name, raw in found.items() if name not in _ELSEWHERE and bytes(raw) != b"null"}
    out["model"] = model
    system, out["messages"] = conversation(found.get("messages"))
    if system:
        out["system"] = system[0]["text"] if len(system) == 1 and len(system[0]) == 2 else system
    _limit(out, found)
    _sampling(out, found)
    _tools(out, found)
    _response_format(out, found)
    try:
        return msgspec.json.encode(out)
    except (UnicodeEncodeError, RecursionError):
        raise invalid("", "it cannot be written as JSON") from None


# --- members beside the messages --------------------------------------------------------------------------------------


def _limit(out: dict[str, Any], found: dialect.Members) -> None:
    """``max_tokens``, and the thinking that has to fit into it. Who has not kept the thoughts that led to calls cannot
    have more of them: the answer would be a 400.
    """
    given = _get(_LIMIT, found, "max_completion_tokens")
    if given is None:
        given = _get(_LIMIT, found, "max_tokens")
    out["max_tokens"] = DEFAULT_MAX_TOKENS if given is None else given
    effort = _get(_TEXT, found, "reasoning_effort") if "reasoning_effort" in found else None
    if effort is None or "thinking" in out or (effort in BUDGETS and not thoughtful(out["messages"])):
        return
    if effort == "none":
        out["thinking"] = {"type": "disabled"}
        return
    budget = BUDGETS.get(effort)
    if budget is None:
        raise invalid("reasoning_effort", f"expected one of none, {', '.join(BUDGETS)}")
    if given is None:
        out["max_tokens"] += budget
    elif given < 2 * _LEAST_BUDGET:
        why = f"Anthropic thinks with {_LEAST_BUDGET} tokens at least; let the limit be {2 * _LEAST_BUDGET} or more"
        raise dialect.unsupported(TITLE, "reasoning_effort", why=why)
    else:
        budget = min(budget, given // 2)
    out["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _sampling(out: dict[str, Any], found: dialect.Members) -> None:
    stop = _get(_STOP, found, "stop")
    if stop:
        out["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    user = _get(_TEXT, found, "user")
    if user:
        out["metadata"] = {"user_id": user}


def _tools(out: dict[str, Any], found: dialect.Members) -> None:
    tools = _get(_TOOLS, found, "tools")
    if not tools:
        return
    out["tools"] = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(tools)]
    choice = _tool_choice(_get(_TOOL_CHOICE, found, "tool_choice"))
    if _get(_FLAG, found, "parallel_tool_calls") is False and choice != {"type": "none"}:
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if choice is not None:
        out["tool_choice"] = choice


def _tool(tool: _Tool, at: str) -> dict[str, Any]:
    function = tool.function
    if tool.type != "function" or function is None:
        raise dialect.unsupported(TITLE, "tools", why=f"{at} is no function")
    made: dict[str, Any] = {"name": function.name}
    if function.description:
        made["description"] = function.description
    empty = {"type": "object", "properties": {}}
    made["input_schema"] = empty if absent(function.parameters) else function.parameters
    if function.strict is not None:
        made["strict"] = function.strict
    return marked(made, tool.cache_control)


def _tool_choice(choice: str | _Choice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    if isinstance(choice, str):
        kind = {"auto": "auto", "required": "any", "none": "none"}.get(choice)
        if kind is None:
            raise invalid("tool_choice", "expected 'auto', 'required', 'none' or a function")
        return {"type": kind}
    if choice.type != "function" or choice.function is None:
        raise dialect.unsupported(TITLE, "tool_choice", why="one function by its name it takes")
    return {"type": "tool", "name": choice.function.name}


def _response_format(out: dict[str, Any], found: dialect.Members) -> None:
    wanted = _get(_FORMAT, found, "response_format")
    if wanted is None or wanted.type == "text":
        return
    schema = _ABSENT if wanted.json_schema is None else wanted.json_schema.schema
    if wanted.type != "json_schema" or absent(schema):
        raise dialect.unsupported(TITLE, "response_format", why="a JSON schema it takes")
    config: dict[str, Any] = _get(_OBJECT, found, "output_config") or {}
    out["output_config"] = {**config, "format": {"type": "json_schema", "schema": schema}}


def _get(decoder: msgspec.json.Decoder[Any], found: dialect.Members, name: str) -> Any:
    raw = found.get(name)
    return None if raw is None else read(decoder, raw, name)
