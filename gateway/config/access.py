"""The `auth` section: whose credentials are believed, and who that makes them. (P)

Invariant: an `Auth` names nothing that could let a caller choose its own identity.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Annotated
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta

from gateway.config.decode import INVALID, Decoder, Duration, Fault, Hidden, Section
from gateway.config.document import ConfigError, parse
from gateway.config.url import is_loopback

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_FIELD = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+\Z", re.IGNORECASE)
_LEEWAY = Duration(60)
_UNFIT = frozenset({"authorization", "x-api-key", "api-key", "x-forwarded-for", "forwarded", "host", "cookie"})


class APIKey(Section, frozen=True):
    """One caller's key. ``name``: what the key is called in logs. ``key_sha256``: the hex digest of the key. ``user``:
    who has it; without one, the key's name is the user. ``tenant``: to whom the user belongs. ``tier``: by which
    fairness and limits treat them. ``models``: glob patterns of what they may use, none meaning every model.
    """

    name: Name
    key_sha256: Hidden
    user: str = ""
    tenant: str = ""
    tier: str = ""
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _SHA256.match(self.key_sha256.reveal()):
            raise Fault(".keySha256", "expected 64 lower-case hexadecimal digits")


class Claims(Section, frozen=True):
    """Which claim says what, by name or by the path of members that leads to it ("realm_access.tenant"). Every name but
    ``user`` may be "": nothing is read then. ``user``: who the caller is. ``tenant``: to whom they belong. ``tier``: by
    which fairness and limits treat them. ``models``: what they may use: an array of glob patterns, or one string of
    them with spaces between.
    """

    user: Name = "sub"
    tenant: str = "tenant"
    tier: str = "tier"
    models: str = "models"


class Issuer(Section, frozen=True):
    """Whose tokens are believed, under which keys. ``issuer``: what tokens say under iss. ``jwks_uri``: where its keys
    are, https or file. ``audiences``: a token has to be meant for one of them, for anybody if there are none.
    ``claims``: which claim says what. ``leeway``: by how much the clocks may differ. ``ca_file``: a PEM file of
    authorities to trust instead of the system's. ``user_prefix``: is put before every user, so that those of two
    issuers are told apart.
    """

    issuer: Name
    jwks_uri: str
    audiences: tuple[str, ...] = ()
    claims: Claims = Claims()
    leeway: Duration = _LEEWAY
    ca_file: str = ""
    user_prefix: str = ""

    def __post_init__(self) -> None:
        _check_url(".jwksUri", self.jwks_uri, ("https", "file"))
        _check_leeway(self.leeway)


class OAuth(Section, frozen=True):
    """Who is asked about tokens that are no JWTs of an issuer above (RFC 7662). ``introspection_url``: where, https.
    ``client_id``: as whom the gateway asks. ``client_secret_file``: holds its secret. ``audiences``: as of an issuer.
    ``claims``: which member of the answer says what. ``cache_time``: how long an answer is good for, at most until the
    token expires. ``timeout``: how long an answer is waited for. ``ca_file``: a PEM file of authorities to trust
    instead of the system's. ``user_prefix``: is put before every user.
    """

    introspection_url: str
    client_id: Annotated[str, Meta(min_length=1)]
    client_secret_file: str
    audiences: tuple[str, ...] = ()
    claims: Claims = Claims()
    cache_time: Duration = Duration(60)
    timeout: Duration = Duration(5)
    ca_file: str = ""
    user_prefix: str = ""

    def __post_init__(self) -> None:
        _check_url(".introspectionUrl", self.introspection_url, ("https",))
        if self.cache_time > 3600:
            raise Fault(".cacheTime", "at most 1h: a token that is revoked stays good that long")
        if self.timeout > 60:
            raise Fault(".timeout", "at most 1m")


class IdentityHeaders(Section, frozen=True):
    """The fields in which a trusted proxy says who its caller is; of all but ``user``, "" is none. ``user``: who it is.
    ``tenant``: to whom they belong. ``tier``: by which fairness and limits treat them. ``models``: what they may use:
    glob patterns, with spaces or commas between.
    """

    user: Name = "x-auth-user"
    tenant: str = "x-auth-tenant"
    tier: str = "x-auth-tier"
    models: str = "x-auth-models"

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name in ("user", "tenant", "tier", "models"):
            field: str = getattr(self, name)
            if field and not _FIELD.match(field):
                raise Fault(f".{name}", "not the name of a header field")
            if field.lower() in _UNFIT:
                raise Fault(f".{name}", f"{field} has a meaning of its own")
            if field.lower() in seen:
                raise Fault(f".{name}", f"{field} says something else already")
            seen.update([field.lower()] if field else [])


class TrustedProxies(Section, frozen=True):
    """Peers that have asked who their callers are. ``cidrs``: their addresses. ``subjects``: the names in their
    verified client certificates. ``headers``: in which fields they say it.
    """

    cidrs: tuple[str, ...] = ()
    subjects: tuple[Name, ...] = ()
    headers: IdentityHeaders = IdentityHeaders()

    def __post_init__(self) -> None:
        for index, cidr in enumerate(self.cidrs):
            try:
                network = ipaddress.ip_network(cidr)
            except ValueError as error:
                raise Fault(f".cidrs[{index}]", f"expected a network such as 10.0.0.0/8: {error}") from None
            if not network.prefixlen:
                raise Fault(f".cidrs[{index}]", "everybody could say who they are")
        if not self.cidrs and not self.subjects:
            raise ValueError("neither cidrs nor subjects: it is not said which proxies are trusted")

    @property
    def networks(self) -> tuple[Network, ...]:
        return tuple(ipaddress.ip_network(cidr) for cidr in self.cidrs)


class Auth(Section, frozen=True):
    """Empty strings mean unset, as in published files. ``issuer``: with ``jwks_uri`` one more of ``issuers``.
    ``audiences``: its own. ``jwks_uri``: where its keys are, https or file. ``claims``: its own. ``leeway``: its own.
    ``issuers``: whose tokens are believed. ``api_keys``: keys that are let in, as digests. ``api_keys_file``: a file
    with more of them, a list of the same shape. ``oauth``: who is asked about all other tokens. ``trusted_proxies``:
    who is believed when saying who callers are. ``required``: whether nobody is let in unknown; None: as soon as
    anything is configured. false says aloud that anyone may ask.
    """

    issuer: str = ""
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    claims: Claims = Claims()
    leeway: Duration = _LEEWAY
    issuers: tuple[Issuer, ...] = ()
    api_keys: tuple[APIKey, ...] = ()
    api_keys_file: str = ""
    oauth: OAuth | None = None
    trusted_proxies: TrustedProxies | None = None
    required: bool | None = None

    def __post_init__(self) -> None:
        _check_leeway(self.leeway)
        if self.jwks_uri:
            _check_url(".jwksUri", self.jwks_uri, ("https", "file"))
            if not self.issuer:
                raise Fault(".issuer", "needed with jwksUri: tokens meant for others would be believed without it")
        elif self.issuer or any(self.audiences) or self.claims != Claims() or self.leeway != _LEEWAY:
            raise Fault(".jwksUri", "needed with issuer, audiences, claims or leeway: no token is looked at without it")
        if self.required and not self.configured:
            raise Fault(
                ".required", "true, but nobody could be let in: no apiKeys, jwksUri, issuers, oauth, trustedProxies"
            )
        _check_once("apiKeys", "name", [key.name for key in self.api_keys])
        _check_once("apiKeys", "keySha256", [key.key_sha256.reveal() for key in self.api_keys])
        names = [issuer.issuer for issuer in self.issuers]
        _check_once("issuers", "issuer", names)
        if self.jwks_uri and self.issuer in names:
            raise Fault(f".issuers[{names.index(self.issuer)}].issuer", "given twice: auth.issuer is the same")

    @property
    def configured(self) -> bool:
        """Whether anybody could be known by anything."""
        return bool(
            self.jwks_uri
            or self.issuers
            or self.api_keys
            or self.api_keys_file
            or self.oauth
            or self.trusted_proxies is not None
        )

    @property
    def enforced(self) -> bool:
        """Whether nobody is let in unknown."""
        return self.configured if self.required is None else self.required

    @property
    def believed(self) -> tuple[Issuer, ...]:
        """Every issuer, the one at the top first; audiences that are empty strings are none."""
        found = list(self.issuers)
        if self.jwks_uri:
            found.insert(
                0,
                Issuer(
                    issuer=self.issuer,
                    jwks_uri=self.jwks_uri,
                    audiences=self.audiences,
                    claims=self.claims,
                    leeway=self.leeway,
                ),
            )
        return tuple(
            msgspec.structs.replace(issuer, audiences=tuple(filter(None, issuer.audiences))) for issuer in found
        )

    def key_sets(self) -> Iterator[tuple[str, str]]:
        """Paths, from here, of the files with issuers' keys, and their names."""
        uris = [(".jwksUri", self.jwks_uri)]
        uris += [(f".issuers[{index}].jwksUri", issuer.jwks_uri) for index, issuer in enumerate(self.issuers)]
        for path, uri in uris:
            if name := file_of(uri):
                yield path, name

    def warnings(self) -> Iterator[str]:
        """Paths, from here, of what is legal and probably not meant, each with a word on it."""
        for issuer in self.believed:
            if not issuer.audiences:
                yield f".audiences: none for {issuer.issuer}: its tokens for any other service are let in here, too"


