"""An OpenAI request body in, an InferenceRequest out: strict about what the gateway reads, blind to the rest. (P)

This runs for every request: one typed decode (0.5 µs for a small chat) decides, and only a body that fails it is
looked at a second time, slowly, to say precisely what is wrong. Anything but InvalidRequest escaping is a bug.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from gateway.entrance import Entrance
from gateway.errors import InvalidRequest
from gateway.types import ANONYMOUS, Headers, Identity, InferenceRequest, Operation
from protocols.openai.diagnosis import diagnose
from protocols.openai.view import VIEWS, Generation, View

_DECODE: Final[dict[Operation, Callable[[bytes], View]]] = {
    operation: msgspec.json.Decoder(view).decode for operation, view in VIEWS.items()
}
_JSON: Final = (b"content-type", b"application/json")
_FORMS: Final = (b"application/x-www-form-urlencoded", b"multipart/form-data")


def parse(
    operation: Operation,
    body: bytes,
    headers: Headers,
    *,
    request_id: str,
    path: str,
    identity: Identity = ANONYMOUS,
    query: str = "",
    entrance: Entrance | None = None,
) -> InferenceRequest:
    """Raises InvalidRequest, whose ``param`` names the member at fault (None if it is the body as a whole).

    ``request.view`` is the operation's struct of `protocols.openai.view`. A JSON body under another content type is
    taken as it is, but not under a form's: that is what curl sends by default, and what a foreign web page can send.
    """
    if _JSON not in headers:
        _check_content_type(headers)
    try:
        view = _DECODE[operation](body)
        if not body.isascii():
            body.decode()  # msgspec skips the members it does not keep without looking at their encoding
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise diagnose(body, VIEWS[operation], error, headers) from None
    view.check()
    if isinstance(view, Generation):
        stream = view.stream is True
        include_usage = stream and view.include_usage
    else:
        stream = include_usage = False
    return InferenceRequest(
        request_id,
        operation,
        view.model,
        body,
        headers,
        path,
        stream=stream,
        include_usage=include_usage,
        view=view,
        identity=identity,
        query=query,
        entrance=entrance,
    )


def _check_content_type(headers: Headers) -> None:
    for name, value in headers:
        if name == b"content-type" and value.partition(b";")[0].strip().lower() in _FORMS:
            raise InvalidRequest(
                "Content-Type is that of a form; send the JSON body as 'Content-Type: application/json'.",
                param="Content-Type",
            )
