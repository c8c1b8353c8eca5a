"""Asking who sends a request: from memory, by key sets, by introspection, and what happens when nobody answers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from gateway.authenticate import Authenticator
from gateway.config.access import APIKey, Auth, Claims, Issuer, OAuth, TrustedProxies
from gateway.config.decode import Duration, Hidden
from gateway.errors import Overloaded, Unauthorized
from gateway.sources.introspection import Introspection
from gateway.sources.jwks import KeySet
from gateway.types import Headers, Identity
from tests.gateway.issuing import ISSUER, NOW, Signer, bearer, key_set

PEER = "203.0.113.9"
SECRET = "sk-secret-of-ann"
KEY = APIKey(name="ann", key_sha256=Hidden(hashlib.sha256(SECRET.encode()).hexdigest()), tier="gold")
JWKS = "https://issuer.example.com/jwks"
TRUSTED = Auth(issuer=ISSUER, audiences=("gateway",), jwks_uri=JWKS)
ASKED = OAuth(
    introspection_url="https://server.example.com/i", client_id="gw", client_secret_file="s", cache_time=Duration(60)
)


class Keys(KeySet):
    """Key sets from ``answer``, one per URI; an OSError in it is raised. ``delay`` is what a fetch takes."""

    answer: bytes | OSError = b""
    delay = 0.5

    async def fetch(self) -> tuple[bytes, float]:
        await trio.sleep(self.delay)
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer, 3600.0


class Server(Introspection):
    """Answers by token; what is not there is inactive."""

    def __init__(self, oauth: OAuth) -> None:
        super().__init__(oauth)
        self.active: dict[str, dict[str, Any]] = {}
        self.failing = False

    async def run(self) -> None:
        await trio.sleep_forever()

    async def ask(self, token: str) -> dict[str, Any] | None:
        self.asked += 1
        await trio.sleep(0.2)
        if self.failing:
            raise OSError("server.example.com cannot be asked")
        return self.active.get(token)


class Rig:
    def __init__(self, auth: Auth, claims: tuple[str, ...] = ()) -> None:
        self.keys: list[Keys] = []
        self.servers: list[Server] = []
        self.skew = self.away = 0.0
        self.jwks: bytes | OSError = key_set(Signer().jwk())
        self.began = trio.current_time()
        self.it = Authenticator(
            auth, claims, wall=self.wall, now=self.now, key_set=self._key_set, introspection=self._server
        )

    def wall(self) -> float:
        return NOW + trio.current_time() - self.began + self.skew

    def now(self) -> float:
        return trio.current_time() + self.away

    def _key_set(self, issuer: Issuer, changed: Callable[[], None]) -> KeySet:
        keys = Keys.of(issuer, changed)
        assert isinstance(keys, Keys)
        keys.answer = self.jwks
        self.keys.append(keys)
        return keys

    def _server(self, oauth: OAuth) -> Introspection:
        self.servers.append(Server(oauth))
        return self.servers[-1]

    def serve(self, *signers: Signer) -> None:
        for keys in self.keys:
            keys.answer = key_set(*(signer.jwk() for signer in signers))

    @property
    def fetches(self) -> int:
        return sum(keys.fetches for keys in self.keys)

    async def ask(self, headers: Headers, peer: str = PEER, subject: str = "") -> Identity:
        found = self.it.known(headers, peer, subject)
        return await self.it.identify(headers, peer, subject) if found is None else found

    async def refused(self, headers: Headers, peer: str = PEER) -> None:
        with pytest.raises(Unauthorized) as caught:
            await self.ask(headers, peer)
        assert caught.value.message == Unauthorized().message
        assert caught.value.headers == ((b"www-authenticate", b"Bearer"),)


def run(auth: Auth, scenario: Callable[[Rig], Awaitable[None]], claims: tuple[str, ...] = ()) -> None:
    async def main() -> None:
        rig = Rig(auth, claims)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.it.run)
            await scenario(rig)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


# --- nobody, anybody, keys --------------------------------------------------------------------------------------------


def test_without_configuration_credentials_are_nobodys_business() -> None:
    async def scenario(rig: Rig) -> None:
        for headers in ([], bearer(b"x"), [(b"authorization", b"Basic x")], [(b"x-auth-user", b"root")]):
            assert rig.it.known(headers, PEER) == Identity(address=PEER)
        assert rig.it.known([(b"x-forwarded-for", b"1.1.1.1")], "::ffff:10.0.0.1").address == "10.0.0.1"  # type: ignore[union-attr]
        assert rig.it.known([], "2001:db8::1").address == "2001:db8::/64"  # type: ignore[union-attr]

    run(Auth(), scenario)


def test_an_api_key_is_known_at_once() -> None:
    async def scenario(rig: Rig) -> None:
        for headers in (bearer(SECRET.encode()), [(b"x-api-key", SECRET.encode())], [(b"api-key", SECRET.encode())]):
            assert rig.it.known(headers, PEER) == Identity("ann", tier="gold")
        for headers in ([], bearer(b"sk-other"), [(b"x-api-key", b"")], bearer(b"x" * 20_000), bearer(b"\xff")):
            await rig.refused(headers)
        assert rig.it.refusals == {"missing": 2, "key": 2, "oversized": 1}

    run(Auth(api_keys=(KEY,)), scenario)


def test_where_nobody_has_to_be_known_a_wrong_key_is_still_wrong() -> None:
    async def scenario(rig: Rig) -> None:
        assert rig.it.known([], PEER) == Identity(address=PEER)
        assert rig.it.known(bearer(SECRET.encode()), PEER) == Identity("ann", tier="gold")
        await rig.refused(bearer(b"sk-other"))
        rig.it.apply(Auth(api_keys=()))
        assert rig.it.known(bearer(b"sk-other"), PEER) == Identity(address=PEER)

    run(Auth(api_keys=(KEY,), required=False), scenario)


def test_a_client_s_word_about_itself_is_not_believed() -> None:
    async def scenario(rig: Rig) -> None:
        said = [(b"x-auth-user", b"root"), (b"x-auth-tier", b"gold"), (b"x-forwarded-for", b"10.0.0.1")]
        assert rig.it.known(said, PEER) == Identity(address=PEER)

    run(Auth(api_keys=(KEY,), required=False, trusted_proxies=TrustedProxies(cidrs=("10.0.0.0/8",))), scenario)


# --- proxies ----------------------------------------------------------------------------------------------------------


def test_a_trusted_proxy_says_who() -> None:
    async def scenario(rig: Rig) -> None:
        said = [(b"x-auth-user", b"bob"), (b"x-auth-tenant", b"t"), (b"authorization", b"Bearer sk-other")]
        assert rig.it.known(said, "10.0.0.1") == Identity("bob", "t")
        assert rig.it.known(said, "::ffff:10.0.0.1") == Identity("bob", "t")
        assert rig.it.known(said, PEER, "lb.example.com") == Identity("bob", "t")
        await rig.refused(said, PEER)
        await rig.refused([(b"x-auth-user", b"bob"), (b"x-auth-user", b"root")], "10.0.0.1")
        assert rig.it.known(bearer(SECRET.encode()), "10.0.0.1") == Identity("ann", tier="gold")
        await rig.refused([(b"x-auth-user", b"")], "10.0.0.1")

    proxies = TrustedProxies(cidrs=("10.0.0.0/8",), subjects=("lb.example.com",))
    run(Auth(api_keys=(KEY,), trusted_proxies=proxies), scenario)


def test_behind_a_trusted_proxy_everybody_has_an_address() -> None:
    async def scenario(rig: Rig) -> None:
        passed = [(b"x-forwarded-for", b"1.1.1.1, 198.51.100.1"), (b"authorization", b"Bearer EMPTY")]
        assert rig.it.known(passed, "10.0.0.1") == Identity(address="198.51.100.1")
        assert rig.it.known(passed, PEER) == Identity(address=PEER)
        assert rig.it.known([(b"x-forwarded-for", b"?")], "10.0.0.1") == Identity(address="10.0.0.1")

    run(Auth(required=False, trusted_proxies=TrustedProxies(cidrs=("10.0.0.0/8",))), scenario)


# --- signed tokens ----------------------------------------------------------------------------------------------------


def test_a_token_is_verified_once_and_then_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        token = bearer(Signer().token(tier="gold", org="o"))
        assert rig.it.known(token, PEER) is None
        assert await rig.it.identify(token, PEER) == Identity("ann", tier="gold", claims=(("org", "o"),))
        monkeypatch.setattr("gateway.authenticate.check_signature", None)
        assert rig.it.known(token, PEER) == Identity("ann", tier="gold", claims=(("org", "o"),))
        await rig.refused([(b"x-api-key", token[0][1].removeprefix(b"Bearer "))])

    run(TRUSTED, scenario, claims=("org",))


def test_a_token_is_known_until_it_expires() -> None:
    async def scenario(rig: Rig) -> None:
        token = bearer(Signer().token(exp=NOW + 100))
        assert await rig.ask(token)
        await trio.sleep(100 + 59 - trio.current_time())
        assert rig.it.known(token, PEER)
        await trio.sleep(1.1)
        assert rig.it.known(token, PEER) is None
        await rig.refused(token)
        assert rig.it.refusals == {"expired": 1}

    run(TRUSTED, scenario)


def test_a_step_of_the_clock_is_followed() -> None:
    async def scenario(rig: Rig) -> None:
        token = bearer(Signer().token(exp=NOW + 100))
        assert await rig.ask(token)
        rig.skew = 200
        await rig.refused(token)

    run(TRUSTED, scenario)


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(-500, 500)), max_size=20))
def test_however_clocks_step_no_token_outlives_its_time(steps: list[tuple[float, int]]) -> None:
    async def scenario(rig: Rig) -> None:
        token = bearer(Signer().token(exp=NOW + 300, iat=None))
        for wait, skew in steps:
            await trio.sleep(wait)
            rig.skew += skew
            try:
                await rig.ask(token)
            except Unauthorized:
                assert rig.wall() >= NOW + 360 or rig.it.refusals["repeated"]
            else:
                assert rig.wall() < NOW + 360

    run(TRUSTED, scenario)


def test_whatever_is_wrong_the_answer_is_the_same() -> None:
    async def scenario(rig: Rig) -> None:
        thief = Signer(serial="thief")
        for token in (
            thief.token(),
            Signer().token(aud="other"),
            Signer().token(exp=NOW - 1000),
            Signer().token(iss="https://elsewhere.example.com"),
            Signer().token(sub=None),
            Signer().token({"alg": "none"}),
            Signer("k7").token(),
            b"opaque",
            b"ey.ey.ey",
            b"x" * 60_000,
        ):
            await rig.refused(bearer(token))
        reasons = "signature audience expired issuer subject algorithm key opaque malformed oversized"
        assert set(rig.it.refusals) == set(reasons.split())

    run(TRUSTED, scenario)


def test_a_refused_token_is_not_checked_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        forged = bearer(Signer(serial="thief").token())
        await rig.refused(forged)
        for _ in range(1000):
            with pytest.raises(Unauthorized):
                rig.it.known(forged, PEER)
        assert rig.it.refusals == {"signature": 1, "repeated": 1000}
        await trio.sleep(5)
        assert rig.it.known(forged, PEER) is None

    run(TRUSTED, scenario)


def test_what_is_remembered_is_bounded() -> None:
    async def scenario(rig: Rig) -> None:
        good = bearer(Signer().token())
        assert await rig.ask(good)
        for number in range(5000):
            with pytest.raises(Unauthorized):
                await rig.ask(bearer(b"opaque%d" % number))
        assert rig.it.known(good, PEER), "bad tokens drive out no good ones"
        assert rig.it.known(bearer(b"opaque0"), PEER) is None

    run(TRUSTED, scenario)


def test_several_issuers() -> None:
    other = "https://other.example.com"
    auth = Auth(
        issuer=ISSUER,
        jwks_uri=JWKS,
        issuers=(
            Issuer(issuer=other, jwks_uri="https://other.example.com/k", claims=Claims(user="mail"), user_prefix="o:"),
        ),
    )

    async def scenario(rig: Rig) -> None:
        mine, theirs = Signer(), Signer(serial="other")
        rig.keys[1].answer = key_set(theirs.jwk())
        assert await rig.ask(bearer(mine.token())) == Identity("ann")
        assert await rig.ask(bearer(theirs.token(iss=other, mail="ann"))) == Identity("o:ann")
        await rig.refused(bearer(mine.token(iss=other, mail="ann")))
        await rig.refused(bearer(theirs.token()))

    run(auth, scenario)


# --- key sets ---------------------------------------------------------------------------------------------------------


def test_the_first_tokens_wait_for_the_keys() -> None:
    async def scenario(rig: Rig) -> None:
        assert await rig.ask(bearer(Signer().token()))
        assert trio.current_time() - rig.began == pytest.approx(0.5)
        assert rig.fetches == 1

    run(TRUSTED, scenario)


def test_a_new_key_is_found_and_an_old_one_forgotten() -> None:
    async def scenario(rig: Rig) -> None:
        old, new = Signer("k1"), Signer("k2", serial="2")
        await rig.ask(bearer(old.token()))
        await trio.sleep(30)
        rig.serve(new)
        assert await rig.ask(bearer(new.token()))
        assert rig.fetches == 2
        await rig.refused(bearer(old.token()))

    run(TRUSTED, scenario)


def test_unknown_keys_cause_one_fetch_in_30_s() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ask(bearer(Signer().token()))
        await trio.sleep(30)

        async def forge(number: int) -> None:
            with pytest.raises((Unauthorized, Overloaded)):
                await rig.ask(bearer(Signer(f"x{number}").token()), f"198.51.{number % 100}.{number // 100}")

        for second in range(90):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(forge, second * 20 + number)
                await trio.sleep(1)
        assert 1 + 3 <= rig.fetches <= 1 + 4
        assert set(rig.it.refusals) == {"key"}

    run(TRUSTED, scenario)


def test_those_who_wait_share_a_fetch_and_leaving_does_not_end_it() -> None:
    async def scenario(rig: Rig) -> None:
        new = Signer("k2", serial="2")
        await rig.ask(bearer(Signer().token()))
        await trio.sleep(30)
        rig.serve(Signer(), new)
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.2):
                await rig.ask(bearer(new.token(jti="0")))
            for number in range(10):
                nursery.start_soon(rig.ask, bearer(new.token(jti=str(number))))
        assert rig.fetches == 2

    run(TRUSTED, scenario)


def test_keys_are_kept_when_a_fetch_fails() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.ask(bearer(Signer().token()))
        for wrong in (OSError("gone"), b"<html>", b'{"keys": []}'):
            rig.keys[0].answer = wrong
            await trio.sleep(3700)
            assert await rig.ask(bearer(Signer().token(jti=repr(wrong), exp=NOW + 99_999)))
            assert rig.keys[0].failed
            with pytest.raises(Overloaded):
                await rig.ask(bearer(Signer("k2").token(exp=NOW + 99_999)))
        rig.serve(Signer("k2"))
        await trio.sleep(31)
        assert await rig.ask(bearer(Signer("k2").token(exp=NOW + 99_999)))

    run(TRUSTED, scenario)


def test_without_any_keys_nobody_can_say() -> None:
    async def scenario(rig: Rig) -> None:
        rig.keys[0].answer = OSError("gone")
        for _ in range(2):
            with pytest.raises(Overloaded) as caught:
                await rig.ask(bearer(Signer().token()))
            assert caught.value.retry_after
        await rig.refused(bearer(Signer().token(aud="other")))
        assert rig.it.known(bearer(SECRET.encode()), PEER)
        rig.serve(Signer())
        await trio.sleep(31)
        assert await rig.ask(bearer(Signer().token()))

    run(Auth(issuer=ISSUER, audiences=("gateway",), jwks_uri=JWKS, api_keys=(KEY,)), scenario)


def test_forgers_wait_and_nobody_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        thief = Signer(serial="thief")
        assert await rig.ask(bearer(Signer().token()))
        began = trio.current_time()
        late = 0

        async def forge(number: int) -> None:
            nonlocal late
            with pytest.raises((Unauthorized, Overloaded)) as caught:
                await rig.ask(bearer(thief.token(jti=str(number))), "198.51.100.1")
            late += isinstance(caught.value, Overloaded)

        async with trio.open_nursery() as nursery:
            for number in range(400):
                nursery.start_soon(forge, number)
            await trio.testing.wait_all_tasks_blocked()
            assert rig.it.refusals["signature"] >= 20
            assert await rig.ask(bearer(Signer().token(jti="honest")))
            assert trio.current_time() == began
        assert rig.it.refusals["signature"] + late == 400

    run(TRUSTED, scenario)


def test_a_forger_s_network_is_one_forger() -> None:
    async def scenario(rig: Rig) -> None:
        for number in range(20):
            await rig.refused(bearer(Signer(serial="thief").token(sub=f"{number}")), f"2001:db8::{number:x}")
        began = trio.current_time()
        await rig.refused(bearer(Signer(serial="thief").token(sub="20")), "2001:db8::abcd")
        assert trio.current_time() - began == pytest.approx(0.02)
        await rig.refused(bearer(Signer(serial="thief").token(sub="21")), "2001:db8:0:1::abcd")
        assert trio.current_time() - began == pytest.approx(0.02)

    run(TRUSTED, scenario)


def test_a_line_that_is_full_is_told() -> None:
    async def scenario(rig: Rig) -> None:
        thief = Signer(serial="thief")
        assert await rig.ask(bearer(Signer().token()))
        for number in range(20):
            await rig.refused(bearer(thief.token(jti=str(number))))
        outcomes: list[str] = []

        async def forge(number: int) -> None:
            with pytest.raises((Unauthorized, Overloaded)) as caught:
                await rig.ask(bearer(thief.token(jti=str(number))))
            outcomes.append(type(caught.value).__name__)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(1000, 1400):
                nursery.start_soon(forge, number)
        assert outcomes.count("Unauthorized") == 257
        assert trio.current_time() - began == pytest.approx(257 * 0.02)

    run(TRUSTED, scenario)


# --- introspection ----------------------------------------------------------------------------------------------------


def test_an_opaque_token_is_introspected_once() -> None:
    async def scenario(rig: Rig) -> None:
        (server,) = rig.servers
        server.active = {"opaque": {"active": True, "sub": "ann", "models": "a b"}}
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(rig.ask, bearer(b"opaque"))
        assert rig.it.known(bearer(b"opaque"), PEER) == Identity("ann", models=("a", "b"))
        assert server.asked == 1
        await trio.sleep(60)
        assert rig.it.known(bearer(b"opaque"), PEER) is None
        server.active.clear()
        await rig.refused(bearer(b"opaque"))
        await rig.refused(bearer(b"opaque"))
        assert server.asked == 2
        await trio.sleep(60)
        await rig.refused(bearer(b"opaque"))
        assert server.asked == 3

    run(Auth(oauth=ASKED), scenario)


def test_what_a_server_said_before_the_process_was_stopped_is_old_afterwards() -> None:
    """And so it is though the time of day went back."""

    async def scenario(rig: Rig) -> None:
        (server,) = rig.servers
        server.active = {"opaque": {"active": True, "sub": "ann"}}
        assert await rig.ask(bearer(b"opaque"))
        server.active.clear()
        rig.away, rig.skew = 60.0, -3600.0
        await rig.refused(bearer(b"opaque"))
        assert server.asked == 2

    run(Auth(oauth=ASKED), scenario)


def test_who_makes_up_opaque_tokens_does_not_keep_the_server_from_others() -> None:
    async def scenario(rig: Rig) -> None:
        (server,) = rig.servers
        server.active = {"opaque": {"active": True, "sub": "ann"}}
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(rig.refused, bearer(b"made-up-%d" % number))
        began, asked = trio.current_time(), server.asked
        async with trio.open_nursery() as nursery:
            for number in range(100, 200):
                nursery.start_soon(rig.refused, bearer(b"made-up-%d" % number))
            await trio.sleep(0.5)
            assert 20 <= server.asked - asked <= 26
            assert await rig.ask(bearer(b"opaque"), "203.0.113.10")
            assert trio.current_time() - began < 0.8
        assert rig.it.refusals == {"inactive": 120}

    run(Auth(oauth=ASKED), scenario)


def test_an_answer_is_good_until_the_token_expires() -> None:
    async def scenario(rig: Rig) -> None:
        (server,) = rig.servers
        server.active = {"t": {"active": True, "sub": "ann", "exp": NOW - 30}}
        assert await rig.ask(bearer(b"t"))
        await trio.sleep(30)
        assert rig.it.known(bearer(b"t"), PEER) is None
        await rig.refused(bearer(b"t"))

    run(Auth(oauth=ASKED), scenario)


@pytest.mark.parametrize(
    "answer",
    [
        {"active": True, "sub": "a", "typ": "Refresh"},
        {"active": True, "sub": "a", "token_use": "refresh_token"},
        {"active": True, "sub": "a", "token_type": "refresh_token"},
    ],
)
def test_a_token_that_only_gets_others_is_no_credential(answer: dict[str, Any]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.servers[0].active = {
            "t": answer,
            "u": {**answer, "typ": "Bearer", "token_use": "access_token", "token_type": "x"},
        }
        await rig.refused(bearer(b"t"))
        assert rig.it.refusals == {"type": 1}
        assert await rig.ask(bearer(b"u"))

    run(Auth(oauth=ASKED), scenario)


@pytest.mark.parametrize(
    "answer", [{"active": True}, {"active": True, "sub": 1.5}, {"active": True, "sub": "a", "exp": "x"}]
)
def test_an_answer_that_names_nobody(answer: dict[str, Any]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.servers[0].active = {"t": answer}
        await rig.refused(bearer(b"t"))

    run(Auth(oauth=ASKED), scenario)


def test_a_dead_server_is_no_refusal(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(rig: Rig) -> None:
        (server,) = rig.servers
        server.failing = True
        for _ in range(3):
            with pytest.raises(Overloaded):
                await rig.ask(bearer(b"sensitive-token"))
        assert caplog.text.count("cannot be introspected") == 1
        server.failing, server.active = False, {"sensitive-token": {"active": True, "sub": "ann"}}
        assert await rig.ask(bearer(b"sensitive-token"))
        assert not rig.it.refusals

    run(Auth(oauth=ASKED), scenario)
    assert "sensitive-token" not in caplog.text


def test_whoever_waits_takes_over_when_the_asker_leaves() -> None:
    async def scenario(rig: Rig) -> None:
        (server,) = rig.servers
        server.active = {"t": {"active": True, "sub": "ann"}}
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as leaving:
                nursery.start_soon(_leave_after, leaving, 0.1)
                nursery.start_soon(_ask_after, rig, 0.05)
                await rig.ask(bearer(b"t"))
            assert leaving.cancelled_caught
        assert server.asked == 2
        assert rig.it.known(bearer(b"t"), PEER) == Identity("ann")

    run(Auth(oauth=ASKED), scenario)


async def _leave_after(scope: trio.CancelScope, seconds: float) -> None:
    await trio.sleep(seconds)
    scope.cancel()


async def _ask_after(rig: Rig, seconds: float) -> None:
    await trio.sleep(seconds)
    assert await rig.ask(bearer(b"t")) == Identity("ann")


def test_tokens_of_an_issuer_are_not_introspected_and_all_others_are() -> None:
    async def scenario(rig: Rig) -> None:
        (server,) = rig.servers
        foreign = Signer().token(iss="https://elsewhere.example.com")
        symmetric = Signer().token({"alg": "HS256"})
        server.active = {token.decode(): {"active": True, "sub": "ann"} for token in (foreign, symmetric)}
        await rig.refused(bearer(Signer(serial="thief").token()))
        assert await rig.ask(bearer(Signer().token()))
        assert server.asked == 0
        assert await rig.ask(bearer(foreign))
        assert await rig.ask(bearer(symmetric))

    run(Auth(issuer=ISSUER, audiences=("gateway",), jwks_uri=JWKS, oauth=ASKED), scenario)


# --- reloads ----------------------------------------------------------------------------------------------------------


def test_a_new_configuration_forgets_whom_the_old_one_knew_and_keeps_its_keys() -> None:
    async def scenario(rig: Rig) -> None:
        token = bearer(Signer().token(mail="ann@example.com"))
        assert await rig.ask(token) == Identity("ann")
        rig.it.apply(Auth(issuer=ISSUER, audiences=("gateway",), jwks_uri=JWKS, claims=Claims(user="mail")))
        assert rig.it.known(token, PEER) is None
        assert await rig.ask(token) == Identity("ann@example.com")
        assert rig.fetches == 1
        rig.it.apply(Auth(issuer=ISSUER, audiences=("other",), jwks_uri=JWKS))
        await rig.refused(token)
        rig.it.apply(Auth(api_keys=(KEY,)))
        await rig.refused(token)
        rig.it.apply(Auth())
        assert await rig.ask(token) == Identity(address=PEER)

    run(TRUSTED, scenario)


def test_keys_in_a_file_are_read_again_with_the_configuration() -> None:
    auth = Auth(issuer=ISSUER, audiences=("gateway",), jwks_uri="file:///etc/jwks.json")

    async def scenario(rig: Rig) -> None:
        assert await rig.ask(bearer(Signer().token()))
        rig.serve(Signer("k2"))
        rig.it.apply(auth)
        await trio.sleep(1)
        assert rig.fetches == 2
        await rig.refused(bearer(Signer().token()))
        assert await rig.ask(bearer(Signer("k2").token()))

    run(auth, scenario)


def test_what_was_under_way_is_judged_by_the_new_configuration() -> None:
    async def scenario(rig: Rig) -> None:
        rig.servers[0].active = {"t": {"active": True, "sub": "ann", "mail": "ann@example.com"}}
        found: list[Identity] = []

        async def ask() -> None:
            found.append(await rig.ask(bearer(b"t")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.1)
            by_mail = OAuth(
                introspection_url=ASKED.introspection_url,
                client_id="gw",
                client_secret_file="s",
                claims=Claims(user="mail"),
            )
            rig.it.apply(Auth(oauth=by_mail))
            rig.servers[1].active = rig.servers[0].active
        assert found == [Identity("ann@example.com")]
        assert rig.it.known(bearer(b"t"), PEER) == Identity("ann@example.com")

    run(Auth(oauth=ASKED), scenario)


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    forged = Signer(serial="thief").token()

    async def scenario(rig: Rig) -> None:
        for headers in (
            bearer(SECRET.encode()),
            bearer(b"sk-not-" + SECRET.encode()),
            bearer(forged),
            [(b"api-key", b"sk-wrong")],
        ):
            try:
                await rig.ask(headers)
            except Unauthorized as error:
                shown = f"{error!r} {error} {error.__context__!r} {error.__cause__!r}"
                assert "sk-" not in shown
                assert forged.decode() not in shown
        shown = repr(vars(rig.it))
        assert hashlib.sha256(SECRET.encode()).hexdigest() not in shown

    with caplog.at_level(logging.DEBUG):
        run(Auth(issuer=ISSUER, jwks_uri=JWKS, api_keys=(KEY,)), scenario)
    assert "refused: signature" in caplog.text
    assert "sk-" not in caplog.text
    assert forged.decode()[:40] not in caplog.text
