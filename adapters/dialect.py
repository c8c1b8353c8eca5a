"""What adapters share in reading a request: its members by name, those an engine would drop, those that steer it. (P)

Invariant: values stay the client's bytes; only the few members an engine treats differently are looked into.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from adapters.shapes import invalid, read
from gateway.errors import InvalidRequest, Unsupported
from gateway.wire import splice

STEERING = (
    "kv_transfer_params",
    "ec_transfer_params",
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
    "rid",
    "request_id",
    "lora_path",
    "custom_logit_processor",
    "vllm_xargs",
    "routed_dp_rank",
    "disagg_prefill_dp_rank",
    "priority",
    "cache_salt",
    "extra_key",
    "data_parallel_rank",
    "session_params",
    "custom_params",
    "disaggregated_params",
    "conversation_params",
    "lora_request",
)
"""Members that reach into an engine: other tenants' cache blocks, scheduling order, pickled code. Not for clients."""

NEEDED = frozenset(
    ("tools", "tool_choice", "functions", "function_call", "response_format", "regex", "ebnf",
     "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_json_object",
     "json_schema", "allowed_token_ids", "audio", "modalities", "messages", "prompt", "suffix", "documents", "echo",
     "logprobs", "top_logprobs", "prompt_logprobs"),
)  # fmt: skip
"""Members by which a client's program reads the answer: without them it would be of another kind than is expected."""

Members = dict[str, msgspec.Raw]
Refuses = Callable[[Any, Mapping[str, Any]], bool]
"""(value, the other watched members decoded) → whether the engine would ignore or mistake this value."""


def always(value: Any, _: Mapping[str, Any]) -> bool:
    """Any value but null and empty ones asks for something."""
    return value is not None and value not in ({}, [], "", False)


def above_one(value: Any, _: Mapping[str, Any]) -> bool:
    return isinstance(value, (int, float)) and value > 1


def not_zero(value: Any, _: Mapping[str, Any]) -> bool:
    return bool(value)


def more_than_n(value: Any, others: Mapping[str, Any]) -> bool:
    """``best_of``: as many as are returned is what an engine without it does anyway."""
    return isinstance(value, (int, float)) and value > (others.get("n") or 1)


def given(value: Any, _: Mapping[str, Any]) -> bool:
    return value is not None


def counted(value: Any, _: Mapping[str, Any]) -> bool:
    """``logprobs`` of completions, which are a number; a chat's are a flag."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_false(value: Any, _: Mapping[str, Any]) -> bool:
    return value is False


def other_than(*usual: Any) -> Refuses:
    """Any value but null and those that change nothing."""
    return lambda value, _: value is not None and value not in usual


def not_text_only(value: Any, _: Mapping[str, Any]) -> bool:
    return value is not None and value != ["text"]


EXTRAS: Mapping[str, Refuses] = {
    "best_of": more_than_n,
    "top_k": other_than(-1, 0),
    "min_p": not_zero,
    "typical_p": other_than(0, 1),
    "repetition_penalty": other_than(1),
    "length_penalty": other_than(1),
    "min_tokens": not_zero,
    "ignore_eos": always,
    "stop_token_ids": always,
    "stop_regex": always,
    "include_stop_str_in_output": always,
    "bad_words": always,
    "allowed_token_ids": always,
    "prompt_logprobs": given,
    "logprob_token_ids": always,
    "use_beam_search": always,
    "truncate_prompt_tokens": given,
    "chat_template": always,
    "chat_template_kwargs": always,
    "documents": always,
    "thinking_token_budget": given,
    "skip_special_tokens": is_false,
}
"""What one open engine or another has beyond OpenAI's API, and how it would be missed elsewhere."""

IDLE = (
    "metadata", "store", "service_tier", "safety_identifier", "moderation", "prediction", "verbosity",
    "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options",
)  # fmt: skip
"""OpenAI's own members that change nothing in an answer of anybody else's."""


_EMPTY = re.compile(rb"\[\s*\]")


def idle_tools(found: Members) -> tuple[str, ...]:
    """What is said of tools where there are none: engines and OpenAI itself complain of an empty list."""
    if _EMPTY.fullmatch(bytes(found.get("tools", b""))) is None:  # others, which may be long, are not read
        return ()
    idle = value(found, "tool_choice") in (None, "none", "auto")
    return ("tools", "parallel_tool_calls", "tool_choice") if idle else ("tools", "parallel_tool_calls")


class _Function(msgspec.Struct):
    name: str


class _Tool(msgspec.Struct):
    function: _Function | None = None


_TOOL = msgspec.json.Decoder(_Tool)
_TOOLS = msgspec.json.Decoder(list[_Tool])


def check_choice(found: Members) -> None:
    """Raises InvalidRequest where the function to be called is none of the tools: many engines would call another."""
    choice = found.get("tool_choice")
    if choice is None or bytes(choice)[:1] != b"{":
        return
    try:
        chosen = _TOOL.decode(choice).function
        listed = _TOOLS.decode(found.get("tools", b"[]"))
    except (msgspec.DecodeError, RecursionError):  # for the engine to judge
        return
    if chosen is None or not listed or any(t.function is None or t.function.name == chosen.name for t in listed):
        return
    raise InvalidRequest(f"Tool choice '{chosen.name}' not found in 'tools' parameter.", param="tool_choice")


