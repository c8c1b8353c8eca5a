"""One request on its way through an engine, and the answer it gets instead of what it asked for. (P)"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.engines.faults import Fault
    from protocols.http.exchange import HttpExchange

JSON = b"application/json"
Headers = tuple[tuple[bytes, bytes], ...]


class Refusal(Exception):
    """A request ends with this answer instead; without a ``content_type`` it is the dialect's JSON.

    Of ``headers`` and the dialect's own those here win.
    """

    def __init__(self, status: int, body: bytes, content_type: bytes = b"", headers: Headers = ()) -> None:
        super().__init__(status)
        self.status, self.body, self.content_type, self.headers = status, body, content_type, headers


class Call:
    """One request on its way through the engine."""

    def __init__(self, exchange: HttpExchange, path: str) -> None:
        self.exchange, self.path = exchange, path
        self.fields: dict[str, Any] = {}
        self.fault: Fault | None = None

    @property
    def body(self) -> bytes:
        return self.exchange.request.body

    def header(self, name: bytes) -> str:
        return (self.exchange.request.header(name) or b"").decode("latin-1")


Route = Callable[[Call], Awaitable[None]]
