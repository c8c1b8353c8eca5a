"""Base URLs of engines and providers → `Endpoint`. (P)

Invariant: an `Endpoint` made here has a host, a port, a base path without trailing slash and no credentials.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from gateway.types import Endpoint

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?\Z")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*\Z")
_BLANK = re.compile(r"[\x00-\x20\x7f]")
_PARTS = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^/?#]*@)?([^?#]*)([?#].+)?", re.IGNORECASE | re.DOTALL)


def is_loopback(host: str) -> bool:
    """True for localhost and the loopback networks, by name alone: nothing is resolved."""
    if host.lower() in ("localhost", "ip6-localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown(url: str) -> str:
    """``url`` for logs and eyes: without its user, its query as ***, since both may be credentials. What is none is
    itself.
    """
    parts = _PARTS.fullmatch(url)
    return url if parts is None else f"{parts[1]}{parts[2]}{'?***' if parts[3] else ''}"


def endpoint(url: str, engine: str, *, port: int | None = None, keep_version: bool = False) -> Endpoint:
    """The endpoint at ``url``. Raises ValueError, never quoting what may be a credential.

    ``port`` is used where the URL has none (else 80 or 443). Adapters ask for paths that begin with /v1, so a base path
    that ends in /v1 loses it; with ``keep_version`` any base path is kept and the endpoint is marked ``versioned``,
    which is how providers with another version prefix (/v1beta/openai, /api/paas/v4) are reached.
    """
    try:
        parts = urlsplit(url)
        host, given = parts.hostname, parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("no credentials in a URL, please: they would show in logs")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError('expected a URL such as "http://host:8000"')
    if _BLANK.search(url):  # which urlsplit would drop
        raise ValueError("neither blanks nor control characters may be in a URL")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("neither query nor fragment may follow a base URL")
    if given == 0 or not (_is_ip(host) or _HOST.match(host)):
        raise ValueError(f"{'port 0' if given == 0 else 'this host name'} cannot be connected to")
    path = parts.path.rstrip("/")
    if not _PATH.match(path):
        raise ValueError("the path is not one a URL may have")
    versioned = keep_version and bool(path)
    return Endpoint(
        engine=engine,
        scheme=parts.scheme,
        host=host,
        port=given or port or (443 if parts.scheme == "https" else 80),
        base_path=path if versioned else path.removesuffix("/v1"),
        versioned=versioned,
    )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
