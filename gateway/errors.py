"""Every error a client can be told of: its status, code, whether another endpoint may be tried, and how it reads. (P)

A front end turns one of these into its own shape in one place (`protocols.openai.errors` for OpenAI HTTP).
Messages are for the caller: what went wrong and what to do; they never hold secrets or tracebacks.
"""

from __future__ import annotations

from collections.abc import Iterable


class GatewayError(Exception):
    """Something in the gateway itself went wrong: a defect, told in its log with a traceback.

    The one root of all others. ``status`` and ``code`` are the contract; ``retryable`` says whether another endpoint
    may be tried. ``retry_after`` is in seconds; ``reason`` is a short constant for metrics and logs, ``why`` another
    that says more precisely what stood in the way, "" where the reason says all.
    """

    status = 500
    type = "server_error"
    code: str | None = "internal_error"
    retryable = False
    reason = "internal"
    why = ""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Extra response headers: Retry-After, rounded up to whole seconds, at least 1."""
        if self.retry_after is None:
            return ()
        seconds = max(1, -int(-self.retry_after // 1))
        return ((b"retry-after", b"%d" % seconds),)


class InvalidRequest(GatewayError):
    """The caller's mistake; ``param`` names the member or parameter."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request_error"
    reason = "invalid_request"


class Unsupported(InvalidRequest):
    """A parameter the engine behind this model would silently ignore or cannot do: refused by name instead.

    ``droppable``: the members without which it would be asked, where an answer without them is of the same kind.
    """

    code = "unsupported_parameter"
    reason = "unsupported"

    def __init__(self, message: str, *, param: str | None = None, droppable: Iterable[str] = ()) -> None:
        super().__init__(message, param=param)
        self.droppable = tuple(droppable)


class Unauthorized(GatewayError):
    """No credentials, or such as nobody vouches for.

    One text for whatever is wrong with them: what was nearly right helps only who is guessing.
    """

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    reason = "unauthorized"

    def __init__(
        self, message: str = "No valid credentials: send an API key or a token as 'Authorization: Bearer …'."
    ) -> None:
        super().__init__(message)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """RFC 9110 §11.6.1 demands it of every 401."""
        return ((b"www-authenticate", b"Bearer"),)


class Forbidden(GatewayError):
    """The caller is known and may not use this model."""

    status = 403
    type = "permission_error"
    code = "model_not_allowed"
    reason = "forbidden"


class NotFound(GatewayError):
    """No such path, or one that the engine behind the model does not offer."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"
    reason = "not_found"


class ModelNotFound(NotFound):
    """No route has this model's name, and no engine that was discovered serves it."""

    code = "model_not_found"
    reason = "model_not_found"


class MethodNotAllowed(GatewayError):
    """The path is there for other methods, which Allow names.

    ``allow`` is the value of the Allow header.
    """

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"
    reason = "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"allow", self.allow.encode()),)


class BodyTooLarge(GatewayError):
    """The body is longer than the listener takes."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"
    reason = "too_large"


class HeaderTooLarge(GatewayError):
    """The header is longer than the listener takes."""

    status = 431
    type = "invalid_request_error"
    code = "header_too_large"
    reason = "too_large"


class RateLimited(GatewayError):
    """The caller has used up one of their limits; x-ratelimit-* tell what is left of them.

    ``fields`` are further header fields: what is left of the caller's limits. ``limit`` names the kind that is
    reached, for metrics.
    """

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    reason = "rate_limited"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        fields: Iterable[tuple[bytes, bytes]] = (),
        limit: str = "",
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.fields = tuple(fields)
        self.limit = self.why = limit

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return (*super().headers, *self.fields)


class Overloaded(GatewayError):
    """There is no room for it at the engines now, or it may not wait; why is told below.

    ``why``: a constant; admission has queue_full, queue_long, too_large, sheddable, queue_timeout.
    """

    status = 503
    type = "server_error"
    code = "overloaded"
    reason = "overloaded"

    def __init__(self, message: str, *, retry_after: float | None = None, why: str = "") -> None:
        super().__init__(message, retry_after=retry_after)
        if why:
            self.why = why


class QueueTimeout(Overloaded):
    """It waited for room as long as may be."""

    why = "queue_timeout"


class Stopping(Overloaded):
    """The process is told to end."""

    why = "stopping"

    def __init__(self) -> None:
        super().__init__("the gateway is stopping; try again later", retry_after=1.0)


class Unverified(Overloaded):
    """Whoever could say who the caller is does not answer."""

    why = "unverified"


class Exhausted(Overloaded):
    """The gateway itself has no descriptor, port or memory left to ask an engine by: no engine is to blame."""

    why = "descriptors"


class NoEndpoints(GatewayError):
    """No endpoint of the pool is usable now."""

    status = 503
    type = "server_error"
    code = "no_endpoints"
    reason = "no_endpoints"


class NoBackend(GatewayError):
    """A route leads nowhere for this request: what it names does not exist or may not be used."""

    code = "no_backend"
    reason = "no_backend"


class UpstreamError(GatewayError):
    """An engine failed or refused: its status and message, normalised; 502 where it broke off or was not understood.

    ``retryable`` is decided where the failure is understood: true only if the engine did no work that a second engine
    would repeat at the caller's expense.
    """

    status = 502
    type = "server_error"
    code = "upstream_error"
    reason = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        status: int = 502,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code, retry_after=retry_after)
        self.status = status
        self.retryable = retryable
        if type is not None:
            self.type = type
        elif 400 <= status < 500:
            self.type = "invalid_request_error"
        if 400 <= status < 500 and status != 429:
            self.reason = "refused_by_engine"


class UpstreamTimeout(GatewayError):
    """An engine stayed silent for longer than a phase (connect, first token, between tokens) allows."""

    status = 504
    type = "server_error"
    code = "upstream_timeout"
    reason = "upstream_timeout"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
