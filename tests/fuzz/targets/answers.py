"""Answers that come whole, of every engine: completions, refusals, listings, loads. (P)

Property: any split of the bytes gives the same answer; of JSON it is JSON, or there is an error and nothing is said;
whatever a refusal holds, it becomes an UpstreamError of a status that may be told; what is no listing and no load is a
ValueError. Nothing else is raised.
"""

from __future__ import annotations

import json
from contextlib import suppress

from adapters import registry
from gateway.errors import UpstreamError
from gateway.ports import Adapter
from gateway.types import InferenceRequest, Operation
from tests.fuzz.pieces import cut

_ADAPTERS = sorted(registry.load().items())
_OPERATIONS = list(Operation)
_STATUSES = (400, 401, 404, 413, 422, 429, 500, 502, 503, 529, 302, 599)
_NAMES = (
    b"retry-after", b"x-prompt-tokens", b"date", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests",
    b"x-ratelimit-reset-tokens", b"anthropic-ratelimit-requests-remaining", b"anthropic-ratelimit-requests-reset",
)  # fmt: skip


def target(data: bytes) -> None:
    """First bytes: the engine, the operation, what the rest is, how it is cut, how long the field is that leads it."""
    if len(data) < 6:
        return
    _, adapter = _ADAPTERS[data[0] % len(_ADAPTERS)]
    operation = _OPERATIONS[data[1] % len(_OPERATIONS)]
    value, body = data[5 : 5 + data[4]], data[5 + data[4] :]
    headers = [(_NAMES[data[3] % len(_NAMES)], value), (b"content-type", b"application/json")]
    match data[2] & 3:
        case 0:
            _refusal(adapter, _STATUSES[data[2] % len(_STATUSES)], headers, body)
        case 1:
            _learned(adapter, body)
        case _:
            _whole(adapter, operation, headers, body, data[3], stream=data[2] & 3 == 3)


def _refusal(adapter: Adapter, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    error = adapter.error(status, headers, body)
    assert isinstance(error, UpstreamError)
    assert 400 <= error.status <= 599, error.status
    assert error.retry_after is None or 0 <= error.retry_after < float("inf"), error.retry_after
    adapter.ration(headers)
    json.dumps([error.message, error.code, error.param], ensure_ascii=False).encode()  # a client can be told


def _learned(adapter: Adapter, body: bytes) -> None:
    with suppress(ValueError):
        for card in adapter.parse_models(body):
            assert isinstance(card.id, str)
    with suppress(ValueError):
        adapter.parse_load(body, 1.0)


def _whole(
    adapter: Adapter, operation: Operation, headers: list[tuple[bytes, bytes]], body: bytes, seed: int, *, stream: bool
) -> None:
    asked = b'{"model":"m","prompt":"p","parallel_tool_calls":false,"top_n":1,"logprobs":1}'
    request = InferenceRequest("id", operation, "m", asked, stream=stream)
    told = []
    for pieces in ([body], cut(body, seed)):
        decoder = adapter.decoder(request, 200, headers)
        said = b"".join([*(decoder.feed(piece) for piece in pieces), decoder.finish()])
        told.append((said, decoder.error and decoder.error.message, decoder.usage))
    assert told[0] == told[1], told
    said, error, _ = told[0]
    assert not (said and error), told
    if said and not stream and _is_json(body):
        assert _is_json(said), told


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body.decode())
    except (ValueError, RecursionError):
        return False
    return True
