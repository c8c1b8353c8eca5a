"""The admin plane of a whole gateway: who is let in, what is shown, and that watchers hold nobody up."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole.fleet import settings, written

TOKEN = "a token that nobody guesses"
HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31m\u202e"
BROWSER = {"accept": "text/html,*/*"}


@pytest.fixture
def engine() -> Iterator[InferGateway]:
    with simulate("vllm", HOSTILE) as running:
        yield running


def base(gateway: InferGateway) -> str:
    return f"http://{gateway.ready['admin']}"


def events(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def guarded(folder: Path, engine: InferGateway) -> InferGateway:
    (folder / "token").write_text(TOKEN + "\n")
    sections = settings(listeners={"admin": {"tokenFile": str(folder / "token")}})
    return serve("--backend", f"vllm={engine.url}", "-c", written(folder, sections))


def test_a_token_opens_the_door_and_its_successor_shuts_it(engine: InferGateway, tmp_path: Path) -> None:
    with guarded(tmp_path, engine) as gateway, httpx.Client(base_url=base(gateway), timeout=20) as client:
        own = {"origin": base(gateway)}
        assert client.get("/readyz").status_code == 200
        refused = client.get("/api/config")
        assert (refused.status_code, refused.headers["www-authenticate"].split()[0]) == (401, "Bearer")
        assert client.get("/metrics").status_code == 401
        page = client.get("/", headers=BROWSER)
        assert (page.status_code, "password" in page.text) == (401, True)
        assert client.post("/login", data={"token": "no"}, headers=own).status_code == 401
        assert (
            client.post("/login", data={"token": TOKEN}, headers={"origin": "http://evil.example"}).status_code == 403
        )
        shown = {"authorization": f"Bearer {TOKEN}"}
        answer = client.get("/api/config", headers=shown)
        assert answer.status_code == 200
        assert TOKEN not in answer.text
        assert client.post("/login", data={"token": TOKEN}, headers=own).headers["location"] == "/"
        page = client.get("/", headers=BROWSER)
        assert (page.status_code, page.headers["cache-control"]) == (200, "no-cache")
        assert client.get("/", headers={"if-none-match": page.headers["etag"]}).status_code == 304
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        drain = f"/api/endpoints/{engine.ready['http']}/drain"
        for headers in (
            {},
            {"origin": "null"},
            {**own, "sec-fetch-site": "cross-site"},
            {"origin": "http://localhost:1"},
        ):
            assert client.post(drain, headers=headers).status_code == 403
            assert client.delete(drain, headers=headers).status_code == 403
        for ask, state in ((client.post, "draining"), (client.delete, "ready")):
            assert ask(drain, headers=own).status_code == 200
            assert {each["state"] for each in client.get("/api/endpoints").json()} == {state}
        with client.stream("GET", "/api/live") as watched:
            told = events(watched)
            assert next(told)[0] == "hello"
            (tmp_path / "token").write_text("the next one is as long")
            list(told)  # it ends
        assert client.get("/api/config").status_code == 401
        assert client.get("/api/config", headers=shown).status_code == 401
        assert client.post("/logout", headers=own).headers["location"] == "/login"
        assert not client.cookies
    assert TOKEN not in gateway.log


def test_names_that_may_be_pointed_here_and_other_methods_are_refused(engine: InferGateway) -> None:
    with serve("--backend", f"vllm={engine.url}") as gateway, httpx.Client(base_url=base(gateway)) as client:
        port = base(gateway).rpartition(":")[2]
        for host, status in (("evil.example", 421), (f"localhost:{port}", 200), ("[::1]", 200), ("127.0.0.1", 200)):
            assert client.get("/api/config", headers={"host": host}).status_code == status
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            answer = client.request(method, "/api/config")
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        unread = client.post("/api/endpoints/x/drain", content=b"x" * 70_000)
        assert unread.status_code in (404, 413)
        assert unread.headers["connection"] == "close"
        for path in ("/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/../app.py", "/static/app.py"):
            assert client.get(path).status_code == 404
        stacks = client.get("/debug/profile?seconds=0.2&hz=200").text
        assert "main (gateway/cli.py" in stacks
        assert client.get("/debug/profile?seconds=0.1&format=speedscope").json()["profiles"][0]["weights"]
        for query in ("seconds=61", "seconds=0", "seconds=x", "hz=nan", "format=exe"):
            assert client.get(f"/debug/profile?{query}").status_code == 400
        tree = client.get("/debug/tasks")
        assert "Scrapes.run" in tree.text
        assert tree.json()["left_out"] == 0
    assert "admin listener" not in gateway.log


def test_watchers_see_what_happens_and_hold_up_nobody(engine: InferGateway) -> None:
    with (
        serve("--backend", f"vllm={engine.url}") as gateway,
        httpx.Client(base_url=base(gateway), timeout=20) as client,
    ):
        body = {"model": HOSTILE, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "user": HOSTILE}
        with client.stream("GET", "/api/live") as watched:
            told = events(watched)
            name, hello = next(told)
            assert name == "hello"
            (endpoint,) = hello["state"]["endpoints"]
            assert (endpoint["id"], endpoint["engine"]) == (engine.ready["http"], "vllm")
            assert httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=20).status_code == 200
            state = next(state for _, state in told if state["totals"]["rps"])
            assert state["decisions"][0]["model"] == HOSTILE
            assert HOSTILE in state["routes"][0]["match"]
            assert state["totals"]["ttft_p50"] is None or state["totals"]["ttft_p50"] > 0
            with client.stream("GET", "/api/live") as idle:
                gateway.signal(signal.SIGTERM)
                assert [name for name, _ in told if name != "state"] == []
                idle.read()  # whole, too
        assert gateway.wait(5) == 0


def test_listens_with_tls_and_takes_renewed_certificates(tmp_path: Path) -> None:
    import ssl

    import trustme

    first, second = trustme.CA(), trustme.CA()

    def issue(authority: trustme.CA) -> None:
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))

    def answers(authority: trustme.CA) -> bool:
        trusted = ssl.create_default_context()
        authority.configure_trust(trusted)
        port = gateway.ready["admin"].rpartition(":")[2]
        try:
            return httpx.get(f"https://localhost:{port}/healthz", verify=trusted).status_code == 200
        except httpx.ConnectError:
            return False

    issue(first)
    files = {"certFile": str(tmp_path / "cert.pem"), "keyFile": str(tmp_path / "key.pem")}
    config = written(tmp_path, settings(listeners={"admin": {"tls": files}}))
    with serve("-c", config) as gateway, together():
        assert answers(first)
        assert not answers(second)
        issue(second)
        gateway.signal(signal.SIGHUP)
        assert eventually(lambda: answers(second))
