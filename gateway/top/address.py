"""Where the feed is, and what to present there. (IO)"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import httpx
import msgspec

TOKEN: Final = "INFER_GATEWAY_ADMIN_TOKEN"
"""The environment's variable that holds the token."""


class UnreachableError(Exception):
    """``what`` is the matter, and a ``hint`` at what to do."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


class Address(msgspec.Struct, frozen=True):
    """``url`` as given; ``token`` is used where there is no file, which is read anew for each connection."""

    url: str
    token: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None

    def live(self) -> httpx.URL:
        """The feed's URL. Raises `UnreachableError`."""
        text = self.url if "://" in self.url else f"http://{self.url}"
        try:
            url = httpx.URL(text.rstrip("/") + "/api/live")
        except httpx.InvalidURL as error:
            raise UnreachableError(f"this is no URL: {error}", "such as --admin http://127.0.0.1:9090") from None
        if url.scheme not in ("http", "https") or not url.host or url.userinfo or not 0 < (url.port or 80) < 65536:
            raise UnreachableError("this is no address of a gateway", "such as --admin http://127.0.0.1:9090")
        return url

    def headers(self) -> dict[str, str]:
        """Raises `UnreachableError`."""
        given = {"accept": "text/event-stream", "accept-encoding": "identity"}
        token = self.token if self.token_file is None else _read(self.token_file)
        if not token.isascii() or not token.isprintable() or " " in token:
            raise UnreachableError("the token holds characters that no token has", f"--token-file FILE or ${TOKEN}")
        return {**given, "authorization": f"Bearer {token}"} if token else given

    def trust(self) -> ssl.SSLContext:
        """Raises `UnreachableError`."""
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise UnreachableError(f"no certificates in {self.ca_file}: {error}", "--ca-file takes PEM") from None

    @property
    def has_token(self) -> bool:
        return bool(self.token) or self.token_file is not None


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(65536).decode("ascii", "replace").strip()
    except OSError as error:
        raise UnreachableError(f"cannot read {file}: {error.strerror}", "--token-file FILE") from None
