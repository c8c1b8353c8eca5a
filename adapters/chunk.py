"""One event of a chat or completion stream: what the gateway reads of it, and how odd spellings are mended. (P)

Invariant: a payload is rewritten only where an SDK would stumble over it; else its bytes stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from adapters import usage

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
"""What OpenAI's schema allows; typed clients refuse anything else."""

FAILED_REASONS = frozenset({"error", "insufficient_system_resource"})
"""Finish reasons that say that the engine gave up."""

_REASONS = {
    "stop_sequence": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "pause_turn": "stop",
    "repetition": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "abort": "length",  # cut short by the engine: the text is not whole, which is what "length" tells a client
    "tool_use": "tool_calls",
    "safety": "content_filter",
    "refusal": "content_filter",
    "recitation": "content_filter",  # Gemini's own
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "malformed_function_call": "content_filter",
    "guardrail_intervened": "content_filter",  # Bedrock's
}


class Delta(msgspec.Struct, gc=False):
    role: Any = None
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None

    @property
    def speaks(self) -> bool:
        """Whether it holds any output, be it text, thought or a call."""
        return bool(
            self.content
            or self.reasoning
            or self.reasoning_content
            or self.tool_calls
            or self.function_call
            or self.refusal
            or self.audio
        )


class Choice(msgspec.Struct, gc=False):
    index: Any = None
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | msgspec.UnsetType | None = msgspec.UNSET


class Chunk(msgspec.Struct):
    id: Any = None
    object: Any = None
    created: Any = None
    model: Any = None
    choices: list[Choice] | None = None
    usage: usage.Counts | None = None
    error: Any = None
    error_type: Any = None
    message: Any = None
    detail: Any = None

    @property
    def fails(self) -> bool:
        """Whether it tells a failure: in a member for it, or as all there is."""
        return bool(self.error) or fails(self.object, self.message, self.detail, self.choices)

    @property
    def speaks(self) -> bool:
        for choice in self.choices or ():  # noqa: SIM110  any() would cost as much again
            if choice.text or (choice.delta is not None and choice.delta.speaks):
                return True
        return False

    @property
    def reasons(self) -> list[str]:
        """The finish reasons given, empty strings left out."""
        return [c.finish_reason for c in self.choices or () if c.finish_reason]

    @property
    def bare(self) -> bool:
        """Whether it lacks what all with a choice have: id, object, time, model, the choice's index and reason."""
        if self.id and self.object and self.created and self.model:
            listed = self.choices or ()
            return any(not isinstance(c.index, int) or c.finish_reason is msgspec.UNSET for c in listed)
        return bool(self.choices)

    @property
    def odd(self) -> bool:
        """Whether a choice holds neither delta nor text, or a call that typed clients cannot read."""
        return any(_odd(c) for c in self.choices or ())


def fails(kind: object, message: object, detail: object, choices: object) -> bool:
    """Whether what is no answer is a failure without an envelope: of vLLM and SGLang (``object``), of proxies
    (``message``), of FastAPI (``detail``).
    """
    return not choices and (kind == "error" or bool(detail) or isinstance(message, str))


class LooseChunk(Chunk):
    """Read from what is not quite JSON, or from members of odd types."""

    @property
    def odd(self) -> bool:
        return True


def _odd(choice: Choice) -> bool:
    if choice.delta is None:
        return choice.text is None
    return any(odd_call(call) or not isinstance(call.get("index"), int) for call in dicts(choice.delta.tool_calls))


def odd_call(call: dict[str, Any]) -> bool:
    """Whether a call's arguments are given as an object rather than as text that holds it."""
    function = call.get("function")
    return isinstance(function, dict) and not isinstance(function.get("arguments", ""), str)


_DECODER = msgspec.json.Decoder(Chunk)
_NAMED = ("id", "object", "created", "model", "error", "error_type", "message", "detail")


