"""Following the live feed: one connection after the other, and why there is none. (T)

Invariant: whatever answers, or does not, ends in `UnreachableError` with a line that says what is the matter.
"""

from __future__ import annotations

import json
import random
import ssl
from collections.abc import Callable
from math import inf
from typing import Final

import httpx
import trio

from gateway.top.address import TOKEN, Address, UnreachableError
from gateway.top.feed import Events, Feed, TooLongError, nodes, number
from gateway.top.plain import plain

_CONNECT_S, _SILENT_S = 5.0, 10.0
"""The gateway says something every second."""
_WHOLE_S = 3.0
_RETRY_S: Final = (0.5, 10.0)
_IS_IT = "--admin names the gateway's admin listener; is this it?"


class Link:
    """``feed`` so far; ``why`` nothing comes at the moment ("" while it does) and ``since`` when (Trio's clock).
    ``told`` is called after every change.
    """

    def __init__(self, address: Address, told: Callable[[], None] = lambda: None) -> None:
        self.address = address
        self.feed = Feed()
        self.told = told
        self.why = ""
        self.since = 0.0

    async def hello(self, whole: bool = False) -> None:
        """Until something is known; ``whole``: rates, too, which the gateway counts only while somebody watches.
        Raises `UnreachableError`.
        """
        with trio.move_on_after(_CONNECT_S + _SILENT_S), trio.CancelScope() as enough:

            def heard() -> None:
                if not whole or self._whole():
                    enough.cancel()
                elif enough.deadline == inf:
                    enough.deadline = trio.current_time() + _WHOLE_S

            await self._read(heard)
        if not self.feed.state:
            raise UnreachableError("it says nothing of a gateway", _IS_IT)

    def _whole(self) -> bool:
        return all(number(pool, "rps") is not None for pool in nodes(self.feed.state, "pools"))

    async def follow(self) -> None:
        """For ever, with waits between failures. Cancel it."""
        shortest, longest = _RETRY_S
        wait = shortest

        def heard() -> None:
            nonlocal wait
            wait, self.why = shortest, ""
            self.told()

        while True:
            try:
                await self._read(heard)
            except UnreachableError as error:
                self._away(error.what)
            await trio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(longest, wait * 2)

    def _away(self, why: str) -> None:
        if not self.why:
            self.since = trio.current_time()
        self.why = why
        self.told()

    async def _read(self, heard: Callable[[], None]) -> None:
        """One connection, to its end."""
        url, headers, trust = self.address.live(), self.address.headers(), self.address.trust()
        timeout = httpx.Timeout(_CONNECT_S, read=_SILENT_S)
        try:
            async with (
                # neither a proxy nor a .netrc of the environment: it is a connection to one's own gateway
                httpx.AsyncClient(verify=trust, timeout=timeout, trust_env=False) as client,
                client.stream("GET", url, headers=headers) as answer,
            ):
                await self._check(answer)
                await self._events(answer, heard)
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        except UnicodeError:
            raise UnreachableError("no host has such a name", _IS_IT) from None
        raise UnreachableError("the gateway ended the connection")

    async def _events(self, answer: httpx.Response, heard: Callable[[], None]) -> None:
        events = Events()
        too_long = False

        def take(received: bytes) -> bool:
            nonlocal too_long
            try:
                for event, data in events.feed(received):
                    if self.feed.take(event, data):
                        heard()
            except TooLongError:
                too_long = True
            return too_long

        await _receive(answer, take)
        if too_long:
            raise UnreachableError("it sends an event that is too long", _IS_IT)

    async def _check(self, answer: httpx.Response) -> None:
        status = answer.status_code
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if status == 401 or 300 <= status < 400:
            told = "does not accept the token" if self.address.has_token else "demands a token"
            raise UnreachableError(f"the gateway {told}", f"--token-file FILE or ${TOKEN} gives one")
        if status == 403:
            raise UnreachableError(f"the gateway refuses: {await _said(answer)}")
        if status == 404:
            raise UnreachableError("there is no live feed at this address", _IS_IT)
        if status != 200:
            raise UnreachableError(f"it answers {status}: {await _said(answer)}")
        if kind != "text/event-stream":
            raise UnreachableError("something else than a gateway's admin listener answers", _IS_IT)


async def _receive(answer: httpx.Response, take: Callable[[bytes], bool]) -> None:
    """To the end, or until ``take`` has had enough. By cancelling: httpx closes no iterator that is merely left."""
    with trio.CancelScope() as scope:
        async for received in answer.aiter_raw():
            if not scope.cancel_called and take(received):
                scope.cancel()


async def _said(answer: httpx.Response) -> str:
    """The beginning of an error's message."""
    read = bytearray()

    def take(received: bytes) -> bool:
        read.extend(received)
        return len(read) > 4096

    await _receive(answer, take)
    try:
        return plain(json.loads(read)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return plain(read.decode("utf-8", "replace").strip())


def _unreachable(error: httpx.HTTPError) -> UnreachableError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        what = f"its certificate is not trusted: {plain(cause.verify_message)}"
        return UnreachableError(what, "--ca-file FILE names the authority that signed it")
    if isinstance(cause, ssl.SSLError):
        return UnreachableError("it does not speak TLS as we do", "or is it http://?")
    if isinstance(error, httpx.TimeoutException):
        return UnreachableError("no answer in time")
    if isinstance(error, httpx.ConnectError):
        return UnreachableError("nothing listens there", "is the gateway running, and --admin its admin listener?")
    if isinstance(error, httpx.NetworkError):
        return UnreachableError("the connection was lost")
    return UnreachableError("it does not speak HTTP as we do", "or is it https://?")
