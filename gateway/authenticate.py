"""Asking every request who sends it: from memory where that is enough, else by the issuers' keys or servers. (T)

Invariant: whatever is wrong with credentials, the caller gets one and the same `Unauthorized`; what nobody could check
is `Overloaded` instead. Credentials are remembered by their SHA-256 alone.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, MutableMapping
from functools import lru_cache
from typing import Final

import msgspec
import trio

from gateway import proxies
from gateway.auth import Keys, identity_by_proxy, identity_of, presented
from gateway.awake import elapsed
from gateway.config.access import Auth, Issuer, OAuth
from gateway.errors import Overloaded, Unauthorized, Unverified
from gateway.sources.introspection import Introspection
from gateway.sources.jwks import KeySet
from gateway.supervise import Loops
from gateway.tokens import MAX_TOKEN, Key, Refused, Token, UnknownKey, check_claims, check_signature, parse
from gateway.types import Headers, Identity

_log = logging.getLogger("infer_gateway.auth")
_VERIFIED: Final = 16_384
_REFUSED: Final = 4_096
_REFUSED_S: Final = 5.0
_INTROSPECTED_LEEWAY_S: Final = 60.0
_RETRY_S: Final = 2.0
_RENEWING: Final = frozenset({"refresh", "refresh_token", "offline"})
"""How servers (Keycloak, Hydra) mark tokens that are active as well but only good for getting others."""


class _Verdict(msgspec.Struct, frozen=True):
    """``until`` is in seconds since the epoch, as tokens have it; ``fresh`` by `awake.elapsed`. None: refused."""

    identity: Identity | None
    until: float = math.inf
    fresh: float = math.inf
    key: Key | None = None
    reason: str = ""


class _Verdicts:
    """What was found out about tokens, by digest; the least recently used go first, bad ones never for good ones."""

    def __init__(self) -> None:
        self._good: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._bad: OrderedDict[bytes, _Verdict] = OrderedDict()

    def find(self, digest: bytes, wall: float, now: float) -> _Verdict | None:
        kept = self._good if digest in self._good else self._bad
        verdict = kept.get(digest)
        if verdict is None:
            return None
        if wall >= verdict.until or now >= verdict.fresh:
            del kept[digest]
            return None
        kept.move_to_end(digest)
        return verdict

    def keep(self, digest: bytes, verdict: _Verdict) -> None:
        kept, limit = (self._bad, _REFUSED) if verdict.identity is None else (self._good, _VERIFIED)
        kept[digest] = verdict
        if len(kept) > limit:
            kept.popitem(last=False)

    def drop(self, keys: Container[bytes]) -> None:
        """Forget tokens under keys of other ids than these."""
        for digest in [d for d, verdict in self._good.items() if verdict.key and verdict.key.id not in keys]:
            del self._good[digest]


class _Pace:
    """Addresses that sent forged or inactive tokens wait in line, so that checking those takes a bounded share of the
    time, here and at who is asked about them.

    An address has 20 failures, and 2 more every second, before its next tokens are checked one in 20 ms.
    """

    ADDRESSES: Final = 4_096
    FREE: Final = 20.0
    RATE: Final = 2.0
    STEP_S: Final = 0.02
    LINE: Final = 256

    def __init__(self) -> None:
        self._owed: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._line = trio.Lock()

    async def wait(self, place: str) -> None:
        """Raises Overloaded where the line is full."""
        if self._owes(place, trio.current_time()) < self.FREE:
            return
        if self._line.statistics().tasks_waiting >= self.LINE:
            raise _unchecked()
        async with self._line:
            await trio.sleep(self.STEP_S)

    def failed(self, place: str) -> None:
        now = trio.current_time()
        self._owed[place] = (min(self._owes(place, now) + 1.0, 2 * self.FREE), now)
        self._owed.move_to_end(place)
        if len(self._owed) > self.ADDRESSES:
            self._owed.popitem(last=False)

    def _owes(self, place: str, now: float) -> float:
        owed, at = self._owed.get(place, (0.0, now))
        return max(0.0, owed - self.RATE * (now - at))


class _Believed(msgspec.Struct, frozen=True):
    issuer: Issuer
    keys: KeySet


class Authenticator:
    """``claims``: those of a token that are kept in its `Identity`. ``refusals`` counts 401s by their real reason.

    ``wall`` gives the time that tokens speak of, in seconds since the epoch.
    """

    def __init__(
        self,
        auth: Auth,
        claims: Iterable[str] = (),
        refusals: MutableMapping[str, int] | None = None,
        *,
        restarts: MutableMapping[str, int] | None = None,
        wall: Callable[[], float] = time.time,
        now: Callable[[], float] = elapsed,
        key_set: Callable[[Issuer, Callable[[], None]], KeySet] = KeySet.of,
        introspection: Callable[[OAuth], Introspection] = Introspection,
    ) -> None:
        self.refusals: MutableMapping[str, int] = {} if refusals is None else refusals
        self._wall = wall
        self._now = now
        self._key_set = key_set
        self._introspected_by = introspection
        self._verdicts = _Verdicts()
        self._pace = _Pace()
        self._under_way: dict[bytes, trio.Event] = {}
        self._issuers: dict[str, _Believed] = {}
        self._introspection: Introspection | None = None
        self._troubled = False
        self._sources: Loops[KeySet | Introspection] = Loops(
            lambda source: source.run(), lambda source: source.name, restarts
        )
        self.apply(auth, claims)

    def apply(self, auth: Auth, claims: Iterable[str] = ()) -> None:
        """Go by ``auth`` from now on. Key sets of issuers that stay are kept, those in files are read again."""
        sets = {(believed.keys.uri, believed.keys.ca_file): believed.keys for believed in self._issuers.values()}
        for keys in sets.values():
            keys.read_again()
        self._claims = sorted(claims)
        self._configured, self._enforced = auth.configured, auth.enforced
        self._judges = bool(auth.api_keys or auth.api_keys_file or auth.believed or auth.oauth)
        self._keys = Keys(auth.api_keys)
        self._proxies = None if auth.trusted_proxies is None else proxies.Proxies(auth.trusted_proxies)
        self._issuers = {}
        for issuer in auth.believed:
            at = (issuer.jwks_uri, issuer.ca_file)
            if at not in sets:
                sets[at] = self._key_set(issuer, self._drop)
            self._issuers[issuer.issuer] = _Believed(issuer, sets[at])
        if auth.oauth is None:
            self._introspection = None
        elif self._introspection is None or self._introspection.oauth != auth.oauth:
            self._introspection = self._introspected_by(auth.oauth)
        self._verdicts = _Verdicts()
        asked = [] if self._introspection is None else [self._introspection]
        self._sources.keep([*(believed.keys for believed in self._issuers.values()), *asked])

    async def run(self) -> None:
        """Keeps what credentials are checked by up to date, until cancelled."""
        await self._sources.run()

    # -- from memory --------------------------------------------------------------------------------------------

    def known(self, headers: Headers, peer: str, subject: str = "") -> Identity | None:
        """Who sends a request with ``headers`` from the address ``peer``; None if `identify` has to find out.

        ``subject`` is the name in the peer's verified certificate, if it has shown one. Raises Unauthorized.
        """
        if not self._configured:
            return _anonymous(peer)
        try:
            return self._recalled(headers, peer, subject)
        except Refused as refused:
            raise self._unauthorized(refused, peer) from None

    def _recalled(self, headers: Headers, peer: str, subject: str) -> Identity | None:
        if self._proxies is not None and self._proxies.trusts(proxies.address(peer), subject):
            identity = identity_by_proxy(headers, self._proxies.fields)
            if identity is not None:
                return identity
        credential = presented(headers) if self._judges else None
        if credential is None:
            if self._enforced:
                raise Refused("missing")
            return _anonymous(self._place(headers, peer, subject))
        token, may_be_token = credential
        if len(token) > MAX_TOKEN:
            raise Refused("oversized")
        digest = hashlib.sha256(token).digest()
        identity = self._keys.find(digest)
        if identity is not None:
            return identity
        if not may_be_token or not (self._issuers or self._introspection):
            raise Refused("key")
        verdict = self._verdicts.find(digest, self._wall(), self._now())
        if verdict is None:
            return None
        if verdict.identity is None:
            raise Refused("repeated")
        return verdict.identity

    def _place(self, headers: Headers, peer: str, subject: str) -> str:
        """The address of whom a trusted peer forwards for; any other peer's own."""
        if self._proxies is None or not self._proxies.trusts(proxies.address(peer), subject):
            return peer
        behind = self._proxies.behind(headers)
        return peer if behind is None else str(behind)

    def _unauthorized(self, refused: Refused, peer: str) -> Unauthorized:
        self.refusals[refused.reason] = self.refusals.get(refused.reason, 0) + 1
        _log.debug("refused: %s, from %s", refused.reason, peer)
        return Unauthorized()

    # -- by asking ----------------------------------------------------------------------------------------------

    async def identify(self, headers: Headers, peer: str, subject: str = "") -> Identity:
        """As `known`, waiting for keys or for an answer if need be. Raises Unauthorized; Overloaded if nobody says."""
        identity = self.known(headers, peer, subject)
        if identity is not None:
            return identity
        credential = presented(headers)
        assert credential is not None  # else it would be known
        token, digest, verdicts = credential[0], hashlib.sha256(credential[0]).digest(), self._verdicts
        try:
            verdict = await self._found_out(token, digest, _anonymous(self._place(headers, peer, subject)).address)
        except UnknownKey as refused:  # the next set may have the key
            raise self._unauthorized(refused, peer) from None
        except Refused as refused:
            verdict = _Verdict(None, fresh=self._now() + _REFUSED_S, reason=refused.reason)
        if verdicts is not self._verdicts:  # reached by a configuration that is no longer in force
            return await self.identify(headers, peer, subject)
        verdicts.keep(digest, verdict)
        if verdict.identity is None:
            raise self._unauthorized(Refused(verdict.reason), peer)
        return verdict.identity

    async def _found_out(self, token: bytes, digest: bytes, place: str) -> _Verdict:
        if not token.isascii():
            raise Refused("malformed")
        asked = self._introspection
        try:
            parsed = parse(token)
        except Refused:
            if asked is None:
                raise
            parsed = None
        believed = None if parsed is None else self._issuers.get(parsed.issuer)
        if parsed is not None and believed is not None:
            return await self._verify(parsed, believed, place)
        if asked is None:
            raise Refused("issuer" if parsed is not None else "opaque")
        return await self._introspect(asked, token.decode("ascii"), digest, place)

    # -- signed tokens ------------------------------------------------------------------------------------------

    async def _verify(self, token: Token, believed: _Believed, place: str) -> _Verdict:
        issuer, claims = believed.issuer, token.claims
        until = check_claims(
            claims, issuer=issuer.issuer, audiences=issuer.audiences, leeway=issuer.leeway, now=self._wall()
        )
        key = await self._signed(token, believed.keys, place)
        return _Verdict(identity_of(claims, issuer.claims, self._claims, issuer.user_prefix), until, key=key)

    async def _signed(self, token: Token, keys: KeySet, place: str) -> Key:
        await self._pace.wait(place)
        try:
            try:
                return check_signature(token, keys.keys)
            except UnknownKey:
                await keys.renew()
                return check_signature(token, keys.keys)
        except UnknownKey:
            if keys.failed or not keys.keys:
                raise _unchecked() from None
            self._pace.failed(place)
            raise
        except Refused:
            self._pace.failed(place)
            raise

    def _drop(self) -> None:
        """Tokens under a key that its issuer no longer lists are good no more."""
        self._verdicts.drop({key.id for believed in self._issuers.values() for key in believed.keys.keys})

    # -- introspected tokens ------------------------------------------------------------------------------------

    async def _introspect(self, asked: Introspection, token: str, digest: bytes, place: str) -> _Verdict:
        """One question a token, however many wait for its answer; whoever waits takes over if the asker leaves."""
        while (under_way := self._under_way.get(digest)) is not None:
            await under_way.wait()
            verdict = self._verdicts.find(digest, self._wall(), self._now())
            if verdict is not None:
                return verdict
        self._under_way[digest] = answered = trio.Event()
        try:
            await self._pace.wait(place)
            answer = await self._answer(asked, token)
            if answer is None:
                self._pace.failed(place)
            return self._judged(answer, asked)
        finally:
            del self._under_way[digest]
            answered.set()

    async def _answer(self, asked: Introspection, token: str) -> dict[str, object] | None:
        try:
            answer = await asked.ask(token)
        except OSError as error:
            if not self._troubled:
                _log.warning("tokens cannot be introspected: %s", error)
            self._troubled = True
            raise _unchecked() from None
        self._troubled = False
        return answer

    def _judged(self, answer: dict[str, object] | None, asked: Introspection) -> _Verdict:
        oauth, wall = asked.oauth, self._wall()
        fresh = self._now() + oauth.cache_time
        if answer is None:
            return _Verdict(None, fresh=fresh, reason="inactive")
        if any(str(answer.get(name)).lower() in _RENEWING for name in ("token_use", "token_type", "typ")):
            return _Verdict(None, fresh=fresh, reason="type")
        claims = {"exp": wall + oauth.cache_time, **answer}
        audiences = tuple(filter(None, oauth.audiences))
        try:
            until = check_claims(claims, issuer="", audiences=audiences, leeway=_INTROSPECTED_LEEWAY_S, now=wall)
            return _Verdict(identity_of(claims, oauth.claims, self._claims, oauth.user_prefix), until, fresh)
        except Refused as refused:
            return _Verdict(None, fresh=fresh, reason=refused.reason)


def _unchecked() -> Overloaded:
    return Unverified("The gateway cannot check credentials at the moment.", retry_after=_RETRY_S)


@lru_cache(maxsize=4096)
def _anonymous(peer: str) -> Identity:
    at = proxies.address(peer)
    return Identity(address=peer if at is None else proxies.place(at))