def read(payload: bytes) -> Chunk | None:
    """A payload's chunk; members of odd types are read as far as they go. None if it is no JSON object."""
    try:
        return _DECODER.decode(payload)
    except (ValueError, RecursionError):
        pass
    try:
        document = leniently(payload)
    except (ValueError, RecursionError):
        return None
    return _loose(document) if isinstance(document, dict) else None


def leniently(payload: bytes) -> Any:
    """With NaN, which engines write into logprobs, and characters cut in half, which become replacement characters."""
    return json.loads(payload.decode("utf-8", "replace"))


def _loose(document: dict[str, Any]) -> Chunk:
    listed = document.get("choices")
    choices = None
    if isinstance(listed, list):
        choices = [_loose_choice(c) for c in listed if isinstance(c, dict)]
    counts = usage.loose(document.get("usage"))
    named = {name: document.get(name) for name in _NAMED}
    return LooseChunk(choices=choices, usage=counts, **named)


def _loose_choice(choice: dict[str, Any]) -> Choice:
    delta, text, reason = choice.get("delta"), choice.get("text"), choice.get("finish_reason")
    return Choice(
        choice.get("index"),
        msgspec.convert(delta, Delta) if isinstance(delta, dict) else None,
        text if isinstance(text, str) else None,
        reason if isinstance(reason, str) else None,
    )


class _Wanted(msgspec.Struct):
    n: Any = None
    prompt: Any = None


_WANTED = msgspec.json.Decoder(_Wanted)


def wanted(body: bytes) -> int:
    """How many choices a request wants: ``n`` for each of its prompts; 1 of one that does not tell."""
    try:
        asked = _WANTED.decode(body)
    except (ValueError, RecursionError):
        return 1
    prompts = asked.prompt if isinstance(asked.prompt, list) else ()
    each = asked.n if isinstance(asked.n, int) else 1
    return each * (len(prompts) if prompts and isinstance(prompts[0], (str, list)) else 1)


def place(index: object) -> int:
    """A choice's index, 0 for what is none."""
    return index if isinstance(index, int) else 0


def finish_reason(value: object) -> str | None:
    """The OpenAI finish reason for an engine's; empty and missing ones are None, unknown ones ``stop``. Gemini's may
    say more than that something was filtered: ``content_filter: SAFETY``, ``function_call_filter: …``.
    """
    if not isinstance(value, str) or not value:
        return None
    if value in FINISH_REASONS:
        return value
    word = value.lower().partition(":")[0]
    return "content_filter" if word.endswith("_filter") else _REASONS.get(word, "stop")


def decode(payload: bytes) -> dict[str, Any]:
    """A payload that `read` has accepted, as a dict whose ``choices`` are a list of dicts. NaN is read."""
    try:
        document = msgspec.json.decode(payload)
    except ValueError:
        document = leniently(payload)
    assert isinstance(document, dict)
    document["choices"] = dicts(document.get("choices"))
    return document


def encode(document: dict[str, Any]) -> bytes:
    """As JSON for strict readers: NaN as null, a lone surrogate (half an emoji, in some engines' chunks) escaped."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return json.dumps(document, separators=(",", ":")).encode()


def dicts(value: object) -> list[dict[str, Any]]:
    """The objects in a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def mend_reasons(payload: bytes) -> bytes:
    """The payload with finish reasons of the OpenAI schema and a list of choices."""
    document = decode(payload)
    for choice in document["choices"]:
        choice["finish_reason"] = finish_reason(choice.get("finish_reason"))
    return encode(document)


def mend_whole(body: bytes) -> bytes:
    """A whole answer with finish reasons of the OpenAI schema, calls' arguments as text and no NaN."""
    document = leniently(body)
    for choice in dicts(document.get("choices")):
        choice["finish_reason"] = finish_reason(choice.get("finish_reason"))
        message = choice.get("message")
        for call in dicts(message.get("tool_calls")) if isinstance(message, dict) else ():
            _stringify(call)
    return encode(document)


