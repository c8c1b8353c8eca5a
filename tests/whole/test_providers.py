"""Hosted providers through the program: their rations are kept to, their keys come from the environment, deployments
are asked where they are.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process import run, serve, simulate, together

KEY = "sk-of-the-provider"
API = "apiVersion: networking.serving.volcano.sh/v1alpha1"
PROVIDER = API + "\nkind: ExternalModelProvider\nmetadata: {{name: {0}}}\nspec: {{baseURL: '{1}', model: m{2}}}\n---\n"
ROUTE = (
    API + "\nkind: ModelRoute\nmetadata: {{name: m}}\nspec: {{modelName: m, rules: [{{targetModels: [{0}]}}]}}\n---\n"
)


def ask(url: str, model: str = "m") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)


def test_a_ration_that_is_used_up_sends_requests_to_the_rules_other_target(tmp_path: Path) -> None:
    scarce, ample = simulate("openai", "m", "--rate-limit-requests", "3"), simulate("openai", "m")
    targets = "{externalModelProviderName: scarce, weight: 1}, {externalModelProviderName: ample, weight: 0}"
    with together(scarce, ample):
        file = tmp_path / "gateway.yaml"
        written = PROVIDER.format("scarce", scarce.url, "") + PROVIDER.format("ample", ample.url, "")
        file.write_text(written + ROUTE.format(targets))
        with serve("-c", str(file)) as gateway:
            answers = [ask(gateway.url) for _ in range(6)]
        seen = [httpx.get(f"{each.url}/sim/state").json() for each in (scarce, ample)]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert not any(name.startswith("x-ratelimit") for answer in answers for name in answer.headers)
    assert [each["requests"] for each in seen] == [3, 3]  # the fourth was not even tried there
    assert seen[0]["refused"] == 0


@pytest.mark.parametrize("key", [KEY, "sk-another"])
def test_a_backends_key_is_the_providers_own_variable(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with simulate("openai", "m", "--api-key", KEY) as provider:
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with serve("--backend", f"openai={provider.url}") as gateway:
            answer = ask(gateway.url)
            shown = httpx.get(f"http://{gateway.ready['admin']}/api/config", timeout=30).text
            assert key not in gateway.stderr + shown + answer.text
    assert answer.status_code == (200 if key == KEY else 503)


def test_check_names_a_variable_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(PROVIDER.format("p", "https://p", ", auth: {keyEnv: INFER_GATEWAY_NOT_SET}"))
    done = run("check", str(file))
    assert done.returncode == 1
    assert (
        "(ExternalModelProvider/p): $.spec.auth.keyEnv: the environment variable INFER_GATEWAY_NOT_SET is not set"
        in (done.stderr)
    )


class Azure(BaseHTTPRequestHandler):
    """Notes where it was asked, and with what."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, dict[str, str], dict[str, Any]]]

    def log_message(self, format: str, *args: object) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
        answer = {"id": "a", "object": "chat.completion", "created": 5, "model": "gpt", "choices": [choice]}
        payload = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


@contextmanager
def azure() -> Iterator[str]:
    Azure.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Azure) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_deployment_is_asked_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_KEY", KEY)
    with azure() as url:
        more = ", apiVersion: 2024-10-21, query: {tenant: t 1}, auth: {keyEnv: AZURE_KEY}"
        file = tmp_path / "gateway.yaml"
        file.write_text(PROVIDER.format("azure", url, more) + ROUTE.format("{externalModelProviderName: azure}"))
        with serve("-c", str(file)) as gateway:
            answer = ask(gateway.url)
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "hello")
    ((path, fields, body),) = Azure.asked
    assert path == "/openai/deployments/m/chat/completions?tenant=t%201&api-version=2024-10-21"
    assert (fields["api-key"], "authorization" in fields) == (KEY, False)
    assert body["model"] == "m"
