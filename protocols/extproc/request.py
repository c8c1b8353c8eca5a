"""What the proxy forwards of a request, as an InferenceRequest. (P)

Invariant: a body is decoded once, and reaches the endpoint byte for byte but for the model's name. A request that
names no model (no body, an unknown path, a mode that does not show bodies) has model "": any endpoint will do.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.types import Identity, InferenceRequest, Operation
from gateway.wire import splice
from protocols.extproc import fields
from protocols.openai.parse import parse

PROTOCOL: Final = "ext_proc"
_OPERATIONS: Final = {operation.value: operation for operation in Operation}


class Wanted(msgspec.Struct, frozen=True):
    """A request whose endpoint has to be chosen now. ``body`` is None where none is shown, ``bodiless`` where none is.

    ``only``: see `gateway.types.InferenceRequest`. ``path`` is "" where the proxy tells none.
    """

    head: fields.Head
    path: str
    body: bytes | None = None
    only: tuple[str, ...] | None = None
    bodiless: bool = False


def operation(path: str, body: bytes) -> Operation | None:
    """By the path's end, since proxies route by prefixes; without a path by what the body holds. None: none known."""
    if not path:
        prompt = b'"messages"' not in body and b'"prompt"' in body
        return Operation.COMPLETIONS if prompt else Operation.CHAT
    path = path.partition("?")[0].rstrip("/")
    found = _OPERATIONS.get(path)
    if found is not None:
        return found
    return next((known for end, known in _OPERATIONS.items() if path.endswith(end)), None)


def identified(identity: Identity, head: fields.Head) -> Identity:
    """Whom nobody knows is told apart by the fairness id, if the proxy or the client gives one."""
    if identity.user:
        return identity
    fairness = head.text(*fields.FAIRNESS)
    return msgspec.structs.replace(identity, user=fairness) if fairness else identity


def inference(wanted: Wanted, identity: Identity, request_id: str) -> InferenceRequest:
    """Raises InvalidRequest. The model is the one a header asks for, else the body's."""
    head, body = wanted.head, wanted.body
    asked = operation(wanted.path, body) if body is not None else None
    override, objective = head.text(*fields.MODEL), head.text(*fields.OBJECTIVE)
    if body is None or asked is None:
        return InferenceRequest(
            request_id,
            asked or operation(wanted.path, b"") or Operation.CHAT,
            override or head.text(fields.ROUTED_MODEL),
            body or b"",
            head.fields,
            wanted.path,
            identity=identity,
            protocol=PROTOCOL,
            only=wanted.only,
            objective=objective,
        )
    request = parse(asked, body, head.fields, request_id=request_id, path=asked.value, identity=identity)
    return msgspec.structs.replace(
        request, model=override or request.model, protocol=PROTOCOL, only=wanted.only, objective=objective
    )


def renamed(body: bytes, model: str) -> bytes:
    """``body``, which names a model, naming another."""
    return splice.replace(body, "model", msgspec.json.encode(model), present=True)
