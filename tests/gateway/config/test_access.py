"""The `auth` section: everything it can say, and what it must not."""

from __future__ import annotations

import hashlib
import json

import pytest

from gateway.config.access import Auth, Claims, Issuer, OAuth, file_of
from gateway.config.decode import Duration
from gateway.config.document import ConfigError
from gateway.config.settings import HttpListener
from tests.gateway.config.test_load import configuration, loaded, problems

SHA = hashlib.sha256(b"sk-one").hexdigest()
OTHER = hashlib.sha256(b"sk-two").hexdigest()
WHOLE = f"""
listeners: {{http: {{tls: {{certFile: c.pem, keyFile: k.pem}}, clientCAFile: clients.pem}}}}
auth:
  issuer: https://a.example.com
  audiences: [gateway]
  jwksUri: https://a.example.com/jwks
  claims: {{user: email, models: llm.models}}
  leeway: 30s
  issuers:
  - issuer: https://b.example.com
    audiences: ["", g]
    jwksUri: file:///etc/b/jwks.json
    claims: {{tenant: "https://b.example.com/tenant"}}
    caFile: b.pem
    userPrefix: "b:"
  apiKeys: [{{name: ci, keySha256: {SHA}}}]
  apiKeysFile: keys.yaml
  oauth:
    introspectionUrl: https://c.example.com/i
    clientId: gw
    clientSecretFile: secret
    claims: {{user: username}}
    cacheTime: 2m
    timeout: 1s
    caFile: c-ca.pem
  trustedProxies:
    cidrs: [10.0.0.0/8, "fd00::/8"]
    subjects: ["spiffe://cluster/ingress"]
    headers: {{user: X-User, models: ""}}
  required: false
"""
FILES = {
    **dict.fromkeys(("c.pem", "k.pem", "clients.pem", "b.pem", "c-ca.pem", "secret", "/etc/b/jwks.json"), b"x"),
    "keys.yaml": f"- {{name: other, keySha256: {OTHER}, models: ['a-*'], tier: gold}}\n".encode(),
}


def test_the_whole_section() -> None:
    snapshot = loaded(configuration(WHOLE), FILES)
    auth = snapshot.settings.auth
    a, b = auth.believed
    assert a == Issuer(
        issuer="https://a.example.com",
        audiences=("gateway",),
        jwks_uri="https://a.example.com/jwks",
        claims=Claims(user="email", models="llm.models"),
        leeway=Duration(30),
    )
    assert (b.audiences, b.claims.tenant, b.leeway, b.ca_file) == (("g",), "https://b.example.com/tenant", 60, "b.pem")
    assert [(key.name, key.tier, key.models) for key in auth.api_keys] == [("ci", "", ()), ("other", "gold", ("a-*",))]
    assert auth.oauth is not None
    assert (auth.oauth.claims.user, auth.oauth.cache_time) == ("username", 120)
    assert auth.trusted_proxies is not None
    assert auth.trusted_proxies.headers.tenant == "x-auth-tenant"
    assert (auth.configured, auth.enforced) == (True, False)
    assert not snapshot.warnings
    assert set(snapshot.files) == set(FILES)


def test_files_are_seen_from_their_document() -> None:
    files = {name if name.startswith("/") else f"conf/{name}": content for name, content in FILES.items()}
    snapshot = loaded(configuration(WHOLE), files, "conf")
    assert set(snapshot.files) == set(files)
    assert len(snapshot.settings.auth.api_keys) == 2


