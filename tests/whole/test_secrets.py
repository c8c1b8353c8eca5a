"""What is secret in a configuration is nowhere in what the admin plane tells, nor in what is logged."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import httpx
import pytest

from tests import secrets
from tests.process import Program, eventually, serve, simulate
from tests.whole.fleet import settings

MARK = "mark-0f2c9d-"
API = {"apiVersion": "networking.serving.volcano.sh/v1alpha1"}
CORE = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); "
PATHS = (
    "/", "/metrics", "/readyz", "/login", "/nothing", "/api/config", "/api/routes", "/api/pools", "/api/endpoints",
    "/api/flows", "/api/decisions", "/debug/tasks", "/debug/profile?seconds=0.2",
)  # fmt: skip


def test_no_secret_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(name: str, text: str = "") -> str:
        (tmp_path / name).write_text((text or MARK + name) + "\n")
        return str(tmp_path / name)

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={MARK}otel")
    monkeypatch.setenv("ENGINE_KEY", f"{MARK}environment")
    away = "127.0.0.1:9"
    server = {"model": "m", "inferenceEngine": "vLLM", "headers": {"x-house": f"{MARK}header"}}
    keys = {"one": {"secretRef": {"name": "s", "key": "k"}}, "two": {"keyFile": held("key")}}
    keys["three"] = {"keyEnv": "ENGINE_KEY"}
    sections = settings(
        auth={
            "required": False,
            "apiKeys": [{"name": "a", "keySha256": hashlib.sha256(f"{MARK}hashed".encode()).hexdigest(), "user": "a"}],
            "issuers": [{"issuer": "https://i", "jwksUri": f"http://{away}/keys?key={MARK}jwks", "audiences": ["a"]}],
            "oauth": {
                "introspectionUrl": f"http://{away}/ask?code={MARK}introspection",
                "clientId": "c",
                "clientSecretFile": held("client"),
            },
        },
        state={"redis": {"url": f"redis://user:{MARK}redis@{away}/0"}},
        tracing={"endpoint": f"http://{away}", "headersFile": held("headers", f"x-key={MARK}headers")},
        listeners={"admin": {"tokenFile": held("token")}},
    )
    with simulate("vllm", "m") as engine:
        pools = [
            {
                **API,
                "kind": "ModelServer",
                "metadata": {"name": name},
                "spec": {**server, "auth": auth, "endpoints": [engine.url]},
            }
            for name, auth in keys.items()
        ]
        provider = {"baseURL": f"http://{away}", "query": {"k": f"{MARK}query"}, "headers": {"x-a": f"{MARK}provider"}}
        others = [
            {**CORE, "stringData": {"k": f"{MARK}secret"}},
            {**API, "kind": "ExternalModelProvider", "metadata": {"name": "p"}, "spec": {**provider, "model": "m"}},
        ]
        rules = [{"targetModels": [{"modelServerName": name} for name in keys]}]
        route = {**API, "kind": "ModelRoute", "metadata": {"name": "m"}, "spec": {"modelName": "m", "rules": rules}}
        good = sections + "\n---\n".join(map(json.dumps, (*pools, *others, route)))
        config = Path(held("gateway.yaml", good))
        with serve("-c", str(config)) as gateway:
            shown = {"authorization": f"Bearer {MARK}token"}
            told = []
            with httpx.Client(base_url=f"http://{gateway.ready['admin']}", timeout=20, headers=shown) as client:
                body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
                asked = {"authorization": f"Bearer {MARK}caller"}
                told.append(httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=asked, timeout=20).text)
                wrong = f'"http://u:{MARK}user@x?key={MARK}asked"'
                config.write_text(good.replace(f'"http://{away}"', wrong))
                assert eventually(lambda: client.get("/api/config").json()["reloadProblems"])
                told += [client.get(path).text for path in PATHS]
                shown = client.get("/api/config").json()
                assert (shown["generation"], shown["sources"]) == (1, [{"kind": "file", "name": str(config)}])
                assert shown["settings"]["auth"]["oauth"]["introspectionUrl"] == f"http://{away}/ask?***"
                with client.stream("GET", "/api/live") as watched:
                    lines = watched.iter_lines()
                    told.append(next(line for line in lines if line.startswith("data: ")))
        told.append(gateway.log)
    for text in told:
        assert MARK not in text, text[max(0, text.index(MARK) - 200) :][:300]


@pytest.mark.parametrize(
    "said",
    [
        "key sk-ab12",
        "authorization: Bearer abcdef.123456",
        "eyJhbGciOiJI.eyJzdWIi.c2ln",
        "-----BEGIN EC PRIVATE KEY-----",
        "redis://user:word@127.0.0.1/0",
        "of the registry: kept-by-hand",
        "of the configuration: in-a-file, or by-a-variable",
        "in a header: of-a-server, of a Secret: plain-text and coded-text",
    ],
)
def test_what_looks_like_a_secret_is_one(said: str, tmp_path: Path) -> None:
    config = tmp_path / "g.yaml"
    (tmp_path / "key").write_text("in-a-file\n")
    coded = base64.b64encode(b"coded-text").decode()
    config.write_text(
        "kind: ModelServer\nspec: {auth: {keyFile: key}, headers: {x-a: of-a-server}}\n---\n"
        f"kind: Secret\nstringData: {{a: plain-text}}\ndata: {{b: {coded}}}\n---\n: broken\n"
    )
    secrets.secret("kept-by-hand")
    known = secrets.given(["-c", str(config)], {"ENGINE_KEY": "by-a-variable", "HOME": "said"})
    assert {"in-a-file", "by-a-variable", "of-a-server", "plain-text", "coded-text"} == known
    assert secrets.found(f"before {said} after", known)


@pytest.mark.parametrize(
    "said",
    [
        "Bearer ***",
        "a task-12 on a disk-34",
        "http://127.0.0.1:80/a@b",
        "redis://u:***@h",
        "eyJ.a",
        "the Bearer of news",
    ],
)
def test_what_does_not_is_none(said: str) -> None:
    assert not secrets.found(said)


@pytest.mark.parametrize("code", ["print('Bearer abcdefgh', file=sys.stderr)", "print('Bearer abcdefgh')"])
def test_a_program_that_tells_one_fails_its_test(code: str) -> None:
    with pytest.raises(AssertionError, match="tells secrets"), Program("-c", STUBBORN + code):
        pass


def test_lines_for_accounts_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "u.log").write_text("Bearer abcdefgh\n")
    (tmp_path / "g.yaml").write_text("kind: GatewayConfiguration\nusage: {file: u.log}\n")
    with pytest.raises(AssertionError, match="tells secrets"), Program("-c", STUBBORN, "-c", str(tmp_path)):
        pass
