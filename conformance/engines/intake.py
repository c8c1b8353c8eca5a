"""Request bodies of the OpenAI and Anthropic shapes as an `Ask`. (P)

Reads leniently: each dialect refuses beforehand what its engine refuses; what is left unread is ignored as it would be.
"""

from __future__ import annotations

from typing import Any

from conformance.engines import chatml, text
from conformance.engines.ask import Ask

Fields = dict[str, Any]
MOST = 16_384
"""Answers to one prompt: engines refuse more, or take all memory there is."""
_ANY_OBJECT = {"type": "object", "properties": {"answer": {"type": "string"}}}


def chat(fields: Fields, model: str) -> Ask:
    messages = fields.get("messages") or []
    tool, forced = _tool(fields, messages)
    tools = fields.get("tools") if fields.get("tool_choice") != "none" else None
    limit = fields.get("max_completion_tokens")
    return Ask(
        model=model,
        prompts=[chatml.render(messages, tools)],
        n=min(fields.get("n") or 1, MOST),
        limit=limit if limit is not None else fields.get("max_tokens"),
        stop=_stops(fields.get("stop")),
        **_streaming(fields),
        logprobs=(fields.get("top_logprobs") or 0) if fields.get("logprobs") else None,
        tool=tool,
        tool_forced=forced,
        schema=_schema(fields),
        salt=str(fields.get("cache_salt") or ""),
    )


def completion(fields: Fields, model: str) -> Ask:
    limit = fields.get("max_tokens")
    return Ask(
        model=model,
        prompts=prompts(fields.get("prompt", "")),
        n=min(fields.get("n") or 1, MOST),
        limit=16 if limit is None else limit,
        stop=_stops(fields.get("stop")),
        **_streaming(fields),
        logprobs=fields.get("logprobs"),
        schema=_schema(fields),
        echo=bool(fields.get("echo")),
        salt=str(fields.get("cache_salt") or ""),
    )


def messages(fields: Fields, model: str) -> Ask:
    """Anthropic's body: the system prompt on top, tools with an input_schema."""
    turns = fields.get("messages") or []
    system = [{"role": "system", "content": fields["system"]}] if fields.get("system") else []
    tools = [
        {"function": {"name": t.get("name", ""), "parameters": t.get("input_schema")}}
        for t in fields.get("tools") or []
    ]
    choice = fields.get("tool_choice") or {}
    wanted: Any = {"any": "required", "none": "none"}.get(choice.get("type", "auto"), "auto")
    if choice.get("type") == "tool":
        wanted = {"function": {"name": choice.get("name")}}
    tool, forced = _tool({"tools": tools, "tool_choice": wanted}, turns)
    return Ask(
        model=model,
        prompts=[chatml.render([*system, *turns], fields.get("tools"))],
        limit=fields.get("max_tokens"),
        stop=_stops(fields.get("stop_sequences")),
        stream=bool(fields.get("stream")),
        tool=tool,
        tool_forced=forced,
    )


def responses(fields: Fields, model: str) -> Ask:
    given = fields.get("input", "")
    turns = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
    system = [{"role": "system", "content": fields["instructions"]}] if fields.get("instructions") else []
    tools = [{"function": tool} for tool in fields.get("tools") or [] if tool.get("type") == "function"]
    choice = fields.get("tool_choice", "auto")
    if isinstance(choice, dict):
        choice = {"function": {"name": choice.get("name")}}
    tool, forced = _tool({"tools": tools, "tool_choice": choice}, turns)
    form = (fields.get("text") or {}).get("format") or {}
    schema = form.get("schema") if form.get("type") == "json_schema" else None
    return Ask(
        model=model,
        prompts=[chatml.render([*system, *turns], fields.get("tools"))],
        limit=fields.get("max_output_tokens"),
        stream=bool(fields.get("stream")),
        tool=tool,
        tool_forced=forced,
        schema=schema if schema is not None else (_ANY_OBJECT if form.get("type") == "json_object" else None),
    )


def prompts(value: Any) -> list[bytes]:
    """One prompt per entry: a string, strings, token ids, or lists of them."""
    if isinstance(value, str):
        return [value.encode()]
    if isinstance(value, list) and value:
        if isinstance(value[0], int):
            return [text.raw(value)]
        return [entry.encode() if isinstance(entry, str) else text.raw(entry) for entry in value]
    return [b""]


def _streaming(fields: Fields) -> dict[str, Any]:
    options = _object(fields.get("stream_options"))
    return {
        "stream": bool(fields.get("stream")),
        "include_usage": bool(options.get("include_usage")),
        "continuous_usage": bool(options.get("continuous_usage_stats")),
    }


def _object(value: Any) -> Fields:
    return value if isinstance(value, dict) else {}


def _stops(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [stop for stop in value if isinstance(stop, str)] if isinstance(value, list) else []


def _schema(fields: Fields) -> Any:
    form = _object(fields.get("response_format"))
    kind = form.get("type")
    if kind == "json_schema":
        inner = form.get("json_schema") or form.get("value") or {}
        return inner.get("schema", _ANY_OBJECT)
    if kind in ("json_object", "json"):
        return form.get("value") or _ANY_OBJECT
    structured = fields.get("structured_outputs")
    return structured.get("json") if isinstance(structured, dict) else None


def _tool(fields: Fields, messages: list[Any]) -> tuple[dict[str, Any] | None, bool]:
    """The function to call, and whether the client named it. By default one is called if the user names it."""
    functions = [tool.get("function") or {} for tool in fields.get("tools") or [] if isinstance(tool, dict)]
    choice = fields.get("tool_choice", "auto")
    if not functions or choice == "none":
        return None, False
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        return next((function for function in functions if function.get("name") == name), None), True
    if choice == "required":
        return functions[0], False
    last = messages[-1] if messages else {}
    if isinstance(last, dict) and _tells_result(last):
        return None, False
    said = chatml.said(messages).lower()
    names = ((function, str(function.get("name", "\0")).lower()) for function in functions)
    return next((f for f, name in names if name in said or name.replace("_", " ") in said), None), False


def _tells_result(turn: Fields) -> bool:
    """What a tool said, in any of the shapes."""
    if turn.get("role") == "tool" or turn.get("type") == "function_call_output":
        return True
    content = turn.get("content")
    return isinstance(content, list) and any(isinstance(b, dict) and b.get("type") == "tool_result" for b in content)
