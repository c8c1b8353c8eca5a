"""What adapters share in reading a request: its members by name, those an engine would drop, those that steer it. (P)

Invariant: values stay the client's bytes; only the few members an engine treats differently are looked into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from gateway.errors import InvalidRequest, Unsupported

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
)
"""Members that reach into an engine: other tenants' cache blocks, scheduling order, pickled code. Not for clients."""

NEEDED = frozenset(
    ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "response_format", "regex", "ebnf",
     "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_json_object",
     "allowed_token_ids", "audio", "modalities", "prompt", "suffix", "echo", "logprobs", "top_logprobs",
     "prompt_logprobs"),
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


def not_text_only(value: Any, _: Mapping[str, Any]) -> bool:
    return value is not None and value != ["text"]


class Watch:
    """Finds the members named by ``refused`` and ``STEERING`` in a body in one pass (0.2 µs for a short one)."""

    def __init__(self, engine: str, refused: Mapping[str, Refuses], also: Iterable[str] = ()) -> None:
        self._engine = engine
        self._refused = dict(refused)
        self._names = tuple(dict.fromkeys((*refused, *also, *STEERING)))
        fields = [(f"m{i}", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for i in range(len(self._names))]
        rename = {f"m{i}": name for i, name in enumerate(self._names)}
        struct = msgspec.defstruct("Watched", fields, rename=rename, eq=False)
        self._decoder = msgspec.json.Decoder(struct)
        self._blank = msgspec.structs.astuple(struct())

    def __call__(self, body: bytes) -> Members:
        """The watched members present in ``body``. Raises InvalidRequest if it is no JSON object."""
        try:
            found = msgspec.structs.astuple(self._decoder.decode(body))
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequest(f"the body is not a JSON object: {error}") from None
        if found == self._blank:
            return {}
        return {name: raw for name, raw in zip(self._names, found, strict=True) if raw is not msgspec.UNSET}

    def refuse(self, members: Members) -> None:
        """Raises Unsupported, naming a member this engine would silently ignore; one that is needed comes first."""
        values = {name: msgspec.json.decode(raw) for name, raw in members.items()}
        checks = self._refused
        ignored = [name for name, value in values.items() if name in checks and checks[name](value, values)]
        if ignored:
            raise unsupported(self._engine, next((name for name in ignored if name in NEEDED), ignored[0]), ignored)


def unsupported(engine: str, param: str, ignored: Iterable[str] = (), why: str = "") -> Unsupported:
    """``ignored``: all that are, where ``param`` is one of several."""
    droppable = () if param in NEEDED else ignored or (param,)
    return Unsupported(f"{engine} does not support '{param}'{why and ': ' + why}", param=param, droppable=droppable)


def members(body: bytes) -> Members:
    """All top-level members; the last of a name counts. Raises InvalidRequest if the body is no JSON object."""
    try:
        return msgspec.json.decode(body, type=Members)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not a JSON object: {error}") from None


def value(found: Mapping[str, msgspec.Raw], name: str) -> Any:
    """The decoded value of a member, None if it is missing."""
    raw = found.get(name)
    return None if raw is None else msgspec.json.decode(raw)


def encode(found: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(found)
