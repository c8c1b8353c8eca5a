"""Who may ask for what, through the program: keys, tokens and certificates, and what changes while it runs."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from tests.gateway.issuing import ISSUER, Signer, key_set
from tests.process import ROOT, InferGateway, eventually, serve, simulate
from tests.whole.fleet import pool, settings, written

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
ANN, BOB = "sk-ann-0123456789", "sk-bob-0123456789"


def key(name: str, secret: str, *models: str) -> dict[str, object]:
    return {"name": name, "keySha256": hashlib.sha256(secret.encode()).hexdigest(), "models": models}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def token(signer: Signer, **claims: object) -> str:
    now = time.time()
    return signer.token(**{"exp": now + 600, "iat": now, **claims}).decode()


@pytest.fixture(scope="module")
def engine() -> Iterator[InferGateway]:
    with simulate("vllm", "m", "--ttft", "0.001") as running:
        yield running


def test_who_needs_no_tokens_does_not_load_what_checks_them() -> None:
    unwanted = "{'jwt', 'httpx', 'cryptography'}"
    loaded = [sys.executable, "-c", f"import sys, gateway.app; print(*{unwanted} & sys.modules.keys())"]
    assert subprocess.run(loaded, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "\n"


def test_keys_and_tokens(tmp_path: Path, engine: InferGateway) -> None:
    keys, jwks, old, new = tmp_path / "keys.json", tmp_path / "jwks.json", Signer("k1"), Signer("k2", serial="2")
    keys.write_text(json.dumps([key("bob", BOB, "open-*")]))
    jwks.write_bytes(key_set(old.jwk()))
    auth = {
        "apiKeys": [key("ann", ANN)],
        "apiKeysFile": "keys.json",
        "issuers": [{"issuer": ISSUER, "audiences": ["gateway"], "jwksUri": f"file://{jwks}"}],
    }
    file = written(tmp_path, pool("open-m", [engine]), pool("closed-m", [engine]), settings(auth=auth))
    with serve("-c", file) as gateway, httpx.Client(base_url=gateway.url) as client:

        def status(model: str, **headers: str) -> int:
            return client.post("/v1/chat/completions", json={**CHAT, "model": model}, headers=headers).status_code

        def listed(**headers: str) -> set[str]:
            return {card["id"] for card in client.get("/v1/models", headers=headers).json()["data"]}

        refused = client.post("/v1/chat/completions", content=b"not even JSON")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        assert client.get("/v1/models").status_code == 401

        assert status("closed-m", **bearer(ANN)) == status("closed-m", **{"x-api-key": ANN}) == 200
        assert status("open-m", **bearer(BOB)) == 200
        assert status("closed-m", **bearer(BOB)) == 403
        assert status("open-m", **bearer("sk-mallory-0123456789")) == 401
        assert (listed(**bearer(ANN)), listed(**bearer(BOB))) == ({"open-m", "closed-m"}, {"open-m"})
        assert client.get("/v1/models/closed-m", headers=bearer(BOB)).status_code == 404

        assert status("open-m", **bearer(token(old, models="open-*"))) == 200
        assert status("closed-m", **bearer(token(old, models="open-*"))) == 403
        for forged in (token(new), token(old, aud="other"), token(old, exp=1), token(old, sub=None)):
            assert status("open-m", **bearer(forged)) == 401

        keys.write_text(json.dumps([key("bob", BOB, "*")]))
        assert eventually(lambda: status("closed-m", **bearer(BOB)) == 200)
        jwks.write_bytes(key_set(new.jwk()))
        assert eventually(lambda: status("open-m", **bearer(token(new))) == 200)
        assert status("open-m", **bearer(token(old))) == 401
        keys.write_text("[{]")
        assert eventually(lambda: "configuration not reloaded" in gateway.stderr)
        assert status("closed-m", **bearer(BOB)) == 200
        logged = gateway.stderr
    for secret in (ANN, BOB, hashlib.sha256(ANN.encode()).hexdigest(), forged):
        assert secret not in logged


def test_a_proxy_is_known_by_its_certificate(tmp_path: Path, engine: InferGateway) -> None:
    servers, clients = trustme.CA(), trustme.CA()
    certificate = servers.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    http = {"tls": {"certFile": "cert.pem", "keyFile": "key.pem"}, "clientCAFile": "clients.pem"}
    auth = {"trustedProxies": {"subjects": ["lb.example.com"]}}
    file = written(tmp_path, pool("m", [engine]), settings(auth=auth, listeners={"http": http}))

    def status(certificate: trustme.LeafCert | None, **headers: str) -> int:
        context = ssl.create_default_context()
        servers.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        url = gateway.url.replace("http:", "https:") + "/v1/chat/completions"
        with httpx.Client(verify=context) as client:
            return client.post(url, json={**CHAT, "model": "m"}, headers=headers).status_code

    with serve("-c", file) as gateway:
        lb, other = clients.issue_cert("lb.example.com"), clients.issue_cert("other.example.com")
        assert status(lb, **{"x-auth-user": "ann"}) == 200
        assert status(lb) == 401
        assert status(lb, **{"x-auth-user": "ann", "x-auth-models": "other-*"}) == 403
        assert status(other, **{"x-auth-user": "ann"}) == 401
        assert status(None, **{"x-auth-user": "ann"}) == 401
