"""A request of Anthropic's Messages as a chat request, for engines that only know chats. (P)

Invariant: what a chat has a place for is put there; what it has none for is dropped only where the answer stays what
was asked for (thoughts of earlier turns, marks for caches), and else refused with its path. Members that are not
Anthropic's go along, for the engine's adapter to judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from adapters import dialect
from adapters.shapes import absent, arguments_text, invalid, read
from gateway.errors import InvalidRequest, Unsupported

TITLE: Final = "a chat completion"

EFFORTS: Final = ((2048, "low"), (8192, "medium"))
"""``reasoning_effort`` for a budget of up to so many tokens of thinking; beyond them it is high."""

_TRANSLATED: Final = frozenset(
    ("messages", "system", "max_tokens", "stop_sequences", "tools", "tool_choice", "thinking", "output_config",
     "metadata", "stream"),
)  # fmt: skip
_DROPPED: Final = frozenset(
    ("service_tier", "cache_control", "inference_geo", "speed", "diagnostics", "betas", "max_completion_tokens",
     "stream_options", "n"),
)  # fmt: skip
"""How and where it is computed, not what; and what a chat's client could say beside what stands for it here."""
_REFUSED: Final = ("container", "context_management", "mcp_servers")
_ELSEWHERE: Final = _TRANSLATED | _DROPPED | frozenset(_REFUSED)

_NAMES: Final = {
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "reasoning_effort": "thinking",
    "response_format": "output_config",
    "parallel_tool_calls": "tool_choice",
    "user": "metadata",
}
"""What the client calls a member of the chat."""
_KEPT: Final = dialect.NEEDED | {"output_config"}
"""What is not left out for the sake of something in it."""

_BILLING: Final = "x-anthropic-billing-header"
"""A client's note to Anthropic in the system prompt, another for each request: no prefix would be shared."""

_ABSENT: Final = msgspec.Raw()


class _Source(msgspec.Struct):
    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    source: _Source | None = None
    title: str | None = None
    id: str = ""
    name: str = ""
    input: msgspec.Raw = _ABSENT
    tool_use_id: str = ""
    content: msgspec.Raw = _ABSENT


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = _ABSENT
    strict: bool | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _Thinking(msgspec.Struct):
    type: str
    budget_tokens: int = 0


class _Format(msgspec.Struct):
    type: str
    schema: msgspec.Raw = _ABSENT


