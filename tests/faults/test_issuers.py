"""Servers of keys that do what none should, or that nobody vouches for: the log says why, tokens that cannot be judged
are told so, and nobody else notices.
"""

from __future__ import annotations

import json
import re
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tests.faults.crooked import Crooked, Way, cut, endless, mute, saying
from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, eventually, serve, simulate
from tests.whole import raw
from tests.whole.fleet import CHAT, pool, settings, written

KEY = rsa.generate_private_key(65537, 2048)
JWK = {**json.loads(RSAAlgorithm.to_jwk(KEY.public_key())), "kid": "k", "use": "sig"}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
ISSUER = "https://issuer.example"


def page(content: object) -> Way:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return saying(HEAD + b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body))


GOOD = page({"keys": [JWK]})


def token(**claims: object) -> str:
    said = {"iss": ISSUER, "aud": "llm", "sub": "ann", "exp": time.time() + 600, **claims}
    return jwt.PyJWS().encode(json.dumps(said).encode(), KEY, "RS256", {"kid": "k"})


class Stage(NamedTuple):
    gateway: InferGateway
    configured: Callable[[str, str], str]
    directory: Path
    authority: trustme.CA

    def reload(self, uri: str, ca_file: str = "ca.pem") -> None:
        """Its keys are fetched at once: nothing has failed there before."""
        before = self.gateway.stderr.count("configuration reloaded")
        self.configured(uri, ca_file)
        self.gateway.signal(signal.SIGHUP)
        assert eventually(lambda: self.gateway.stderr.count("configuration reloaded") > before)

    def status(self, *credentials: str) -> int:
        body = {"model": CALM, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        answer = raw.exchange(self.gateway.address, raw.post(CHAT, body, *credentials, "connection: close"))
        assert answer is not None
        return answer.status

    def judged(self) -> int:
        return self.status(f"authorization: Bearer {token()}")

    def context(self, name: str = "localhost", authority: trustme.CA | None = None, **of: datetime) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        (authority or self.authority).issue_cert(name, **of).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("issuers")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    (directory / "keys.json").write_text(json.dumps({"keys": [JWK]}))
    with simulate("vllm", "m") as calm:

        def configured(uri: str, ca_file: str) -> str:
            issuer = {"issuer": ISSUER, "audiences": ["llm"], "jwksUri": uri, "caFile": ca_file}
            return written(directory, pool(CALM, [calm]), settings(auth={"required": False, "issuers": [issuer]}))

        with serve("-c", configured((directory / "keys.json").as_uri(), "ca.pem")) as gateway:
            yield Stage(gateway, configured, directory, authority)


WAYS: dict[str, tuple[Way, str]] = {
    "cut": (cut, "cannot be asked"),
    "nothing but prefaces": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "more than 1310720 bytes"),
    "a header without an end": (endless(HEAD, b"x-a: b\r\n" * 100), "cannot be asked"),
    "a body without an end": (endless(CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"), "more than 1048576 bytes"),
    "a body in crumbs": (endless(CHUNKED, b"1\r\nx\r\n" * 1000), "more than 10000 chunks"),
    "a way to credentials": (
        saying(b"HTTP/1.1 302 T\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"),
        "answered 302",
    ),
    "come again tomorrow": (saying(b"HTTP/1.1 503 T\r\nretry-after: 86400\r\ncontent-length: 0\r\n\r\n"), "503"),
    "a page": (page(b"<html>Sign in"), "not JSON"),
    "packed": (saying(HEAD + b"content-encoding: gzip\r\ncontent-length: 9\r\n\r\n\x1f\x8b" + bytes(7)), "not JSON"),
    "lists in lists": (page(b'{"keys":' + b"[" * 400_000), "not JSON"),
    "a long number": (page(b'{"keys":[{"kty":"RSA","n":' + b"9" * 900_000 + b"}]}"), "not JSON"),
    "50,000 of none": (page({"keys": [{"kty": "RSA"}] * 50_000}), "no key"),
    "weak ones": (
        page({"keys": [{**JWK, "e": "AQ"}, {**JWK, "n": "AQAB"}, {"kty": "oct", "k": "c2VjcmV0"}]}),
        "no key",
    ),
}


def test_what_they_answer(stage: Stage) -> None:
    with Crooked(GOOD, stage.context()) as server, unharmed(stage.gateway, spare=2):
        for name, (way, why) in WAYS.items():
            server.go(way)
            _told(stage, f"https://localhost:{server.port}/{name.replace(' ', '-')}", why)
        server.go(GOOD)
        stage.reload(f"https://localhost:{server.port}/good")
        assert stage.judged() == 200
        server.go(mute)  # whose keys are known is as well as before
        assert stage.judged() == 200


def _told(stage: Stage, uri: str, why: str, ca_file: str = "ca.pem") -> None:
    before = len(stage.gateway.stderr)
    stage.reload(uri, ca_file)
    told = f"key set {re.escape(uri)} failed and is restarted: .*{why}"
    assert eventually(lambda: re.search(told, stage.gateway.stderr[before:]) is not None), (
        told,
        stage.gateway.stderr[before:],
    )
    assert stage.judged() == 503


def test_whom_nobody_vouches_for(stage: Stage) -> None:
    now = datetime.now(UTC)
    contexts = {
        "has expired": stage.context(not_before=now - timedelta(days=9), not_after=now - timedelta(days=1)),
        "not yet valid": stage.context(not_before=now + timedelta(days=1)),
        "[Hh]ostname mismatch|not valid for": stage.context("elsewhere.example"),
        "unable to get local issuer|self.signed": stage.context(authority=trustme.CA()),
    }
    with ExitStack() as stack, unharmed(stage.gateway, spare=2):
        for why, context in contexts.items():
            server = stack.enter_context(Crooked(GOOD, context))
            _told(stage, f"https://localhost:{server.port}/keys", why)


def test_authorities_that_come_later(stage: Stage) -> None:
    """Without a reload."""
    with Crooked(GOOD, stage.context()) as server, unharmed(stage.gateway, spare=2):
        trustme.CA().cert_pem.write_to_path(str(stage.directory / "later.pem"))
        _told(stage, f"https://localhost:{server.port}/later", "certificate verify failed", "later.pem")
        stage.authority.cert_pem.write_to_path(str(stage.directory / "later.pem"))
        assert eventually(lambda: stage.judged() == 200)


def test_how_tokens_are_written(stage: Stage) -> None:
    stage.reload((stage.directory / "keys.json").as_uri())
    good = token()
    with unharmed(stage.gateway):
        for credentials, status in (
            ([f"authorization: Bearer {good}"], 200),
            ([f"AUTHORIZATION: bearer {good}"], 200),
            ([f"authorization: BEARER   {good}   "], 200),
            ([f"authorization: Bearer {good}", f"authorization: Bearer {good}"], 401),
            ([f"authorization: Bearer {good}, Bearer {good}"], 401),
            ([f"authorization: Bearer {good}x"], 401),
            ([f"authorization: Bearer {good}\xe9"], 401),
            ([f"authorization: Bearer {good}.{good}"], 401),
            ([f"authorization: {good}"], 401),
            ([f"authorization: Basic {good}"], 401),
            ([f"x-api-key: {good}"], 401),
            ([f"authorization: Bearer {'e' * 20_000}.e.e"], 401),
            ([f"authorization: Bearer {token(exp=10**400)}"], 401),
            ([f"authorization: Bearer {token(exp='9999999999')}"], 401),
            ([f"authorization: Bearer {token(nbf=time.time() + 900)}"], 401),
            ([f"authorization: Bearer {token(nbf=-1)}"], 401),
            ([f"authorization: Bearer {token(aud=['other', {'llm': 1}, None])}"], 401),
            ([f"authorization: Bearer {token(aud=['other', 'llm'])}"], 200),
            ([f"authorization: Bearer {token(iss=[ISSUER])}"], 401),
            ([f"authorization: Bearer {token(sub=['ann'])}"], 401),
        ):
            assert stage.status(*credentials) == status, credentials
