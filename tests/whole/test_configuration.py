"""Configuration files through the program: checked, refused with the path, reloaded while it runs."""

from __future__ import annotations

import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.process import ANY_PORT, InferGateway, eventually, run, serve, simulate, together
from tests.whole import raw

ROUTE = """
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelRoute
metadata: {{name: {model}}}
spec:
  modelName: {model}
  rules:
  - targetModels: [{{modelServerName: {server}}}]
---
"""
SERVER = """
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {{name: {name}}}
spec:
  model: m
  inferenceEngine: vLLM
  endpoints: ["{url}"]
---
"""


def test_check_accepts_what_is_good(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(ROUTE.format(model="m", server="s") + SERVER.format(name="s", url="http://127.0.0.1:9"))
    done = run("check", str(good))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        (ROUTE.format(model="m", server="s").replace("targetModels", "targetModel"), "spec.rules[0]"),
        (SERVER.format(name="s", url="http://127.0.0.1:9").replace("vLLM", "wllm"), "spec.inferenceEngine"),
        ("apiVersion: infer-gateway.dev/v1alpha1\nkind: GatewayConfiguration\ndrainTimeout: soon\n", "drainTimeout"),
        ("apiVersion: infer-gateway.dev/v1alpha1\nkind: GatewayConfiguration\nfairnes: {}\n", "fairnes"),
        ("kind: [unclosed\n", "wrong.yaml"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_path(tmp_path: Path, wrong: str, path: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(wrong)
    checked = run("check", str(file))
    served = run("serve", "-c", str(file), *ANY_PORT)
    for done in (checked, served):
        said = done.stdout + done.stderr
        assert done.returncode == 1, said
        assert "wrong.yaml" in said
        assert path in said
        assert "Traceback" not in said


def test_a_missing_file_is_bad_configuration() -> None:
    done = run("check", "no/such/file.yaml")
    assert done.returncode == 1
    assert "no/such/file.yaml" in done.stderr


@pytest.fixture
def engines() -> Iterator[dict[str, str]]:
    """URLs of two engines serving the same model; the second always answers 451, which tells them apart."""
    whole, failing = simulate("vllm", "m"), simulate("vllm", "m", "--fail", "451")
    with together(whole, failing):
        yield {"whole": whole.url, "failing": failing.url}


def status(gateway: InferGateway, model: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    answer = raw.exchange(gateway.address, raw.post("/v1/chat/completions", body))
    assert answer is not None
    return answer.status


def write(directory: Path, engines: dict[str, str], routes: dict[str, str]) -> None:
    """Replace the file as editors and ConfigMap volumes do: a rename."""
    text = "".join(SERVER.format(name=name, url=url) for name, url in engines.items())
    text += "".join(ROUTE.format(model=model, server=server) for model, server in routes.items())
    (directory / "next").write_text(text)
    (directory / "next").replace(directory / "config.yaml")


@pytest.mark.parametrize("how", ["edit", "sighup"])
def test_reload_changes_the_routing(tmp_path: Path, engines: dict[str, str], how: str) -> None:
    write(tmp_path, engines, {"one": "whole"})
    with serve("-c", str(tmp_path / "config.yaml")) as gateway:
        assert (status(gateway, "one"), status(gateway, "two")) == (200, 404)
        write(tmp_path, engines, {"one": "failing", "two": "whole"})
        if how == "sighup":
            gateway.signal(signal.SIGHUP)
        assert eventually(lambda: status(gateway, "two") == 200)
        assert status(gateway, "one") == 451


def test_a_bad_reload_keeps_the_old_configuration_and_says_so(tmp_path: Path, engines: dict[str, str]) -> None:
    write(tmp_path, engines, {"one": "whole"})
    with serve("-c", str(tmp_path / "config.yaml")) as gateway:
        (tmp_path / "config.yaml").write_text("kind: ModelRoute\nspec: 7\n")
        assert eventually(lambda: "config.yaml" in gateway.stderr)
        assert status(gateway, "one") == 200
        write(tmp_path, engines, {"two": "whole"})
        assert eventually(lambda: status(gateway, "two") == 200)


def test_a_directory_of_files(tmp_path: Path, engines: dict[str, str]) -> None:
    write(tmp_path, engines, {"one": "whole"})
    with serve("-c", str(tmp_path)) as gateway:
        assert status(gateway, "one") == 200
        (tmp_path / "more.yaml").write_text(ROUTE.format(model="two", server="whole"))
        assert eventually(lambda: status(gateway, "two") == 200)


def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    def renew() -> None:
        made = authority.issue_cert("localhost")
        made.private_key_pem.write_to_path(tmp_path / "key.pem")
        (tmp_path / "cert.pem").write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))

    def serial() -> object:
        with raw.connect(gateway.address) as plain, trusting.wrap_socket(plain, server_hostname="localhost") as secure:
            return (secure.getpeercert() or {})["serialNumber"]

    renew()
    (tmp_path / "gateway.yaml").write_text(
        "{apiVersion: infer-gateway.dev/v1alpha1, kind: GatewayConfiguration,"
        " listeners: {http: {tls: {certFile: cert.pem, keyFile: key.pem}}}}"
    )
    with serve("-c", str(tmp_path / "gateway.yaml")) as gateway:
        first = serial()
        renew()
        assert eventually(lambda: serial() != first)