class _Output(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


_MESSAGES: Final = msgspec.json.Decoder(list[_Message])
_CONTENT: Final = msgspec.json.Decoder(str | list[_Block] | None)
_TOOLS: Final = msgspec.json.Decoder(list[_Tool] | None)
_CHOICE: Final = msgspec.json.Decoder(_Choice | None)
_THINKING: Final = msgspec.json.Decoder(_Thinking | None)
_OUTPUT: Final = msgspec.json.Decoder(_Output | None)
_METADATA: Final = msgspec.json.Decoder(_Metadata | None)
_STOP: Final = msgspec.json.Decoder(list[str] | None)
_LIMIT: Final = msgspec.json.Decoder(int)
_NULL: Final = msgspec.Raw(b"null")

Items = list[dict[str, Any]]


def translated(body: bytes, *, stream: bool, limit: str = "max_completion_tokens") -> bytes:
    """The chat's body, its model's name left as it is; ``limit`` is what the chat calls ``max_tokens``. Raises
    InvalidRequest and Unsupported.
    """
    found = dialect.members(body)
    for name in _REFUSED:
        if not absent(found.get(name, _NULL)):
            raise dialect.unsupported(TITLE, name)
    if dialect.above_one(dialect.value(found, "n"), {}):
        raise dialect.unsupported("a message", "n")
    out: dict[str, Any] = {name: raw for name, raw in found.items() if name not in _ELSEWHERE}
    messages = _system(_get(_CONTENT, found, "system"))
    turns = read(_MESSAGES, found.get("messages", _NULL), "messages")
    for at, message in enumerate(turns):
        messages += _turn(message, f"messages[{at}]")
    out["messages"] = messages
    if "max_tokens" not in found:
        raise invalid("max_tokens", "it is required")
    out[limit] = read(_LIMIT, found["max_tokens"], "max_tokens")
    if stream:
        out.update(stream=True, stream_options={"include_usage": True})
    _others(out, found)
    try:
        return msgspec.json.encode(out)
    except (UnicodeEncodeError, RecursionError):
        raise invalid("", "it cannot be written as JSON") from None


def renamed(error: InvalidRequest, body: bytes) -> InvalidRequest:
    """What an adapter says of a chat's members, in the words of who sent Messages. An effort has two places, and in one
    of them it cannot be left out by itself; nor can that tools are called one at a time.
    """
    found = dialect.members(body)
    names = {chats: own for chats, own in _NAMES.items() if chats not in found or chats in _DROPPED}
    if b'"effort"' in bytes(found.get("output_config", b"")):
        names["reasoning_effort"] = "output_config"
    param = names.get(error.param or "", error.param)
    message = error.message.replace(f"'{error.param}'", f"'{param}'")
    if not isinstance(error, Unsupported):
        return InvalidRequest(message, param=param, code=error.code)
    droppable = [names.get(name, name) for name in error.droppable]
    return Unsupported(message, param=param, droppable=[name for name in droppable if name not in _KEPT])


def _get(decoder: msgspec.json.Decoder[Any], found: Mapping[str, msgspec.Raw], name: str) -> Any:
    raw = found.get(name)
    return None if raw is None else read(decoder, raw, name)


# --- members beside the messages --------------------------------------------------------------------------------------


def _others(out: dict[str, Any], found: dialect.Members) -> None:
    stop = _get(_STOP, found, "stop_sequences")
    if stop:
        out["stop"] = stop
    metadata = _get(_METADATA, found, "metadata")
    if metadata is not None and metadata.user_id:
        out["user"] = metadata.user_id
    tools = _get(_TOOLS, found, "tools")
    if tools:
        out["tools"] = [_tool(tool, at) for at, tool in enumerate(tools)]
        _tool_choice(out, _get(_CHOICE, found, "tool_choice"))
    _effort(out, _get(_THINKING, found, "thinking"))
    _output(out, _get(_OUTPUT, found, "output_config"))


def _tool(tool: _Tool, at: int) -> dict[str, Any]:
    """Tools of other types run at Anthropic."""
    if tool.type not in (None, "custom"):
        raise dialect.unsupported(TITLE, "tools", why=f"tools[{at}] runs at Anthropic only")
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if not absent(tool.input_schema):
        function["parameters"] = tool.input_schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(out: dict[str, Any], choice: _Choice | None) -> None:
    if choice is None:
        return
    if choice.type == "tool":
        out["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        kind = {"auto": "auto", "any": "required", "none": "none"}.get(choice.type)
        if kind is None:
            raise invalid("tool_choice.type", "expected auto, any, tool or none")
        out["tool_choice"] = kind
    if choice.disable_parallel_tool_use:
        out["parallel_tool_calls"] = False


def _effort(out: dict[str, Any], thinking: _Thinking | None) -> None:
    """Disabled or adaptive, it is left to the engine: not every one can be told."""
    if thinking is None or thinking.type != "enabled":
        return
    out["reasoning_effort"] = next((word for most, word in EFFORTS if thinking.budget_tokens <= most), "high")


def _output(out: dict[str, Any], config: _Output | None) -> None:
    if config is None:
        return
    if config.effort is not None:
        out["reasoning_effort"] = config.effort
    if config.format is not None:
        if config.format.type != "json_schema" or absent(config.format.schema):
            raise dialect.unsupported(TITLE, "output_config", why="a JSON schema it takes for a format")
        schema = {"name": "answer", "schema": config.format.schema, "strict": True}
        out["response_format"] = {"type": "json_schema", "json_schema": schema}


# --- the messages -----------------------------------------------------------------------------------------------------


def _system(content: str | list[_Block] | None, where: str = "system") -> Items:
    if not content:
        return []
    texts = [content] if isinstance(content, str) else [_text(b, f"{where}[{at}]") for at, b in enumerate(content)]
    text = "\n".join([text for text in texts if text and not text.startswith(_BILLING)])
    return [{"role": "system", "content": text}] if text else []


def _text(block: _Block, where: str) -> str:
    if block.type != "text":
        raise invalid(f"{where}.type", "expected text")
    return block.text


def _turn(message: _Message, where: str) -> Items:
    content = message.content
    if message.role == "user":
        return [{"role": "user", "content": content}] if isinstance(content, str) else _asked(content, where)
    if message.role == "assistant":
        return [{"role": "assistant", "content": content}] if isinstance(content, str) else _said(content, where)
    if message.role == "system":
        return _system(content, f"{where}.content")
    raise invalid(f"{where}.role", "expected user, assistant or system")


def _asked(blocks: list[_Block], where: str) -> Items:
    """Results of tools first, each a message, as chats want them behind the calls; pictures in them after that."""
    results: Items = []
    parts: Items = []
    for at, block in enumerate(blocks):
        here = f"{where}.content[{at}]"
        if block.type == "tool_result":
            text, pictures = _result(read(_CONTENT, block.content or _NULL, f"{here}.content"), f"{here}.content")
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
            parts += pictures
        else:
            parts.append(_part(block, here))
    if len(parts) == 1 and parts[0]["type"] == "text":
        return [*results, {"role": "user", "content": parts[0]["text"]}]
    return [*results, {"role": "user", "content": parts}] if parts else results


def _result(content: str | list[_Block] | None, where: str) -> tuple[str, Items]:
    if content is None or isinstance(content, str):
        return content or "", []
    parts = [_part(block, f"{where}[{at}]") for at, block in enumerate(content)]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join(texts), [part for part in parts if part["type"] != "text"]


def _part(block: _Block, where: str) -> dict[str, Any]:
    source = block.source
    if block.type == "text":
        return {"type": "text", "text": block.text}
    if block.type == "image" and source is not None:
        return {"type": "image_url", "image_url": {"url": _url(source, where)}}
    if block.type == "document" and source is not None:
        if source.type == "text":
            return {"type": "text", "text": source.data}
        if source.type == "base64":
            file = {"filename": block.title or "document", "file_data": _url(source, where)}
            return {"type": "file", "file": file}
    raise dialect.unsupported(TITLE, f"{where}.type", why=f"no content of type '{block.type[:40]}' like this")


def _url(source: _Source, where: str) -> str:
    if source.type == "base64":
        return f"data:{source.media_type};base64,{source.data}"
    if source.type != "url":
        raise dialect.unsupported(TITLE, f"{where}.source", why="base64 and url it takes")
    return source.url


def _said(blocks: list[_Block], where: str) -> Items:
    """Thoughts are dropped: chats have no place for them that every engine allows."""
    texts = []
    calls: Items = []
    for at, block in enumerate(blocks):
        if block.type == "text":
            texts.append(block.text)
        elif block.type == "tool_use":
            calls.append(_call(block))
        elif block.type not in ("thinking", "redacted_thinking"):
            why = f"no content of type '{block.type[:40]}'"
            raise dialect.unsupported(TITLE, f"{where}.content[{at}].type", why=why)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    if calls:
        message["tool_calls"] = calls
    return [message]


def _call(block: _Block) -> dict[str, Any]:
    function = {"name": block.name, "arguments": arguments_text(block.input)}
    return {"id": block.id, "type": "function", "function": function}
