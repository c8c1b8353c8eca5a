"""Who may ask the admin plane what: hosts, origins, tokens and sessions. (P)

On loopback whoever can connect may ask, unless a token is configured; pages of other sites in an operator's browser can
connect, too, so that names which lead there (DNS rebinding) and foreign origins are refused. Beyond loopback all but
health demands the token. Invariant: tokens and signatures are compared in constant time, and never shown.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from http import HTTPStatus
from typing import Final

import msgspec

from gateway.config.url import is_loopback

SESSION_S: Final = 12 * 3600
"""How long one stays logged in."""
COOKIE: Final = "infer-gateway-admin"
_HEALTH: Final = ("/healthz", "/readyz")
_LOGGING: Final = ("/login", "/logout")
_STATIC: Final = "/static/"
UNGUARDED: Final = (
    "beyond loopback only /healthz and /readyz are open without listeners.admin.tokenFile: "
    "name a file there that holds the token to be shown"
)
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_OWN: Final = ("", "same-origin", "none")
_PORTS: Final = {"http": 80, "https": 443}
_LABEL: Final = r"[\w~-]{1,63}"
_HOST: Final = re.compile(
    rf"(?:\[(?P<v6>[0-9a-f:.]+(?:%25[\w.~-]+)?)\]|(?P<name>{_LABEL}(?:\.{_LABEL})*)\.?)(?::(?P<port>\d{{0,5}}))?",
    re.ASCII | re.IGNORECASE,
)


class Rules(msgspec.Struct, frozen=True):
    """``bound``: the address that is listened on; ``named``: what it was called when that was configured."""

    bound: str = "127.0.0.1"
    named: str = ""
    tls: bool = False
    token_wanted: bool = False
    anonymous_metrics: bool = False

    @property
    def loopback(self) -> bool:
        return is_loopback(self.bound)

    @property
    def guarded(self) -> bool:
        """Whether a token is demanded."""
        return self.token_wanted or not self.loopback

    @property
    def cookie(self) -> str:
        """With the prefix that keeps others of the same domain from setting it, where TLS allows that."""
        return f"__Host-{COOKIE}" if self.tls else COOKIE


class Asked(msgspec.Struct, frozen=True):
    """One request: its fields' values, "" where there is none. ``session``: the cookie's value."""

    method: str
    path: str
    host: str = ""
    origin: str = ""
    fetch_site: str = ""
    fetch_mode: str = ""
    fetch_dest: str = ""
    authorization: str = ""
    session: str = ""


class Refusal(msgspec.Struct, frozen=True):
    """``guessed``: with a wrong token."""

    status: int
    message: str
    guessed: bool = False


def judge(asked: Asked, rules: Rules, token: str, now: float) -> Refusal | None:
    """None if it may be answered. ``token``: the one to show, "" if there is none that could be; ``now``: seconds since
    the epoch.
    """
    if asked.path in _HEALTH:
        return None
    if rules.loopback and not _known_here(asked.host, rules.named):
        return _misdirected(asked.host)
    if (refusal := _foreign(asked)) is not None:
        return refusal
    if not rules.guarded or (asked.path == "/metrics" and rules.anonymous_metrics):
        return None
    if not token:
        return _unconfigured(rules)
    if asked.path in _LOGGING or asked.path.startswith(_STATIC):
        return None
    return _credentials(asked, token, now)


def _misdirected(host: str) -> Refusal:
    said = (
        f"this listener is on loopback and does not answer to the host {host[:256]!r}; ask for localhost, or name the "
    )
    return Refusal(HTTPStatus.MISDIRECTED_REQUEST, said + "host in listeners.admin.address or by --admin")


def _known_here(host: str, named: str) -> bool:
    name = hostname(host)
    return is_loopback(name) or (name != "" and name == named.lower())


def hostname(host: str) -> str:
    """Of a Host field's value, in lower case, without port and brackets; "" where it is none."""
    return _authority(host)[0]


def _authority(host: str) -> tuple[str, int | None]:
    """Name and port, ("", None) where it is neither."""
    found = _HOST.fullmatch(host)
    if found is None or (port := int(found["port"] or -1)) > 65535:
        return "", None
    return (found["v6"] or found["name"]).lower(), None if port < 0 else port


def _foreign(asked: Asked) -> Refusal | None:
    """A page of another origin sends this. Browsers say so (Fetch Metadata; Fetch standard, §3.1), other clients say
    nothing. To follow a link here is no harm. A proxy may ask by another name than the browser did: the browser's own
    word on the origin comes first.
    """
    safe = asked.method in _SAFE
    followed = safe and asked.fetch_mode == "navigate" and asked.fetch_dest == "document"
    other = asked.fetch_site not in _OWN and not followed
    if not safe and asked.fetch_site != "same-origin":
        other |= bool(asked.origin) and not same_origin(asked.origin, asked.host)
        other |= bool(asked.session) and not asked.authorization and not asked.origin
    return Refusal(HTTPStatus.FORBIDDEN, "requests from pages of other origins are refused") if other else None


def same_origin(origin: str, host: str) -> bool:
    """Whether an Origin's host and port are those that were asked. Schemes are not compared: a proxy may speak TLS, and
    leave out that scheme's port or say it.
    """
    scheme, _, rest = origin.partition("://")
    usual = _PORTS.get(scheme)
    (theirs, port), (ours, asked) = _authority(rest), _authority(host)
    return usual is not None and ours != "" and (theirs, port or usual) == (ours, asked or usual)


def _unconfigured(rules: Rules) -> Refusal:
    if rules.token_wanted:
        return Refusal(HTTPStatus.FORBIDDEN, "no token can be read from listeners.admin.tokenFile; the log says why")
    return Refusal(HTTPStatus.FORBIDDEN, UNGUARDED)


def _credentials(asked: Asked, token: str, now: float) -> Refusal | None:
    if asked.authorization:
        scheme, _, shown = asked.authorization.partition(" ")
        if scheme.lower() == "bearer" and is_token(shown.strip(), token):
            return None
        return Refusal(HTTPStatus.UNAUTHORIZED, "that is not the token", guessed=True)
    if not asked.session:
        return Refusal(HTTPStatus.UNAUTHORIZED, "show the token: Authorization: Bearer …, or log in at /login")
    if is_session(asked.session, token, now):
        return None
    return Refusal(HTTPStatus.UNAUTHORIZED, "the session is over: log in again at /login")


def is_token(shown: str, token: str) -> bool:
    """In constant time."""
    return token != "" and hmac.compare_digest(_digest(shown), _digest(token))


def session(token: str, now: float) -> str:
    """A cookie's value that `is_session` accepts until `SESSION_S` from now, as long as the token is this one."""
    until = str(int(now) + SESSION_S)
    return f"{until}.{_signature(until, token)}"


def is_session(value: str, token: str, now: float) -> bool:
    until, _, signature = value.partition(".")
    if not (until.isascii() and until.isdigit() and len(until) < 16 and token):
        return False
    signed = hmac.compare_digest(_digest(signature), _digest(_signature(until, token)))
    return signed and now < int(until) <= now + SESSION_S


def _signature(until: str, token: str) -> str:
    return hmac.new(_digest(token), f"infer-gateway admin session until {until}".encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
