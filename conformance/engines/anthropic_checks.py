"""What Anthropic's API finds wrong with a request, in its words. (P)

Each check returns a message, or None for a request it has nothing against.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conformance.engines.anthropic_forms import signature

Fields = dict[str, Any]
VERSIONS = ("2023-01-01", "2023-06-01", "2026-10-21")
_KNOWN = frozenset(
    (
        "cache_control",
        "container",
        "context_management",
        "diagnostics",
        "inference_geo",
        "max_tokens",
        "mcp_servers",
        "messages",
        "metadata",
        "model",
        "output_config",
        "output_format",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    )
)
_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "max_tokens": (int, "integer"),
    "temperature": ((int, float), "number"),
    "top_p": ((int, float), "number"),
    "top_k": (int, "integer"),
    "messages": (list, "list"),
    "tools": (list, "list"),
    "stop_sequences": (list, "list"),
    "stream": (bool, "boolean"),
    "model": (str, "string"),
}
_RANGES = {"temperature": (0, 1), "top_p": (0, 1), "max_tokens": (0, 1_000_000_000)}


def flaw(fields: Fields, required: tuple[str, ...], version: str) -> str | None:
    """The first thing wrong with a body, or None. From 2026 on system prompts may be turns."""
    found = _missing(fields, required) or _unknown(fields) or _mistyped(fields) or _out_of_range(fields)
    roles = ("user", "assistant", "system") if version >= "2026" else ("user", "assistant")
    return found or _turns(fields, roles) or _thinking(fields)


def _missing(fields: Fields, required: tuple[str, ...]) -> str | None:
    return next((f"{name}: Field required" for name in required if fields.get(name) is None), None)


def _unknown(fields: Fields) -> str | None:
    return next((f"{name}: Extra inputs are not permitted" for name in fields if name not in _KNOWN), None)


def _mistyped(fields: Fields) -> str | None:
    for name, (wanted, word) in _TYPES.items():
        value = fields.get(name)
        if value is not None and (not isinstance(value, wanted) or (word != "boolean" and isinstance(value, bool))):
            return f"{name}: Input should be a valid {word}"
    return None


def _out_of_range(fields: Fields) -> str | None:
    for name, (low, high) in _RANGES.items():
        value = fields.get(name)
        if value is not None and value < low:
            return f"{name}: Input should be greater than or equal to {low}"
        if value is not None and value > high:
            return f"{name}: Input should be less than or equal to {high}"
    return None


def _turns(fields: Fields, roles: tuple[str, ...]) -> str | None:
    turns = fields["messages"]
    if not turns:
        return "messages: at least one message is required"
    for at, turn in enumerate(turns):
        found = _turn(at, turn, roles)
        if found:
            return found
    if turns[0]["role"] == "assistant":
        return 'messages: first message must use the "user" role'
    return _results(turns)


def _turn(at: int, turn: Any, roles: tuple[str, ...]) -> str | None:
    if not isinstance(turn, dict):
        return f"messages.{at}: Input should be a valid dictionary"
    role = turn.get("role")
    if role == "system" and role not in roles:
        what = 'The Messages API accepts a top-level `system` parameter, not "system" as an input message role.'
        return f'messages: Unexpected role "system". {what}'
    if role not in roles:
        return f"messages.{at}.role: Input should be 'user' or 'assistant'"
    if turn.get("content") is None:
        return f"messages.{at}.content: Field required"
    if isinstance(turn["content"], str | list):
        return _block_flaw(at, turn["content"]) if isinstance(turn["content"], list) else None
    return f"messages.{at}.content: Input should be a valid string or list"


def _block_flaw(at: int, content: list[Any]) -> str | None:
    for index, block in enumerate(content):
        where = f"messages.{at}.content.{index}"
        if not isinstance(block, dict) or not block.get("type"):
            return f"{where}.type: Field required"
        if block["type"] == "text" and not block.get("text"):
            return "messages: text content blocks must be non-empty"
        if block["type"] == "tool_use" and not isinstance(block.get("input"), dict):
            return f"{where}.tool_use.input: Input should be a valid dictionary"
        if block["type"] == "thinking" and block.get("signature") != signature(str(block.get("thinking"))):
            return f"{where}: Invalid `signature` in `thinking` block"
    return None


def _results(turns: list[Any]) -> str | None:
    """Every call is answered in the next turn, and every answer has its call in the turn before."""
    open_calls: list[str] = []
    for at, turn in enumerate(turns):
        answered = {block.get("tool_use_id") for block in _blocks(turn, "tool_result")}
        unasked = sorted(str(name) for name in answered - set(open_calls))
        if unasked:
            what = f"unexpected `tool_use_id` found in `tool_result` blocks: {', '.join(unasked)}"
            rest = "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
            return f"messages.{at}.content.0: {what}. {rest}"
        unanswered = [name for name in open_calls if name not in answered]
        if unanswered:
            what = "`tool_use` ids were found without `tool_result` blocks immediately after"
            rest = "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
            return f"messages.{at}: {what}: {', '.join(unanswered)}. {rest}"
        open_calls = [str(block.get("id")) for block in _blocks(turn, "tool_use")]
    return None


def _blocks(turn: Fields, kind: str) -> Iterator[Fields]:
    content = turn["content"]
    if isinstance(content, list):
        yield from (block for block in content if block["type"] == kind)


def _thinking(fields: Fields) -> str | None:
    thinking = fields.get("thinking") or {}
    if thinking.get("type") != "enabled":
        return None
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int):
        return "thinking.enabled.budget_tokens: Field required"
    if budget < 1024:
        return "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
    if fields.get("max_tokens", budget + 1) <= budget:
        return "`max_tokens` must be greater than `thinking.budget_tokens`."
    return _thoughtless(fields["messages"])


def _thoughtless(turns: list[Any]) -> str | None:
    """With thinking on, the turn that called a tool begins with the thoughts that led to it."""
    for at, turn in enumerate(turns):
        if turn["role"] == "assistant" and next(_blocks(turn, "tool_use"), None):
            first = turn["content"][0]["type"]
            if first not in ("thinking", "redacted_thinking"):
                return (
                    f"messages.{at}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{first}`. "
                    "When `thinking` is enabled, a final `assistant` message must start with a thinking block."
                )
    return None
