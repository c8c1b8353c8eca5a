"""What the gateway reads of an OpenAI request body: the schema, one struct per operation. (P)

Members not named here are skipped unread and reach the engine in the body's bytes. The structs are the validation: a
type here is a 400 there. Text that only estimates and prefix hashes need stays undecoded until asked for.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Raw

from gateway.errors import InvalidRequest
from gateway.types import Operation

_ABSENT: Final = Raw()
_EMPTY: Final = re.compile(rb"\[\s*\]")
_SEVERAL: Final = re.compile(rb"\[\s*[\"\[]")
_T = TypeVar("_T")
_Named = Annotated[str, Meta(min_length=1)]
_TURNS: Final = 65_536
"""More than any context has room for; while many more are read nobody else is served, for up to seconds."""
_Limit = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Number = Annotated[int, Meta(ge=1, le=2**31 - 1)]
"""Engines take a limit below 0 for none at all, or count with it."""


class StreamOptions(msgspec.Struct, frozen=True, gc=False):
    include_usage: bool | None = None


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn. What a role may be is the engine's business; content is a string, an array of parts or null."""

    role: str
    content: Raw = _ABSENT


class View(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The members every operation shares. ``Raw()`` stands for a member that is absent."""

    model: _Named
    user: str | None = None

    def check(self) -> None:
        """Raises InvalidRequest for what a struct cannot say."""

    def prompt_text(self) -> str:
        """The prompt in one canonical text, for token estimates and prefix hashes; "" where no engine accepts it."""
        return ""

    @property
    def output_limit(self) -> int | None:
        """Tokens that each answer may have, as the client says; engines have limits of their own."""
        return None

    @property
    def choices(self) -> int:
        """How many answers the client asks for to each prompt."""
        return 1

    @property
    def prompts(self) -> int:
        """How many there are in one request."""
        return 1


class Generation(View, frozen=True, gc=False, kw_only=True):
    """The members of every operation that can stream."""

    stream: bool | None = None
    max_tokens: _Limit | None = None
    n: _Number | None = None

    @property
    def include_usage(self) -> bool:
        """Whether the client asks for usage in its stream by ``stream_options``."""
        return False

    @property
    def output_limit(self) -> int | None:
        return self.max_tokens

    @property
    def choices(self) -> int:
        return 1 if self.n is None else self.n


class StreamedGeneration(Generation, frozen=True, gc=False, kw_only=True):
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        options = self.stream_options
        return options is not None and options.include_usage is True

    def check(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
            )


class ChatView(StreamedGeneration, frozen=True, gc=False, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1, max_length=_TURNS)]
    max_completion_tokens: _Limit | None = None

    @property
    def output_limit(self) -> int | None:
        """``max_tokens`` is the older name; where both are given engines go by the newer."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def prompt_text(self) -> str:
        return _chat_text(self.messages)


class CompletionView(StreamedGeneration, frozen=True, gc=False, kw_only=True):
    """``prompt`` is a string, an array of strings, of tokens or of arrays of tokens."""

    prompt: Raw = _ABSENT
    prompt_embeds: Raw = _ABSENT

    def check(self) -> None:
        StreamedGeneration.check(self)
        if self.prompt_embeds is _ABSENT:
            _check_text(self.prompt, "prompt")

    def prompt_text(self) -> str:
        return _plain_text(self.prompt)

    @property
    def prompts(self) -> int:
        if not _SEVERAL.match(memoryview(self.prompt)):
            return 1
        each = _read(_ARRAY, self.prompt)
        return len(each) if each else 1


class ResponsesView(Generation, frozen=True, gc=False, kw_only=True):
    """``input`` is a string or an array of items; a stored prompt or an earlier response may stand in for it."""

    input: Raw = _ABSENT
    instructions: Raw = _ABSENT
    max_output_tokens: _Limit | None = None

    @property
    def output_limit(self) -> int | None:
        return self.max_output_tokens

    def check(self) -> None:
        if self.input is not _ABSENT and bytes(self.input) != b"null":
            _check_text(self.input, "input")

    def prompt_text(self) -> str:
        system = _content_text(self.instructions)
        lead = _turn("system", system) if system else ""
        if bytes(self.input)[:1] == b"[":
            items = _read(_ITEMS, self.input)
            return lead + _chat_text(items or [])
        return lead + _turn("user", _content_text(self.input))


class MessagesView(Generation, frozen=True, gc=False, kw_only=True):
    """Anthropic's Messages: the system prompt stands beside the turns."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=_TURNS)]
    system: Raw = _ABSENT

    def prompt_text(self) -> str:
        return _messages_text(self.system, self.messages)


class CountView(View, frozen=True, gc=False, kw_only=True):
    """Messages whose tokens are to be counted: no answer is asked for."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=_TURNS)]
    system: Raw = _ABSENT

    def prompt_text(self) -> str:
        return _messages_text(self.system, self.messages)


class EmbeddingsView(View, frozen=True, gc=False, kw_only=True):
    """``input`` as CompletionView's prompt; engines also embed ``messages`` (text and images) instead."""

    input: Raw = _ABSENT
    messages: Annotated[list[Message], Meta(max_length=_TURNS)] | None = None

    def check(self) -> None:
        if not self.messages:
            _check_text(self.input, "input")
            if _EMPTY.fullmatch(memoryview(self.input)[:24]):
                raise empty("array", "input")

    def prompt_text(self) -> str:
        return _chat_text(self.messages) if self.messages else _plain_text(self.input)


class RerankView(View, frozen=True, gc=False, kw_only=True):
    query: Raw
    documents: Raw

    def prompt_text(self) -> str:
        return f"{_plain_text(self.query)}\n{_plain_text(self.documents)}"


class TokenizeView(View, frozen=True, gc=False, kw_only=True):
    """One of ``prompt`` and ``messages``; the engine says which it misses."""

    prompt: Raw = _ABSENT
    messages: Annotated[list[Message], Meta(max_length=_TURNS)] | None = None

    def prompt_text(self) -> str:
        return _chat_text(self.messages) if self.messages else _plain_text(self.prompt)


VIEWS: Final[dict[Operation, type[View]]] = {
    Operation.CHAT: ChatView,
    Operation.COMPLETIONS: CompletionView,
    Operation.EMBEDDINGS: EmbeddingsView,
    Operation.RESPONSES: ResponsesView,
    Operation.RERANK: RerankView,
    Operation.MESSAGES: MessagesView,
    Operation.COUNT_TOKENS: CountView,
    Operation.TOKENIZE: TokenizeView,
    Operation.DETOKENIZE: View,
}


def _check_text(raw: Raw, name: str) -> None:
    """``raw`` must be a string or an array; what is in the array the engine judges."""
    if raw is _ABSENT:
        raise InvalidRequest(f"Missing required parameter: '{name}'.", param=name)
    got = json_type(memoryview(raw)[:24].tobytes())
    if got not in ("a string", "an array"):
        raise InvalidRequest(
            f"Invalid type for '{name}': expected a string or an array, but got {got} instead.", param=name
        )


def empty(kind: str, path: str) -> InvalidRequest:
    article = "an" if kind == "array" else "a"
    return InvalidRequest(
        f"Invalid '{path}': empty {kind}. Expected {article} {kind} with minimum length 1, "
        f"but got an empty {kind} instead.",
        param=path,
    )


def json_type(raw: bytes) -> str:
    """The type of a JSON value, with its article, as error messages name it. The value's first bytes suffice."""
    first = raw.lstrip()[:1]
    named = _TYPES.get(first)
    if named is not None:
        return named
    return "a decimal" if any(mark in raw for mark in b".eE") else "an integer"


_TYPES = {
    b'"': "a string",
    b"{": "an object",
    b"[": "an array",
    b"t": "a boolean",
    b"f": "a boolean",
    b"n": "null",
}


# -- text, only when asked for ------------------------------------------------------------------------------------


class _Part(msgspec.Struct, frozen=True, gc=False):
    text: str = ""


class _Item(msgspec.Struct, frozen=True, gc=False):
    """An item of the Responses API's input; tool calls and results have no role."""

    role: str = ""
    content: Raw = _ABSENT
    output: Raw = _ABSENT


_CONTENT = msgspec.json.Decoder(str | list[_Part] | None)
_ITEMS = msgspec.json.Decoder(list[_Item])
_PLAIN = msgspec.json.Decoder(str | list[str] | None)
_ARRAY = msgspec.json.Decoder(list[Raw])


def _read(decoder: msgspec.json.Decoder[_T], raw: Raw) -> _T | None:
    try:
        return decoder.decode(raw)
    except (ValueError, RecursionError):  # msgspec's errors and broken UTF-8 are ValueErrors
        return None


def _content_text(raw: Raw) -> str:
    """Text parts joined by a line feed; parts of other kinds have none."""
    content = _read(_CONTENT, raw)
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join([part.text for part in content if part.text])


def _plain_text(raw: Raw) -> str:
    """A string as is, an array of strings by lines, tokens as their JSON."""
    plain = _read(_PLAIN, raw)
    if isinstance(plain, str):
        return plain
    if plain is not None:
        return "\n".join(plain)
    text = bytes(raw)
    return text.decode(errors="replace") if text[:1] == b"[" else ""


def _turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def _messages_text(system: Raw, messages: list[Message]) -> str:
    text = _content_text(system)
    return (_turn("system", text) if text else "") + _chat_text(messages)


def _chat_text(messages: list[Message] | list[_Item]) -> str:
    """ChatML, whatever the model's own template: equal prefixes stay equal."""
    turns = []
    for message in messages:
        content = message.content
        if content is _ABSENT and isinstance(message, _Item):
            content = message.output
        turns.append(_turn(message.role, _content_text(content)))
    return "".join(turns)