def _stringify(call: dict[str, Any]) -> None:
    if odd_call(call):
        function = call["function"]
        function["arguments"] = json.dumps(function["arguments"])


class Mender:
    """Makes a whole stream regular: one id and time for all chunks, roles once, tool calls with index and id.

    For engines whose chunks need it (TGI, Gemini, Ollama), and for streams of others from where they do; the state of
    one answer. ``created`` and ``model`` stand in for an engine that does not tell; in the choices ``spoken`` the role
    has been said. Without ``counts`` a chunk with choices loses its usage. ``renamed``: whatever the engine calls its
    answer, it is called ``ident``.
    """

    __slots__ = ("_called", "_counts", "_created", "_id", "_model", "_renamed", "_spoken", "_time")

    def __init__(
        self,
        ident: str,
        created: int = 0,
        model: str = "",
        spoken: Iterable[object] = (),
        *,
        counts: bool = True,
        renamed: bool = False,
    ) -> None:
        self._renamed = renamed
        self._counts = counts
        self._id = ident
        self._time = created
        self._created = 0
        self._model = model
        self._spoken = set(spoken)
        self._called: dict[int, dict[int, str]] = {}

    def mend(self, payload: bytes) -> bytes:
        """One payload, mended. Expects one that `read` has accepted."""
        document = decode(payload)
        self._created = self._created or document.get("created") or self._time
        document["created"] = self._created
        document["id"] = self._id if self._renamed else document.get("id") or self._id
        document["model"] = document.get("model") or self._model
        if document["choices"] and not self._counts:
            document.pop("usage", None)
        for choice in document["choices"]:
            self._choice(choice, document)
        return encode(document)

    def _choice(self, choice: dict[str, Any], document: dict[str, Any]) -> None:
        index = choice["index"] = place(choice.get("index"))
        reason = finish_reason(choice.get("finish_reason"))
        if "text" in choice:
            _name(document, "text_completion")
        elif isinstance(choice.get("message"), dict):
            _name(document, "chat.completion")
            choice.setdefault("logprobs", None)
            for name in ("content", "refusal"):
                choice["message"].setdefault(name, None)
            self._calls(index, choice["message"], whole=True)
            for call in dicts(choice["message"].get("tool_calls")):
                del call["index"]
        else:
            _name(document, "chat.completion.chunk")
            delta = choice["delta"] = choice["delta"] if isinstance(choice.get("delta"), dict) else {}
            self._role(index, delta)
            self._calls(index, delta)
        called = reason == "stop" and self._called.get(index)
        choice["finish_reason"] = "tool_calls" if called else reason

    def _role(self, index: int, delta: dict[str, Any]) -> None:
        if index in self._spoken:
            delta.pop("role", None)
        elif "role" in delta:
            self._spoken.add(index)

    def _calls(self, index: int, said: dict[str, Any], *, whole: bool = False) -> None:
        """A call is numbered and named once, whatever its number is; what comes of it without a name goes on with it.
        One that names a function under another id is a new one: Gemini gives none a number, or all the same.
        """
        known = self._called.setdefault(index, {})
        for call in dicts(said.get("tool_calls")):
            function = call["function"] = call["function"] if isinstance(call.get("function"), dict) else {}
            number, given, named = call.get("index"), call.get("id"), bool(function.get("name"))
            ident = given if isinstance(given, str) and not given.isdigit() else ""
            at = number if isinstance(number, int) and not whole else None
            if at is None or (named and ident and ident != known.get(at, ident)):
                at = max(0, max(known, default=-1) + (whole or named))
            call["index"] = at
            if at not in known and (whole or given or named):
                known[at] = call["id"] = ident or f"{self._id}-{at}"
                call["type"] = "function"
            else:  # OpenAI names a call once
                for name in ("id", "type"):
                    call.pop(name, None)
                if not named:
                    function.pop("name", None)
            _stringify(call)


def _name(document: dict[str, Any], kind: str) -> None:
    document["object"] = document.get("object") or kind
