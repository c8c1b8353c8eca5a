"""Asking issuers over HTTPS: verified certificates, one answer of bounded size in bounded time, no redirects. (IO)

Invariant: every failure is an `OSError` whose text names the server and holds nothing that was sent to it.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec
import trio

from gateway.pem import copied

if TYPE_CHECKING:
    import httpx

_MAX_BODY: Final = 1 << 20
_MAX_CHUNKS: Final = 10_000
"""Each costs 30 µs, whatever is in it."""


class Answer(msgspec.Struct, frozen=True):
    """Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Answer({self.status})"


class Client:
    """One server; connections are kept while `opened`."""

    def __init__(self, client: httpx.AsyncClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def ask(
        self, method: str, url: str, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Raises OSError."""
        import httpx

        where, fields = urlsplit(url).netloc, {"accept": "application/json", "accept-encoding": "identity"}
        body, chunks, answer = b"", 0, None
        try:
            with trio.move_on_after(self._timeout) as patience:
                async with self._client.stream(method, url, data=form, headers={**fields, **(headers or {})}) as got:
                    async for chunk in got.aiter_raw():
                        body += chunk
                        chunks += 1
                        if len(body) > _MAX_BODY or chunks > _MAX_CHUNKS:
                            patience.cancel()  # httpx's generators end well by cancellation, and not by being left
                            body = body[: _MAX_BODY + 1]
                    answer = Answer(got.status_code, dict(got.headers), body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OSError(f"{where} cannot be asked: {_reason(error)}") from None
        if len(body) > _MAX_BODY:
            raise OSError(f"{where} answered with more than {_MAX_BODY} bytes")
        if chunks > _MAX_CHUNKS:
            raise OSError(f"{where} answered in more than {_MAX_CHUNKS} chunks")
        if answer is None:
            raise OSError(f"{where} did not answer within {self._timeout:g} s")
        return answer


def _reason(error: BaseException) -> str:
    """What the innermost cause says: httpx leaves failures of TLS without a word."""
    said = f"{type(error).__name__}: {error}"
    while (cause := _cause(error)) is not None:
        said = str(cause) or said
        error = cause
    return said


def _cause(error: BaseException) -> BaseException | None:
    """Of several attempts, the first one's."""
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    return error.__cause__ or error.__context__


@contextlib.asynccontextmanager
async def opened(ca_file: str = "", timeout: float = 10.0) -> AsyncIterator[Client]:
    """A client that trusts the authorities in ``ca_file``, the system's if it is "". Raises OSError for a bad file."""
    import httpx

    from gateway.sources.bounded import Transport

    try:
        with copied(*filter(None, [ca_file])) as names:
            context = ssl.create_default_context(cafile=next(iter(names), None))
    except OSError as error:
        raise OSError(f"cannot use the authorities in {ca_file}: {error}") from None
    transport = Transport(context)
    async with httpx.AsyncClient(
        transport=transport, timeout=timeout, follow_redirects=False, trust_env=False
    ) as client:
        yield Client(client, timeout)
