"""What the admin plane answers in: JSON, errors in the house's shape, files of the page. (IO)"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from quart import Response, request
from werkzeug.exceptions import HTTPException

from gateway.live_json import encode

STATIC: Final = Path(__file__).with_name("static")
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer."""
_CODES: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    421: "misdirected_request",
    500: "internal_error",
    503: "overloaded",
}
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}


def as_json(value: object, status: int = 200) -> Response:
    return Response(
        bytes(encode(value)), status, content_type="application/json", headers={"cache-control": "no-store"}
    )


def error(status: int, message: str) -> Response:
    """In the shape that the OpenAI front end's errors have."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return as_json({"error": {"message": message, "type": kind, "param": None, "code": _CODES.get(status)}}, status)


async def http_error(raised: HTTPException) -> Response:
    unknown = raised.code == 404
    message = f"there is nothing at {request.path}" if unknown else raised.description or raised.name
    response = error(raised.code or 500, message)
    allowed = getattr(raised, "valid_methods", None)
    if allowed:
        response.headers["allow"] = ", ".join(sorted(allowed))
    return response


def page(name: str, status: int = 200) -> Response:
    """A file of the page, to be asked for again each time, and sent if it is another one than the browser has."""
    kind = _TYPES.get(Path(name).suffix)
    if kind is None or name not in {path.name for path in STATIC.iterdir()}:
        return error(404, f"there is nothing at {request.path}")
    data = (STATIC / name).read_bytes()
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    if status == 200 and tag in request.headers.get("if-none-match", ""):
        return Response(b"", 304, headers=headers)
    return Response(data, status, content_type=kind, headers=headers)
