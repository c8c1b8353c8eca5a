"""Request messages of inference.v1 as the OpenAI bodies they stand for. (P)

Invariant: a body holds what is set in the message, under OpenAI's names, and nothing else but what makes a stream tell
its usage and an embedding come in binary. What no body can stand for is an InvalidRequest that names the field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.errors import InvalidRequest

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from protocols.grpc.generated.upb import inference as pb

_STREAM: Final[dict[str, Any]] = {"stream": True, "stream_options": {"include_usage": True}}
_BINARY: Final[dict[str, Any]] = {"encoding_format": "base64"}
_NOT_EXTRA: Final = frozenset({"stream", "stream_options", "encoding_format"})
_EXTRA: Final = "extra_body_json"
_LISTS: Final = frozenset({"messages", "tools", "prompt", "input"})
MAX_ITEMS: Final = 65536
"""Messages with all their parts and calls, tools, or prompts, in one request."""
_ENCODE: Final = msgspec.json.Encoder().encode
_JSON: Final = msgspec.json.Decoder()
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def generation(message: pb.CreateChatCompletionRequest | pb.CreateCompletionRequest, *, stream: bool) -> bytes:
    """The body of a chat or a completion. Raises InvalidRequest."""
    return _body(message, _STREAM if stream else {})


def embedding(message: pb.CreateEmbeddingRequest) -> bytes:
    """The vectors are asked for in base64, as OpenAI's own clients do. Raises InvalidRequest."""
    return _body(message, _BINARY)


def tokenize(message: pb.CountTokensRequest) -> bytes:
    """Raises InvalidRequest."""
    if message.messages and message.HasField("prompt"):
        raise InvalidRequest("Give either 'prompt' or 'messages', not both.", param="prompt")
    return _body(message, {})


def _body(message: Message, more: Mapping[str, Any]) -> bytes:
    _check_count(message)
    members = _members(message, "")
    extra = members.pop(_EXTRA, None)
    if extra is not None:
        _add(members, extra)
    members.update(more)
    return _ENCODE(members)


@cache
def _lists(kind: Any) -> tuple[str, ...]:
    return tuple(name for name in kind.fields_by_name.keys() if name in _LISTS)  # noqa: SIM118 — no dict


def _check_count(message: Any) -> None:
    """Empty messages take two bytes each: what is a thousand times as large here must not be made of them."""
    for name in _lists(message.DESCRIPTOR):
        value = getattr(message, name)
        count = 0 if isinstance(value, str) else len(value)
        if name == "messages" and count <= MAX_ITEMS:
            count += sum(len(each.parts.parts) + len(each.tool_calls) for each in value)
        if count > MAX_ITEMS:
            raise InvalidRequest(f"'{name}' must not have more than {MAX_ITEMS} items.", param=name)


def _members(message: Message, at: str) -> dict[str, Any]:
    """The fields that are set, as JSON members. ``at``: where the message stands, with a point behind it."""
    members: dict[str, Any] = {}
    for field, value in message.ListFields():
        name = field.name
        written = _WRITERS.get(name)
        if written is not None:
            name, write = written
            value = write(value, at + name)
            if value is None:
                continue
        elif type(value) is float and not math.isfinite(value):
            raise InvalidRequest(f"'{at}{name}' must be a finite number.", param=at + name)
        members[name] = value
    return members


def _add(members: dict[str, Any], extra: str) -> None:
    _object(extra, _EXTRA)
    for name, raw in _MEMBERS.decode(extra).items():
        if name in members or name in _NOT_EXTRA:
            raise InvalidRequest(f"'{_EXTRA}' must not have the member '{name[:64]}'.", param=_EXTRA)
        members[name] = raw


# -- fields that are not as they are in JSON: a value and where it stands → its JSON; None leaves it out ------------


def _each(write: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def written(values: Sequence[Any], at: str) -> list[Any]:
        return [write(value, f"{at}[{index}]") for index, value in enumerate(values)]

    return written


def _message(message: pb.ChatMessage, at: str) -> dict[str, Any]:
    return _members(message, at + ".")


def _plain(value: Any, _at: str) -> Any:
    return value


def _list(values: Sequence[Any], _at: str) -> list[Any]:
    return list(values)


def _biases(values: Mapping[str, float], at: str) -> dict[str, float]:
    biases = dict(values)
    if not all(map(math.isfinite, biases.values())):
        raise InvalidRequest(f"'{at}' must hold finite numbers.", param=at)
    return biases


def _parts(parts: pb.ContentParts, at: str) -> list[dict[str, Any]]:
    return [_part(part, f"{at}[{index}]") for index, part in enumerate(parts.parts)]


def _part(part: pb.ContentPart, at: str) -> dict[str, Any]:
    kind = part.WhichOneof("part")
    if kind is None:
        raise InvalidRequest(f"'{at}' is of no kind this API has.", param=at)
    value = getattr(part, kind)
    return {"type": kind, kind: value if isinstance(value, str) else _members(value, f"{at}.{kind}.")}


def _tool(tool: pb.Tool, at: str) -> dict[str, Any]:
    return {"type": "function", "function": _members(tool.function, f"{at}.function.")}


def _call(call: pb.ToolCall, _at: str) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _choice(choice: pb.ToolChoice, at: str) -> Any:
    kind = choice.WhichOneof("choice")
    if kind is None:
        raise InvalidRequest(f"'{at}' has neither a mode nor a function.", param=at)
    return choice.mode if kind == "mode" else {"type": "function", "function": {"name": choice.function}}


def _prompts(prompts: Sequence[pb.Prompt], at: str) -> Any:
    """One prompt stands for itself, several for an array of them."""
    kinds = {prompt.WhichOneof("prompt") for prompt in prompts}
    if len(kinds) != 1 or None in kinds:
        raise InvalidRequest(f"'{at}' must hold texts only or tokens only.", param=at)
    written = [prompt.text if "text" in kinds else list(prompt.token_ids.ids) for prompt in prompts]
    return written[0] if len(written) == 1 else written


def _object(text: str, at: str) -> msgspec.Raw:
    """JSON text, which has to be an object; it is passed on as it is."""
    try:
        document = _JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"'{at}' is not JSON: {error}", param=at) from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"'{at}' is not a JSON object.", param=at)
    return msgspec.Raw(text.encode())


def _schema(schema: pb.JsonSchema, at: str) -> dict[str, Any]:
    return _members(schema, at + ".")


_WRITERS: Final[dict[str, tuple[str, Callable[[Any, str], Any]]]] = {
    "messages": ("messages", _each(_message)),
    "text": ("content", _plain),
    "parts": ("content", _parts),
    "tool_calls": ("tool_calls", _each(_call)),
    "tools": ("tools", _each(_tool)),
    "tool_choice": ("tool_choice", _choice),
    "parameters_json": ("parameters", _object),
    "schema_json": ("schema", _object),
    "json_schema": ("json_schema", _schema),
    "response_format": ("response_format", _schema),
    "logit_bias": ("logit_bias", _biases),
    "stop": ("stop", _list),
    "prompt": ("prompt", lambda value, at: value if isinstance(value, str) else _prompts(value, at)),
    "input": ("input", _prompts),
    "return_tokens": ("return_tokens", lambda _value, _at: None),
}
"""By the field's name: the member's name and how its value is written. Names mean the same in every message."""
