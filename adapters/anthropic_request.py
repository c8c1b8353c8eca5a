"""A chat request as a request of Anthropic's Messages. (P)

Invariant: turns alternate, each tool result stands at the head of the user's turn after its call, and no member is
dropped that would change the answer: what cannot be said is refused by name, what is unknown goes along as it is.
Source: Anthropic's Messages API, version 2023-06-01.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from adapters import dialect
from adapters.shapes import absent, arguments, data_url, invalid, read

TITLE: Final = "Anthropic"
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


class _Image(msgspec.Struct):
    url: str


class _File(msgspec.Struct):
    file_data: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _Image | str | None = None
    file: _File | None = None
    cache_control: msgspec.Raw = _ABSENT


class _Called(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct):
    id: str
    function: _Called


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    thinking_blocks: list[dict[str, Any]] | None = None
    function_call: msgspec.Raw = _ABSENT


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


_MESSAGES: Final = msgspec.json.Decoder(list[_Message])
_TOOLS: Final = msgspec.json.Decoder(list[_Tool] | None)
_TOOL_CHOICE: Final = msgspec.json.Decoder(str | _Choice | None)
_FORMAT: Final = msgspec.json.Decoder(_Format | None)
_STOP: Final = msgspec.json.Decoder(str | list[str] | None)
_LIMIT: Final = msgspec.json.Decoder(int | None)
_FLAG: Final = msgspec.json.Decoder(bool | None)
_TEXT: Final = msgspec.json.Decoder(str | None)
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_NULL: Final = msgspec.Raw(b"null")

Blocks = list[dict[str, Any]]


def translated(body: bytes, model: str) -> bytes:
    """The body for ``/v1/messages``. Raises InvalidRequest and Unsupported; `REFUSED` has been looked at before."""
    found = dialect.members(body)
    out: dict[str, Any] = {name: raw for name, raw in found.items() if name not in _ELSEWHERE and bytes(raw) != b"null"}
    out["model"] = model
    system, out["messages"] = _conversation(read(_MESSAGES, found.get("messages", _NULL), "messages"))
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
    if effort is None or "thinking" in out or (effort in BUDGETS and not _thoughtful(out["messages"])):
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


def _thoughtful(turns: Blocks) -> bool:
    """Whether every turn that calls tools begins with thoughts."""
    answers = [turn["content"] for turn in turns if turn["role"] == "assistant" and isinstance(turn["content"], list)]
    return all(
        said[0].get("type") in ("thinking", "redacted_thinking")
        for said in answers
        if any(block.get("type") == "tool_use" for block in said)
    )


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
    return _cached(made, tool.cache_control)


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


# --- the messages -----------------------------------------------------------------------------------------------------


def _conversation(messages: list[_Message]) -> tuple[Blocks, Blocks]:
    """What stands before the turns, wherever it stood in the chat, and the turns."""
    system: Blocks = []
    turns: Blocks = []
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        role, content = message.role, message.content
        if role == "user":
            _say(turns, "user", content if isinstance(content, str) else _parts(content, where))
        elif role == "assistant":
            _say(turns, "assistant", _answer(message, where))
        elif role == "tool":
            _say(turns, "user", [_result(message, where)])
        elif role in ("system", "developer"):
            system += _blocks(content if isinstance(content, str) else _parts(content, where, text_only=True))
        else:
            raise invalid(f"{where}.role", "expected system, developer, user, assistant or tool")
    return system, turns


def _say(turns: Blocks, role: str, content: str | Blocks) -> None:
    """Add to whoever spoke last, if it is the same; nobody is given an empty turn by what says nothing."""
    if not turns or turns[-1]["role"] != role:
        if content or role == "user":
            turns.append({"role": role, "content": content})
        return
    said = turns[-1]["content"]
    if isinstance(said, str):
        turns[-1]["content"] = said = _blocks(said)
    said += _blocks(content)


def _blocks(content: str | Blocks) -> Blocks:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def _answer(message: _Message, where: str) -> str | Blocks:
    """Thoughts come first and unchanged: their signatures are looked at."""
    if not absent(message.function_call):
        raise dialect.unsupported(TITLE, f"{where}.function_call")
    content = message.content
    if isinstance(content, str) and not message.tool_calls and not message.thinking_blocks:
        return content
    thoughts = [_thought(block, message.reasoning_content) for block in message.thinking_blocks or ()]
    said = _blocks(content if isinstance(content, str) else _parts(content, where))
    if not said and message.refusal:
        said = _blocks(message.refusal)
    calls = [
        {"type": "tool_use", "id": c.id, "name": c.function.name, "input": arguments(c.function.arguments)}
        for c in message.tool_calls or ()
    ]
    return [*thoughts, *said, *calls]


def _thought(block: dict[str, Any], text: str | None) -> dict[str, Any]:
    """A stream gives the signature alone; what it signs is in ``reasoning_content``."""
    if block.get("type") == "thinking" and "thinking" not in block:
        return {**block, "thinking": text or ""}
    return block


def _result(message: _Message, where: str) -> dict[str, Any]:
    if message.tool_call_id is None:
        raise invalid(f"{where}.tool_call_id", "a tool's answer needs it")
    content = message.content
    made = content if isinstance(content, str) else _parts(content, where)
    return {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": made}


def _parts(parts: list[_Part] | None, where: str, *, text_only: bool = False) -> Blocks:
    blocks = []
    for at, part in enumerate(parts or ()):
        here = f"{where}.content[{at}]"
        if part.type == "text":
            if part.text:
                blocks.append(_cached({"type": "text", "text": part.text}, part.cache_control))
        elif text_only:
            raise invalid(f"{here}.type", "expected text")
        elif part.type == "image_url":
            blocks.append(_cached(_image(part.image_url, here), part.cache_control))
        elif part.type == "file":
            blocks.append(_cached(_document(part.file, here), part.cache_control))
        elif part.type == "refusal":
            blocks += _blocks(part.refusal or "")
        else:
            raise dialect.unsupported(TITLE, f"{here}.type", why=f"no content of type '{part.type[:40]}'")
    return blocks


def _image(image: _Image | str | None, where: str) -> dict[str, Any]:
    url = image.url if isinstance(image, _Image) else image or ""
    inline = data_url(url)
    if inline is not None:
        return {"type": "image", "source": {"type": "base64", "media_type": inline[0], "data": inline[1]}}
    if not url.startswith(("https://", "http://")):
        raise invalid(f"{where}.image_url.url", "expected an http URL or a data URL in base64")
    return {"type": "image", "source": {"type": "url", "url": url}}


def _document(file: _File | None, where: str) -> dict[str, Any]:
    inline = data_url(file.file_data) if file is not None and file.file_data else None
    if file is None or inline is None:
        raise dialect.unsupported(TITLE, f"{where}.file", why="its bytes it takes, as a data URL in base64")
    source = {"type": "base64", "media_type": inline[0], "data": inline[1]}
    title = {"title": file.filename} if file.filename else {}
    return {"type": "document", "source": source, **title}


def _cached(block: dict[str, Any], control: msgspec.Raw) -> dict[str, Any]:
    """The block with Anthropic's mark of where a prompt may be cached, if the client put one there."""
    if not absent(control):
        block["cache_control"] = control
    return block