def test_no_digest_is_shown() -> None:
    snapshot = loaded(configuration(WHOLE), FILES)
    for shown in (repr(snapshot), json.dumps(snapshot.public())):
        assert SHA not in shown
        assert OTHER not in shown


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"- {name: a}", 'keys.yaml: $[0]: missing required field "keySha256"'),
        (b"- {name: a, keySha256: zz}", "keys.yaml: $[0].keySha256: expected 64 lower-case hexadecimal digits"),
        (b"apiKeys: []", "keys.yaml: $: expected an array, got object"),
        (b"- [", "keys.yaml, line 2"),
        (f"- {{name: x, keySha256: {SHA}}}".encode(), "keys.yaml: a name or a key is given twice"),
        (f"- {{name: ci, keySha256: {OTHER}}}".encode(), "keys.yaml: a name or a key is given twice"),
    ],
)
def test_a_broken_file_of_keys(content: bytes, told: str) -> None:
    text = configuration(f"auth: {{apiKeys: [{{name: ci, keySha256: {SHA}}}], apiKeysFile: keys.yaml}}")
    with pytest.raises(ConfigError) as caught:
        loaded(text, {"keys.yaml": content})
    assert str(caught.value).startswith(told)
    assert SHA not in str(caught.value)
    assert OTHER not in str(caught.value)


def test_files_that_are_missing_are_told_once() -> None:
    told = problems(configuration("auth: {apiKeysFile: keys.yaml, issuer: i, jwksUri: 'file:///none'}"))
    assert told == [
        "document 1 (GatewayConfiguration): $.auth.apiKeysFile: cannot read keys.yaml: No such file or directory",
        "document 1 (GatewayConfiguration): $.auth.jwksUri: cannot read /none: No such file or directory",
    ]


def test_a_missing_key_set_is_told_where_it_is_named() -> None:
    issuers = "[{issuer: a, jwksUri: 'https://x/j'}, {issuer: b, jwksUri: 'file:///none'}]"
    told = problems(configuration(f"auth: {{issuers: {issuers}}}"))
    place = "document 1 (GatewayConfiguration): $.auth.issuers[1].jwksUri"
    assert told == [f"{place}: cannot read /none: No such file or directory"]


def test_an_empty_file_of_keys_lets_nobody_in() -> None:
    auth = loaded(configuration("auth: {apiKeysFile: keys.yaml}"), {"keys.yaml": b"[]"}).settings.auth
    assert auth.api_keys == ()
    assert auth.configured
    assert auth.enforced


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("issuers: [{issuer: a}]", '$.auth.issuers[0]: missing required field "jwksUri"'),
        ("issuers: [{issuer: '', jwksUri: 'https://x/j'}]", "$.auth.issuers[0].issuer: expected str of length >= 1"),
        ("issuers: [{issuer: a, jwksUri: 'http://x/j'}]", "$.auth.issuers[0].jwksUri: expected an https or file URL"),
        ("issuers: [{issuer: a, jwksUri: 'file://x/j'}]", "$.auth.issuers[0].jwksUri: expected an https or file URL"),
        ("issuers: [{issuer: a, jwksUri: 'file:j'}]", "$.auth.issuers[0].jwksUri: expected an https or file URL"),
        ("issuers: [{issuer: a, jwksUri: 'https://u:p@x/j'}]", "$.auth.issuers[0].jwksUri: expected an https"),
        ("issuers: [{issuer: a, jwksUri: 'https://x:0/j'}]", "$.auth.issuers[0].jwksUri: expected an https"),
        (
            "issuers: [{issuer: a, jwksUri: 'https://x/j'}, {issuer: a, jwksUri: 'https://y/j'}]",
            "$.auth.issuers[1].issuer: given twice",
        ),
        (
            "issuer: a, jwksUri: 'https://x/j', issuers: [{issuer: a, jwksUri: 'https://y/j'}]",
            "$.auth.issuers[0].issuer: given twice: auth.issuer is the same",
        ),
        ("issuer: a", "$.auth.jwksUri: needed with issuer"),
        ("audiences: [a]", "$.auth.jwksUri: needed with issuer, audiences"),
        ("claims: {user: email}", "$.auth.jwksUri: needed with issuer, audiences, claims"),
        ("leeway: 1s", "$.auth.jwksUri: needed with issuer, audiences, claims or leeway"),
        ("leeway: 1h", "$.auth.leeway: at most 10m"),
        ("issuers: [{issuer: a, jwksUri: 'https://x/j', leeway: 1h}]", "$.auth.issuers[0].leeway: at most 10m"),
        ("claims: {user: ''}", "$.auth.claims.user: expected str of length >= 1"),
        ("trustedProxies: {}", "$.auth.trustedProxies: neither cidrs nor subjects"),
        ("trustedProxies: {cidrs: [10.0.0.1/8]}", "$.auth.trustedProxies.cidrs[0]: expected a network such as"),
        ("trustedProxies: {cidrs: [proxy]}", "$.auth.trustedProxies.cidrs[0]: expected a network such as"),
        ("trustedProxies: {subjects: ['']}", "$.auth.trustedProxies.subjects[0]: expected str of length >= 1"),
        (
            "trustedProxies: {cidrs: [10.0.0.0/8], headers: {user: 'x user'}}",
            "$.auth.trustedProxies.headers.user: not the name of a header field",
        ),
        (
            "trustedProxies: {cidrs: [10.0.0.0/8], headers: {tier: Authorization}}",
            "$.auth.trustedProxies.headers.tier: Authorization has a meaning of its own",
        ),
        (
            "oauth: {introspectionUrl: 'https://x', clientId: a, clientSecretFile: s, cacheTime: 2h}",
            "$.auth.oauth.cacheTime: at most 1h",
        ),
        (
            "oauth: {introspectionUrl: 'https://x', clientId: a, clientSecretFile: s, timeout: 2m}",
            "$.auth.oauth.timeout: at most 1m",
        ),
        (
            "oauth: {introspectionUrl: 'file:///x', clientId: a, clientSecretFile: s}",
            "$.auth.oauth.introspectionUrl: expected an https URL",
        ),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    (problem,) = problems(configuration(f"auth: {{{text}}}"), {"s": b"x"})
    assert problem.removeprefix("document 1 (GatewayConfiguration): ").startswith(told)


