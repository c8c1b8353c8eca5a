"""The `auth` section: whose credentials are believed, and who that makes them. (P)

Invariant: an `Auth` names nothing that could let a caller choose its own identity.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from gateway.config.decode import Fault, Hidden, Section
from gateway.config.url import is_loopback

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class APIKey(Section, frozen=True):
    """``key_sha256`` is the hex digest of the key; ``models`` are glob patterns, none meaning every model."""

    name: Annotated[str, Meta(min_length=1)]
    key_sha256: Hidden
    user: str = ""
    tenant: str = ""
    tier: str = ""
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _SHA256.match(self.key_sha256.reveal()):
            raise Fault(".keySha256", "expected 64 lower-case hexadecimal digits")


class OAuth(Section, frozen=True):
    introspection_url: str
    client_id: Annotated[str, Meta(min_length=1)]
    client_secret_file: str

    def __post_init__(self) -> None:
        _check_url(".introspectionUrl", self.introspection_url, ("https",))


class Auth(Section, frozen=True):
    """Empty strings mean unset, as in published files. ``required`` None: as soon as anything is configured."""

    issuer: str = ""
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    api_keys: tuple[APIKey, ...] = ()
    oauth: OAuth | None = None
    required: bool | None = None

    def __post_init__(self) -> None:
        if self.jwks_uri:
            _check_url(".jwksUri", self.jwks_uri, ("https", "file"))
            if not self.issuer:
                raise Fault(".issuer", "needed with jwksUri: tokens meant for others would be believed without it")
        if self.required and not self.configured:
            raise Fault(".required", "true, but neither apiKeys, jwksUri nor oauth say who is let in")
        for name, values in (
            ("name", [key.name for key in self.api_keys]),
            ("keySha256", [key.key_sha256.reveal() for key in self.api_keys]),
        ):
            for index, value in enumerate(values):
                if values.index(value) != index:
                    raise Fault(f".apiKeys[{index}].{name}", "given twice")

    @property
    def configured(self) -> bool:
        return bool(self.jwks_uri or self.api_keys or self.oauth)


def _check_url(path: str, url: str, schemes: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        allowed = parts.scheme in schemes or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        usable = allowed and "@" not in parts.netloc and bool(parts.path if parts.scheme == "file" else parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise Fault(path, f"expected an {' or '.join(schemes)} URL")