def with_keys(auth: Auth, file: str, text: bytes) -> Auth:
    """``auth`` with the keys of ``apiKeysFile``, a list as `apiKeys` is. Raises ConfigError."""
    documents = parse(file, text)
    decoder = Decoder()
    keys: list[APIKey] = []
    for document in documents:
        made = decoder.build(document.tree, tuple[APIKey, ...])
        keys.extend(() if made is INVALID else made)
    problems = [f"{file}: {problem}" for problem in decoder.problems]
    if not problems:
        try:
            return msgspec.structs.replace(auth, api_keys=(*auth.api_keys, *keys))
        except Fault:
            problems = [f"{file}: a name or a key is given twice, here or in auth.apiKeys"]
    raise ConfigError(problems)


def file_of(uri: str) -> str:
    """The path that a file:// URI names, "" for any other."""
    parts = urlsplit(uri)
    return unquote(parts.path) if parts.scheme == "file" else ""


def _check_once(member: str, name: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            raise Fault(f".{member}[{index}].{name}", "given twice")
        seen.add(value)


def _check_leeway(leeway: float) -> None:
    if leeway > 600:
        raise Fault(".leeway", "at most 10m: expired tokens would be believed that long")


def _check_url(path: str, url: str, schemes: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        allowed = parts.scheme in schemes or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        if parts.scheme == "file":
            usable = allowed and parts.netloc in ("", "localhost") and parts.path.startswith("/")
        else:
            usable = allowed and "@" not in parts.netloc and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Fault(path, f"expected an {' or '.join(schemes)} URL")