def test_headers_of_one_proxy_field_are_told_apart() -> None:
    text = "auth: {trustedProxies: {cidrs: [10.0.0.0/8], headers: {user: x-auth-tier}}}"
    assert (
        "$.auth.trustedProxies.headers.tier: x-auth-tier says something else already"
        in problems(configuration(text))[0]
    )


def test_certificates_need_tls() -> None:
    text = "listeners: {http: {clientCAFile: ca.pem}}"
    assert "$.listeners.http.clientCAFile: needs tls" in problems(configuration(text), {"ca.pem": b"x"})[0]
    assert HttpListener().client_ca_file is None


def test_what_is_probably_not_meant() -> None:
    text = "auth: {issuer: a, jwksUri: 'https://x/j', trustedProxies: {subjects: [lb]}}"
    open_audience, unseen = loaded(configuration(text)).warnings
    assert "$.auth.audiences: none for a" in open_audience
    assert "$.auth.trustedProxies.subjects: nobody is asked for a certificate" in unseen


@pytest.mark.parametrize(
    ("auth", "configured", "enforced"),
    [
        (Auth(), False, False),
        (Auth(required=False), False, False),
        (Auth(audiences=("",)), False, False),
        (Auth(issuer="a", jwks_uri="https://x/j"), True, True),
        (Auth(issuers=(Issuer(issuer="a", jwks_uri="https://x/j"),)), True, True),
        (
            Auth(oauth=OAuth(introspection_url="https://x", client_id="a", client_secret_file="s"), required=False),
            True,
            False,
        ),
    ],
)
def test_who_is_let_in(auth: Auth, configured: bool, enforced: bool) -> None:
    assert (auth.configured, auth.enforced) == (configured, enforced)


def test_files_of_uris() -> None:
    assert file_of("file:///a/b%20c.json") == "/a/b c.json"
    assert file_of("https://x/a") == ""
