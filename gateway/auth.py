"""Who a caller is, from a key, from claims or from what a trusted proxy says; and which models it may ask for. (P)

Invariant: what cannot be understood is refused, never taken for less: an empty list of models means none of them.
"""

from __future__ import annotations

import fnmatch
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from gateway.config.access import APIKey, Claims
from gateway.tokens import Refused
from gateway.types import Headers, Identity

NOTHING: Final = ("\0",)
"""Patterns that no model's name fits: of an `Identity`, no patterns at all would mean every model."""
_TEXT_MAX: Final = 256
_PATTERNS_MAX: Final = 256
_KEY_FIELDS: Final = (b"x-api-key", b"api-key")


# --- what a request presents ------------------------------------------------------------------------------------------


def presented(headers: Headers) -> tuple[bytes, bool] | None:
    """The credential of a request, and whether it may be a token (else only a key); None if there is none.

    A bearer token comes before the fields that only hold keys. Raises Refused for two that contradict each other.
    """
    bearer = key = None
    for name, value in headers:
        if name == b"authorization":
            if bearer is not None:
                raise Refused("ambiguous")
            bearer = value
        elif name in _KEY_FIELDS:
            if key is not None and key != value:
                raise Refused("ambiguous")
            key = value
    if bearer is not None:
        scheme, _, token = bearer.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Refused("scheme")
        if token := token.strip():
            return token, True
    return (key, False) if key else None


class Keys:
    """API keys by their SHA-256: the keys themselves are known to nobody here."""

    def __init__(self, keys: Iterable[APIKey]) -> None:
        self._entries = {
            digest: (digest, Identity(key.user or key.name, key.tenant, key.tier, key.models))
            for key in keys
            for digest in [bytes.fromhex(key.key_sha256.reveal())]
        }

    def __repr__(self) -> str:
        return f"<Keys: {len(self._entries)}>"

    def find(self, digest: bytes) -> Identity | None:
        """Whose key has this digest. How long it takes says nothing of keys: only digests are compared."""
        entry = self._entries.get(digest)
        return entry[1] if entry is not None and hmac.compare_digest(entry[0], digest) else None


# --- claims -----------------------------------------------------------------------------------------------------------


def identity_of(claims: Mapping[str, Any], names: Claims, keep: Sequence[str] = (), prefix: str = "") -> Identity:
    """Who verified claims say it is, with those named in ``keep``. Raises Refused where they do not say it clearly."""
    user = _text(claim(claims, names.user))
    if not user:
        raise Refused("subject")
    kept = ((name, _text(_joined(claim(claims, name)))) for name in keep)
    return Identity(
        prefix + user,
        _text(claim(claims, names.tenant)),
        _text(claim(claims, names.tier)),
        _models(claim(claims, names.models)),
        tuple((name, value) for name, value in kept if value),
    )


def claim(claims: Mapping[str, Any], name: str) -> object:
    """The claim of that name, or the one at that path of members; None if there is neither."""
    if not name or name in claims:
        return claims.get(name)
    found: object = claims
    for part in name.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _joined(value: object) -> object:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return ("false", "true")[value] if isinstance(value, bool) else value


def _text(value: object) -> str:
    """ "" for none. Raises Refused for what can be no name."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    if not isinstance(value, str) or len(value) > _TEXT_MAX or not value.isprintable():
        raise Refused("claims")
    return value


def _models(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    found = value.split() if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > _PATTERNS_MAX:
        raise Refused("claims")
    return tuple(filter(None, map(_text, found))) or NOTHING


# --- a proxy's word ---------------------------------------------------------------------------------------------------


def identity_by_proxy(headers: Headers, fields: Mapping[bytes, str]) -> Identity | None:
    """Who a trusted proxy says it is; None where it names nobody.

    ``fields``: header field → what it says ("user", "tenant", "tier", "models"). Raises Refused for a field given
    twice: one of the two may be the client's own.
    """
    said: dict[str, str] = {}
    for name, value in headers:
        what = fields.get(name)
        if what is not None:
            if what in said:
                raise Refused("ambiguous")
            said[what] = _decoded(value)
    user = said.get("user", "")
    if not user:
        return None
    models = _models(said["models"].replace(",", " ")) if "models" in said else ()
    return Identity(_text(user), _text(said.get("tenant")), _text(said.get("tier")), models)


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Refused("proxy") from None


# --- models -----------------------------------------------------------------------------------------------------------


def allowed(identity: Identity, model: str) -> bool:
    """Whether it may ask for ``model``."""
    return not identity.models or _pattern(identity.models).match(model) is not None


@lru_cache(maxsize=4096)
def _pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, globs)))