def but(refused: Mapping[str, Refuses], *known: str) -> Mapping[str, Refuses]:
    """``refused`` without what an engine knows."""
    assert refused.keys() >= set(known), known
    return {name: check for name, check in refused.items() if name not in known}


class Watch:
    """Looks for the members named by ``refused``, ``also`` and ``STEERING`` (0.6 µs in a short body)."""

    def __init__(self, engine: str, refused: Mapping[str, Refuses], also: Iterable[str] = ()) -> None:
        self._engine = engine
        self._refused = dict(refused)
        self._read = frozenset((*refused, "n", "stream"))
        self._names = frozenset((*refused, *also, *STEERING))

    def __call__(self, body: bytes) -> Members:
        """All members of ``body``, if there is a watched one among them; else none. Raises InvalidRequest if it is no
        JSON object.
        """
        found = members(body)
        return {} if self._names.isdisjoint(found) else found

    def refuse(self, members: Members) -> None:
        """Raises Unsupported, naming a member this engine would silently ignore; one that is needed comes first."""
        checks = self._refused
        values = {name: decoded(raw, name) for name, raw in members.items() if name in self._read}
        ignored = [name for name, value in values.items() if name in checks and checks[name](value, values)]
        if ignored:
            raise unsupported(self._engine, next((name for name in ignored if name in NEEDED), ignored[0]), ignored)


def unsupported(engine: str, param: str, ignored: Iterable[str] = (), why: str = "") -> Unsupported:
    """``ignored``: all that are, where ``param`` is one of several."""
    droppable = () if param in NEEDED else ignored or (param,)
    return Unsupported(f"{engine} does not support '{param}'{why and ': ' + why}", param=param, droppable=droppable)


_MEMBERS = msgspec.json.Decoder(Members)
_JUDGED = frozenset(
    ("model", "messages", "prompt", "input", "stream", "stream_options", "max_tokens", "max_completion_tokens",
     "max_output_tokens", "n", "user", "tools", *EXTRAS, *STEERING),
)  # fmt: skip
_PLAIN = _JUDGED | NEEDED | frozenset(
    ("temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "metadata", "store",
     "parallel_tool_calls", "encoding_format", "dimensions", "instructions", "reasoning"),
)  # fmt: skip
"""What most bodies consist of: spelt as it should be."""


def members(body: bytes) -> Members:
    """All top-level members; the last of a name counts. Raises InvalidRequest if the body is no JSON object, has more
    members than can be looked at, or what an engine written in Go takes for another member than we do.
    """
    try:
        if body.count(b":") > splice.MOST and _beside(body) > splice.MOST:
            splice.check(body)
        found = _MEMBERS.decode(body)
    except splice.Crowded as error:
        raise InvalidRequest(f"the body cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not a JSON object: {error}") from None
    if not _PLAIN.issuperset(found):
        _check_spelling(found.keys() - _PLAIN)
    return found


class _Long(msgspec.Struct):
    """Members that have many of their own."""

    messages: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()


_LONG = msgspec.json.Decoder(_Long)


def _beside(body: bytes) -> int:
    """How many members there are at most beside those of long ones: to make names of millions takes seconds."""
    long = _LONG.decode(body)
    return body.count(b":") - sum(bytes(each).count(b":") for each in (long.messages, long.input, long.tools))


def _check_spelling(names: Iterable[str]) -> None:
    """``Model`` is ``model`` to encoding/json, and so is what only Unicode's case folding makes the same."""
    for name in names:
        plain = name.casefold()
        if plain != name and plain in _JUDGED:
            raise InvalidRequest(f"Unknown parameter: '{name}'. Did you mean '{plain}'?", param=name)


def value(found: Mapping[str, msgspec.Raw], name: str) -> Any:
    """The decoded value of a member, None if it is missing. Raises InvalidRequest."""
    raw = found.get(name)
    return None if raw is None else decoded(raw, name)


_ANY = msgspec.json.Decoder(Any)


def decoded(raw: msgspec.Raw, name: str) -> Any:
    """The value of the member ``name``: a request's own decoding has looked into few of them. Raises InvalidRequest."""
    return read(_ANY, raw, name)


def number(given: Any, name: str) -> float | None:
    """The decoded member ``name``, which is to be a number or null. Raises InvalidRequest."""
    if given is None or (isinstance(given, (int, float)) and not isinstance(given, bool)):
        return given
    raise invalid(name, "expected a number")


def encode(found: Mapping[str, Any]) -> bytes:
    """Raises InvalidRequest for what was nested as deeply as could be read."""
    try:
        return msgspec.json.encode(found)
    except RecursionError:
        raise invalid("", "it is nested too deeply") from None
