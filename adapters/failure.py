"""Every shape in which an engine reports a failure, as one `UpstreamError` of the OpenAI shape. (P)

Invariant: ``code`` is a string or null, messages hold neither credentials nor tracebacks, and `retryable` is true only
where the engine did no work that a second engine would repeat. What engines say of a request holds what its client
wrote: whatever it is, it is read in linear time and can be written as UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus

import msgspec

from gateway.errors import UpstreamError
from gateway.types import Headers

MAX_MESSAGE = 2000
"""Characters of an engine's message a client gets to see: pydantic repeats whole prompts in its complaints."""
_NAME_MAX = 200
"""The same of a code, a type and a parameter's path."""

_CONTEXT = re.compile(
    r"maximum context length|longer than the model's context length|maximum input length|must have less than \d+ tokens"
    r"|must be <= \d+\. Given|exceed_context_size|exceeds the available context size|context_length_exceeded"
    r"|prompt is too long|exceed context limit|input token count .* exceeds|too many tokens"
    r"|`default_max_tokens` \(-?\d+\) should be greater than 0",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model.{0,200}(does not exist|not found|unknown)|model_not_found|\Amodel: \S+ not_found_error",  # … Anthropic
    re.IGNORECASE | re.DOTALL,
)
_QUOTA = re.compile(r"insufficient[_ ](quota|balance|credits)", re.IGNORECASE)
_OVERLOADED = re.compile(r"overloaded", re.IGNORECASE)
# A 500 that only says that this engine process is going or gone: nothing was generated that another would repeat.
_DEAD = re.compile(
    r"EngineCore encountered an issue|EngineDeadError|engine is dead|cannot schedule new futures after shutdown"
    r"|Background loop (has errored|is not running)|server is shutting down",
    re.IGNORECASE,
)
_TRACEBACK = re.compile(r'\n[^\S\n]*+File "|Traceback \(most recent call last\)')

_NO_PATH = re.compile(r"(404:? )?((file|page) )?not found\.?", re.IGNORECASE)
"""What web frameworks say of a path they do not serve (FastAPI, llama.cpp, Go): the engine itself says more."""

_STATUS_OF_TYPE = {
    "overloaded": 429,  # TGI
    "validation": 422,
    "generation": 500,
    "incomplete_generation_stream": 500,
    "overloaded_error": 529,  # Anthropic
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "timeout_error": 504,
    "exceed_context_size_error": 400,  # llama.cpp
    "unavailable_error": 503,
}


class Report(msgspec.Struct, frozen=True):
    """What a failure's body says, before the HTTP status has its say. ``status`` is 0 where the body names none."""

    message: str = ""
    type: str = ""
    code: str | None = None
    param: str | None = None
    status: int = 0
    delay: float | None = None


def of_answer(status: int, headers: Headers, body: bytes) -> UpstreamError:
    """The error of an answer whose status is not 2xx."""
    report = _report(_decode(body))
    delay = _delay(headers)
    return _verdict(status, report, report.delay if delay is None else delay)


def of_event(document: object, *, started: bool) -> UpstreamError:
    """The error reported inside a 200: an event of a stream, or a whole body. ``started``: tokens came before it."""
    report = _report(document)
    error = _verdict(_status_inside(report), report, report.delay)
    error.retryable = error.retryable and not started
    return error


def is_listed(payload: bytes) -> bool:
    """Whether what is no JSON object may be an error all the same: Gemini's stands in an array."""
    return payload.startswith(b"[") and b'"error"' in payload[:_NAME_MAX]


def rubbish(what: str) -> UpstreamError:
    """The engine's answer cannot be understood. Another engine would be asked the same: not retried."""
    return UpstreamError(what, status=502)


def _status_inside(report: Report) -> int:
    """Inside a 200 TGI says 422 whatever happened, so its word "overloaded" counts more than its number."""
    if report.status == 422 and _OVERLOADED.search(report.message):
        return 429
    return report.status or _STATUS_OF_TYPE.get(report.code or "") or _STATUS_OF_TYPE.get(report.type) or 500


