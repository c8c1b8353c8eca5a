"""Bodies of requests: what is read of them, and what edits leave of them, judged by json. (P)

Property: a body that is accepted is a JSON object whose model, and whether it is to be streamed, json reads alike; what
stands in it raises nothing later. An edit leaves every member, number and text as it was, in its order, but what it
names; and what an adapter makes of it for its engine is JSON again that names the model asked for there. Anything
refused is refused by a GatewayError.
"""

from __future__ import annotations

import json
from typing import Any

from adapters import registry
from gateway.errors import GatewayError, InvalidRequest
from gateway.types import Endpoint, Operation
from gateway.wire import splice
from protocols.openai.parse import parse
from protocols.openai.view import Generation, View

_OPERATIONS = list(Operation)
_ADAPTERS = sorted(registry.load().items())
_NAMES = ("model", "stream_options", "user", "n", "é", "a b", "include_usage", "temperature")
_NEW = (b'"new"', b"{}", b"[1.50,null]", b"1e2", b"true")
Pairs = list[tuple[str, Any]]


class Object:
    """A JSON object as it was written: members in order, repeated ones too."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Object) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(len(self.pairs))

    def __repr__(self) -> str:
        return f"Object({self.pairs})"


def target(data: bytes) -> None:
    """First bytes: the operation, the member to edit, its new value, the engine; the rest is the body."""
    if len(data) < 4:
        return
    operation, body = _OPERATIONS[data[0] % len(_OPERATIONS)], data[4:]
    try:
        request = parse(operation, body, (), request_id="r", path=operation.value)
    except InvalidRequest:
        return
    whole = _read(body)
    view = request.view
    assert isinstance(view, View)
    named = dict(whole.pairs)
    assert (request.model, request.stream) == (named["model"], _streams(view, named)), body
    view.prompt_text()
    assert view.output_limit is None or view.output_limit >= 0
    assert view.choices >= 1
    name, other = (_NAMES[at % len(_NAMES)] for at in (data[1], data[1] // 16))
    _edited(body, whole, name, other, _NEW[data[2] % len(_NEW)])
    engine, adapter = _ADAPTERS[data[3] % len(_ADAPTERS)]
    try:
        sent = adapter.encode(request, Endpoint(engine, "http", "127.0.0.1", 8000), "theirs")
    except GatewayError:
        return
    assert engine == "tgi" or dict(_read(sent.body).pairs)["model"] == "theirs", sent.body


def _read(body: bytes) -> Object:
    read = json.loads(body.decode(), object_pairs_hook=Object, parse_int=str, parse_float=str)
    assert isinstance(read, Object)
    return read


def _streams(view: View, named: dict[str, Any]) -> bool:
    return isinstance(view, Generation) and named.get("stream") is True


def _edited(body: bytes, whole: Object, name: str, other: str, raw: bytes) -> None:
    pairs, new = whole.pairs, _read(b'{"x":%b}' % raw).pairs[0][1]
    present = any(key == name for key, _ in pairs)
    set_ = [(key, new if key == name else value) for key, value in pairs] if present else [(name, new), *pairs]
    called = [(other if key == name else key, value) for key, value in pairs]
    assert _read(splice.insert(body, name, raw)).pairs == [(name, new), *pairs], (body, name)
    assert _read(splice.replace(body, name, raw)).pairs == set_, (body, name)
    assert _read(splice.rename(body, name, other)).pairs == called, (body, name)
    left = [(key, value) for key, value in pairs if key not in (name, other)]
    assert _read(splice.remove(body, {name, other})).pairs == left, (body, name, other)
    assert _read(splice.merge(body, name, "inner", raw)).pairs == _merged(pairs, name, new), (body, name)
    if present:
        assert _read(splice.replace(body, name, raw, present=True)).pairs == set_, (body, name)
        assert _read(splice.rename(body, name, other, present=True)).pairs == called, (body, name)


def _merged(pairs: Pairs, name: str, new: Any) -> Pairs:
    fresh = Object([("inner", new)])
    if all(key != name for key, _ in pairs):
        return [(name, fresh), *pairs]
    return [(key, _inner(value, new, fresh) if key == name else value) for key, value in pairs]


def _inner(value: Any, new: Any, fresh: Object) -> Any:
    if not isinstance(value, Object):
        return fresh if value is None else value
    if all(key != "inner" for key, _ in value.pairs):
        return Object([("inner", new), *value.pairs])
    return Object([(key, new if key == "inner" else old) for key, old in value.pairs])
