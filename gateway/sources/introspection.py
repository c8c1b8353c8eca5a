"""What an authorization server says of a token: RFC 7662, asked with client credentials. (IO)

Invariant: a server that does not answer is left alone for a second, and at most 32 questions are open at a time; the
token goes into the body of the question and nowhere else.
"""

from __future__ import annotations

import base64
import math
from typing import Any, Final
from urllib.parse import quote_plus

import msgspec
import trio

from gateway.config.access import OAuth
from gateway.config.url import shown
from gateway.pem import secret
from gateway.sources.https import Client, opened

_OPEN: Final = 32
_WAITING: Final = 256
_PAUSE_S: Final = 1.0


class Introspection:
    """One authorization server. ``asked`` counts questions."""

    def __init__(self, oauth: OAuth) -> None:
        self.oauth = oauth
        self.asked = 0
        self._client: Client | None = None
        self._limit = trio.CapacityLimiter(_OPEN)
        self._down_until = -math.inf

    @property
    def name(self) -> str:
        return f"introspection at {shown(self.oauth.introspection_url)}"

    async def run(self) -> None:
        """Keeps connections to the server until cancelled. Raises OSError for authorities that cannot be read."""
        async with opened(self.oauth.ca_file, self.oauth.timeout) as self._client:
            try:
                await trio.sleep_forever()
            finally:
                self._client = None

    async def ask(self, token: str) -> dict[str, Any] | None:
        """What the server knows of an active token, None of any other. Raises OSError if it does not say."""
        if self._limit.statistics().tasks_waiting >= _WAITING:
            raise OSError("too many tokens wait to be introspected")
        async with self._limit:
            client = self._client
            if client is None or trio.current_time() < self._down_until:
                raise OSError(f"{self.name} failed a moment ago")
            self.asked += 1
            try:
                return await self._ask(client, token)
            except OSError:
                self._down_until = trio.current_time() + _PAUSE_S
                raise

    async def _ask(self, client: Client, token: str) -> dict[str, Any] | None:
        # RFC 6749 §2.3.1: both are form-encoded before they are joined
        pair = f"{quote_plus(self.oauth.client_id)}:{quote_plus(secret(self.oauth.client_secret_file))}"
        answer = await client.ask(
            "POST",
            self.oauth.introspection_url,
            {"token": token, "token_type_hint": "access_token"},
            {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"},
        )
        if answer.status != 200:
            raise OSError(f"{self.name} answered {answer.status}")
        return _judged(answer.body)


def _judged(body: bytes) -> dict[str, Any] | None:
    try:
        said = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise OSError("what introspection answered is not a JSON object") from None
    return said if said.get("active") is True else None