def _decode(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(body)  # NaN, lone surrogates
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text  # a proxy's page in HTML says nothing worth passing on


def _report(document: object) -> Report:
    if isinstance(document, list):  # Gemini wraps its error in an array
        document = document[0] if document else {}
    if isinstance(document, str):
        return Report(message=_clean(document))
    if not isinstance(document, Mapping):
        return Report()
    inner = document.get("error")
    if isinstance(inner, str):
        inner = {"message": inner, "type": document.get("error_type"), "code": document.get("code")}
    elif not isinstance(inner, Mapping):
        inner = document
    code = inner.get("code")
    kind = inner.get("type")
    message = inner.get("message") or inner.get("detail")
    status = _http_status(inner.get("http_status_code")) or _http_status(inner.get("status_code")) or _http_status(code)
    return Report(
        message=_clean(message if isinstance(message, str) else "" if message is None else _dumped(message)),
        type=_cut(kind, _NAME_MAX) if isinstance(kind, str) else "",
        code=_cut(code, _NAME_MAX) if isinstance(code, str) and not code.isdigit() else None,
        param=_param(inner.get("param")),
        status=status,
        delay=_retry_info(inner.get("details")),
    )


def _param(given: object) -> str | None:
    """vLLM begins with where it looked, and for JSON it cannot read tells a place in it."""
    param = _cut(given.removeprefix("body."), _NAME_MAX) if isinstance(given, str) else ""
    return None if param in ("", "body") or param.isdigit() else param


def _dumped(document: object) -> str:
    try:
        return json.dumps(document)
    except RecursionError:
        return ""


def _clean(message: str) -> str:
    return _cut(_TRACEBACK.split(message, maxsplit=1)[0].strip(), MAX_MESSAGE)


def _cut(text: str, most: int) -> str:
    """At most so many characters, half of an emoji being none."""
    return text[:most].encode("utf-8", "replace").decode()


def _http_status(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    return value if isinstance(value, int) and 400 <= value <= 599 else 0


def _verdict(status: int, report: Report, delay: float | None) -> UpstreamError:
    message = report.message or f"the engine answered HTTP {status} {_phrase(status)}".rstrip()
    said = f"{report.message} {report.type} {report.code or ''}"
    if status in (400, 413, 422) and _CONTEXT.search(said):
        return UpstreamError(message, status=400, code="context_length_exceeded", param=report.param)
    if status in (401, 403):
        text = f"the engine refused the gateway's credentials (HTTP {status}): this is for the operator to mend"
        return UpstreamError(text, status=502, retryable=True)
    if status == 402 or (status == 429 and _QUOTA.search(said)):
        kind = "insufficient_quota"
        return UpstreamError(message, status=status, type=kind, code=kind, retryable=True, retry_after=delay)
    if status == 429:
        code = "overloaded" if _OVERLOADED.search(said) else "rate_limit_exceeded"
        return UpstreamError(message, status=429, type="rate_limit_error", code=code, retryable=True, retry_after=delay)
    if status == 424 or not 400 <= status <= 599:  # TGI's generation failed; a redirect; something that is no answer
        return UpstreamError(message, status=502)
    if status < 500:
        return _refusal(status, message, said, report, delay)
    return _breakdown(status, message, delay)


def _refusal(status: int, message: str, said: str, report: Report, delay: float | None) -> UpstreamError:
    """A 4xx about the request itself: another engine would say the same. 408 says that the request never came in."""
    code = report.code
    if status == 404 and (code is None or code == "not_found"):
        code = "model_not_found" if report.param == "model" or _NO_MODEL.search(said) else "not_found"
    if status == 404 and _NO_PATH.fullmatch(report.message):
        message = "the engine behind this model does not offer this operation (it answered HTTP 404 Not Found)"
    return UpstreamError(
        message,
        status=status,
        code=code or "invalid_request_error",
        param=report.param,
        retryable=status == 408,
        retry_after=delay,
    )


def _breakdown(status: int, message: str, delay: float | None) -> UpstreamError:
    """A 5xx. A plain 500 may follow minutes of work and often is about the request: only a dead engine's is retried."""
    if status in (503, 529):
        return UpstreamError(message, status=503, code="overloaded", retryable=True, retry_after=delay)
    if status == 500:
        return UpstreamError(message, status=500, retryable=_DEAD.search(message) is not None)
    if status == 501:
        return UpstreamError(message, status=501, code="not_implemented")
    if status == 504:
        return UpstreamError(message, status=504, code="upstream_timeout")
    return UpstreamError(message, status=502, retryable=status == 502, retry_after=delay)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _delay(headers: Headers) -> float | None:
    """Seconds to wait: retry-after-ms, Retry-After in seconds, or as a date counted from the answer's own Date."""
    fields = {name: value.decode("latin-1") for name, value in headers}
    millis = _seconds(fields.get(b"retry-after-ms"))
    if millis is not None:
        return millis / 1000
    after = fields.get(b"retry-after")
    seconds = _seconds(after)
    if seconds is not None or after is None:
        return seconds
    until, now = http_date(after), http_date(fields.get(b"date", ""))
    return max(0.0, until - now) if until is not None and now is not None else None


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e9 else None


def http_date(text: str) -> float | None:
    """Unix seconds of an IMF-fixdate (RFC 9110 §5.6.7); None for anything else."""
    try:
        return datetime.strptime(f"{text} +0000", "%a, %d %b %Y %H:%M:%S GMT %z").timestamp()
    except ValueError:
        return None


def _retry_info(details: object) -> float | None:
    """Gemini's google.rpc.RetryInfo: {"retryDelay": "13s"}."""
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        if isinstance(delay, str) and delay.endswith("s"):
            return _seconds(delay[:-1])
    return None
