"""Credentials as kubeconfigs, service accounts and plugins give them; renewed, shared, and never told."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from gateway.config.document import ConfigError
from gateway.sources.kube import access, credentials
from gateway.sources.kube.access import Access
from gateway.sources.kube.client import ApiError, Client, Unreachable
from tests.gateway.sources.kube.web import Asked, Web, credential, kubeconfig, plugin, reply, server_context, serving

SECRET = "s3cr3t-t0k3n"
NOWHERE = {"server": "http://127.0.0.1:1/"}


@pytest.fixture(autouse=True)
def _outside_of_any_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "POD_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(60):
            await main()

    trio.run(bounded)


def found(*args: Any, **options: Any) -> tuple[Access, dict[str, str]]:
    async def main() -> tuple[Access, dict[str, str]]:
        here = await Access.find(*args, **options)
        return here, (await here.current()).headers()

    return trio.run(main)


def refused(*args: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        trio.run(lambda: Access.find(*args, **options))
    assert SECRET not in str(caught.value)
    return str(caught.value)


# --- where they are from


def test_a_token_of_a_kubeconfig(tmp_path: Path) -> None:
    here, headers = found(kubeconfig(tmp_path, NOWHERE, {"token": SECRET}))
    assert (here.server, here.namespace) == ("http://127.0.0.1:1", "team-a")
    assert headers == {"authorization": f"Bearer {SECRET}"}
    assert SECRET not in repr(trio.run(here.current))


def test_a_password_of_a_kubeconfig(tmp_path: Path) -> None:
    _, headers = found(kubeconfig(tmp_path, NOWHERE, {"username": "a", "password": "b"}))
    assert headers == {"authorization": "Basic YTpi"}


def test_contexts_and_lists_of_kubeconfigs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube", {"server": "http://home"}, {})
    assert found()[0].server == "http://home"
    one = kubeconfig(tmp_path, {"server": "http://one"}, {}, "one")
    two = kubeconfig(tmp_path, {"server": "http://two"}, {}, "two", "other")
    tree = json.loads(Path(two).read_text())
    tree["clusters"][0]["name"] = tree["contexts"][0]["context"]["cluster"] = "k2"
    del tree["contexts"][0]["context"]["namespace"]
    Path(two).write_text(json.dumps(tree))
    monkeypatch.setenv("KUBECONFIG", f"{one}:{tmp_path}/none:{two}")
    assert found("", "there")[0].server == "http://one"
    here = found("", "other")[0]
    assert (here.server, here.namespace) == ("http://two", "default")
    assert found(one)[0].server == "http://one"
    monkeypatch.setenv("POD_NAMESPACE", "mine")
    assert found(one)[0].namespace == "mine"


def account(folder: Path, authority: trustme.CA, token: str = SECRET) -> str:
    (folder / "token").write_text(token + "\n")
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    (folder / "namespace").write_text("pods-own")
    return str(folder)


def test_a_service_account_is_used_in_a_pod_and_read_again_when_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()

    async def answer(asked: Asked) -> bytes:
        return reply(200 if asked.headers["authorization"] == "Bearer new" else 401, {})

    async def main() -> None:
        web = Web(answer)
        async with serving(web, server_context(authority)) as url:
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", url.rpartition(":")[2])
            here = await Access.find(account=account(tmp_path, authority))
            assert (here.server, here.namespace) == (url, "pods-own")
            assert (await here.current()).headers() == {"authorization": f"Bearer {SECRET}"}
            (tmp_path / "token").write_text("new")
            async with Client(here) as client:
                await client.request("GET", "/x")
            assert len(web.seen) == 2

    run(main)


def test_a_rotated_token_is_read_before_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(access, "_LOOK_S", 0.0)

    async def main() -> None:
        here = await Access.find(account=account(tmp_path, trustme.CA()))
        assert here.server == "https://[::1]:443"
        (tmp_path / "token").write_text("new")
        assert (await here.current()).headers() == {"authorization": "Bearer new"}
        (tmp_path / "token").write_text("")
        assert (await here.current()).headers() == {"authorization": "Bearer new"}, "an empty file is no token"
        (tmp_path / "token").unlink()
        assert (await here.current()).headers() == {"authorization": "Bearer new"}

    run(main)


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
def test_a_service_account_that_is_not_whole(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    folder = account(tmp_path, trustme.CA())
    (tmp_path / missing).unlink()
    said = refused(account=folder)
    assert said.startswith(f"service account {tmp_path}: Service ")
    assert "does not exist" in said


# --- plugins


def test_a_plugins_token_is_renewed_before_it_expires_and_asked_for_once(tmp_path: Path) -> None:
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 5))
    (tmp_path / "said").write_text(credential(token="first", expirationTimestamp=soon))
    user = plugin(tmp_path, "echo x >> calls; cat said")

    async def main() -> None:
        here = await Access.find(kubeconfig(tmp_path, NOWHERE, user))
        (tmp_path / "said").write_text(credential(token="second", expirationTimestamp=soon))
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(here.current)
        assert (await here.current()).headers() == {"authorization": "Bearer second"}
        first, calls = await here.current(), (tmp_path / "calls").read_text()
        assert calls.count("x") == 2
        assert not await here.renew(first), "just renewed, and refused all the same"
        assert (tmp_path / "calls").read_text() == calls

    run(main)


def test_many_refusals_ask_a_plugin_once(tmp_path: Path) -> None:
    (tmp_path / "said").write_text(credential(token="first"))
    user = plugin(tmp_path, "echo x >> calls; cat said")

    async def answer(asked: Asked) -> bytes:
        return reply(200 if asked.headers["authorization"] == "Bearer second" else 401, {"kind": "Status"})

    async def main() -> None:
        web = Web(answer)
        async with serving(web) as url:
            here = await Access.find(kubeconfig(tmp_path, {"server": url}, user))
            (tmp_path / "said").write_text(credential(token="second"))
            async with Client(here) as client, trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(client.request, "GET", "/x")
        assert (tmp_path / "calls").read_text().count("x") == 2

    run(main)


def test_a_plugins_certificate(tmp_path: Path) -> None:
    authority, people = trustme.CA(), trustme.CA()
    leaf = people.issue_cert("me@example.org", common_name="me")
    said = credential(
        clientCertificateData=leaf.cert_chain_pems[0].bytes().decode(),
        clientKeyData=leaf.private_key_pem.bytes().decode(),
    )
    (tmp_path / "said").write_text(said)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def answer(asked: Asked) -> bytes:
        return reply(200, {"authorization": asked.headers.get("authorization", "")})

    async def main() -> None:
        web = Web(answer)
        async with serving(web, server_context(authority, clients=people)) as url:
            cluster = {"server": url, "certificate-authority": "ca.pem"}
            here = await Access.find(kubeconfig(tmp_path, cluster, plugin(tmp_path, "cat said")))
            async with Client(here) as client:
                assert (await client.request("GET", "/x")).json() == {"authorization": ""}

    run(main)


@pytest.mark.parametrize(
    ("does", "words"),
    [
        (f"echo {SECRET}; echo {SECRET} >&2; exit 3", "exec: process returned 3"),
        (f"echo {SECRET}", "exec: failed to decode process output"),
        ("echo '{}'", "exec: malformed response. missing key 'apiVersion'"),
        (f"echo '{credential(other=SECRET)}'", "exec: missing token or clientCertificateData"),
        (f"echo '{credential(clientCertificateData=SECRET)}'", "exec: missing clientKeyData"),
        (f"echo '{credential(token=SECRET + chr(233))}'", "holds what no header can"),
    ],
)
def test_a_plugin_that_fails_is_told_without_what_it_said(
    does: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refused(kubeconfig(tmp_path, NOWHERE, plugin(tmp_path, does)))
    assert words in said
    assert said.startswith(f"kubeconfig {tmp_path}/config: ")
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


def test_a_plugin_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_PATIENCE_S", 2.0)
    said = refused(kubeconfig(tmp_path, NOWHERE, plugin(tmp_path, "echo $$ > pid; exec sleep 1000")))
    assert "no credentials within 2 s" in said
    assert gone(int((tmp_path / "pid").read_text()))


def test_cancelling_ends_a_plugin(tmp_path: Path) -> None:
    name = kubeconfig(tmp_path, NOWHERE, plugin(tmp_path, "echo $$ > begun; exec sleep 1000"))
    os.mkfifo(tmp_path / "begun")
    pids: list[int] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Access.find, name)
            pids.append(int(await trio.to_thread.run_sync((tmp_path / "begun").read_text, abandon_on_cancel=True)))
            nursery.cancel_scope.cancel()

    run(main)
    assert gone(pids[0])


def gone(pid: int) -> bool:
    """Killed; whose child it was may not have noticed yet."""
    for _ in range(1000):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_a_plugin_that_fails_later_leaves_what_there_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    past = "2020-01-01T00:00:00Z"
    (tmp_path / "said").write_text(credential(token="first", expirationTimestamp=past))
    user = plugin(tmp_path, "cat said")

    async def answer(asked: Asked) -> bytes:
        return reply(401, {"kind": "Status", "reason": "Unauthorized", "message": "expired"})

    async def main() -> None:
        web = Web(answer)
        async with serving(web) as url:
            here = await Access.find(kubeconfig(tmp_path, {"server": url}, user))
            (tmp_path / "said").write_text(SECRET)
            assert (await here.current()).headers() == {"authorization": "Bearer first"}
            assert (await here.current()).headers() == {"authorization": "Bearer first"}
            async with Client(here) as client:
                with pytest.raises(ApiError, match="401 Unauthorized"):
                    await client.request("GET", "/x")
            here._asked = -math.inf
            with pytest.raises(Unreachable, match=r"no others: its plugin gave .* exec: failed to decode"):
                await here.renew(here._credentials)

    with caplog.at_level(logging.WARNING):
        run(main)
    assert len([record for record in caplog.records if "cannot be renewed" in record.getMessage()]) == 1
    assert SECRET not in caplog.text


# --- certificates


def test_certificates_in_files_are_read_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_LOOK_S", 0.0)
    first, second = trustme.CA(), trustme.CA()
    first.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    cluster = {"server": "https://127.0.0.1:1", "certificate-authority": "ca.pem"}

    async def main() -> None:
        here = await Access.find(kubeconfig(tmp_path, cluster, {"token": "t"}))
        before = await here.current()
        assert before.tls.authorities == first.cert_pem.bytes().decode()
        assert await here.current() is before
        second.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        assert (await here.current()).tls.authorities == second.cert_pem.bytes().decode()

    run(main)


def test_new_authorities_are_found_when_the_old_ones_no_longer_vouch(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    first.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def answer(asked: Asked) -> bytes:
        return reply(200, {})

    async def main() -> None:
        web = Web(answer)
        async with serving(web, server_context(second)) as url:
            cluster = {"server": url, "certificate-authority": "ca.pem"}
            here = await Access.find(kubeconfig(tmp_path, cluster, {"token": "t"}))
            second.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
            async with Client(here) as client:
                await client.request("GET", "/x")
        assert len(web.seen) == 1

    run(main)


def test_what_a_cluster_says_of_tls(tmp_path: Path) -> None:
    cluster = {"server": "https://x:1", "insecure-skip-tls-verify": True, "tls-server-name": "api"}
    tls = trio.run(found(kubeconfig(tmp_path, cluster, {}))[0].current).tls
    assert (tls.insecure, tls.server_name, tls.authorities, tls.proxy) == (True, "api", "", "")
    cluster = {"server": "https://x:1", "proxy-url": "http://proxy:3128"}
    assert trio.run(found(kubeconfig(tmp_path, cluster, {}))[0].current).tls.proxy == "http://proxy:3128"


# --- what is refused


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({**NOWHERE, "proxy-url": "socks5://x"}, {}, "proxies of socks5:// (proxy-url) are not supported"),
        ({"server": "https://x", "proxy-url": "http://x", "tls-server-name": "y"}, {}, "tls-server-name"),
        ({}, {}, "its cluster names no server"),
        (NOWHERE, {"token": SECRET, "as": "admin"}, "impersonates another"),
        (NOWHERE, {"exec": {"command": "./none", "apiVersion": "v1"}}, "No such file or directory: './none'"),
        (NOWHERE, {"exec": {"env": [{"name": "T", "value": SECRET}]}}, "missing key 'command'"),
        (NOWHERE, {"auth-provider": {"name": "oidc", "config": {"refresh-token": SECRET}}}, "Expected key id-token"),
        ({"server": "https://x", "certificate-authority": "none.pem"}, {}, "File does not exist: "),
        (NOWHERE, {"tokenFile": "none"}, "none: No such file"),
    ],
)
def test_kubeconfigs_that_cannot_be_used(
    cluster: dict[str, Any], user: dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in refused(kubeconfig(tmp_path, cluster, user))


def test_what_is_named_and_is_not_there(tmp_path: Path) -> None:
    name = kubeconfig(tmp_path, NOWHERE, {"token": SECRET})
    assert f"kubeconfig {tmp_path}/none: there is no such file; name one by --kubeconfig" in refused(f"{tmp_path}/none")
    assert "kubeconfig ~/.kube/config: there is no such file" in refused()
    said = refused(name, "elsewhere")
    assert said == f'kubeconfig {name}, context "elsewhere": Expected object with name elsewhere in contexts'
    Path(name).write_text(f"users:\n- token: {SECRET}\n  - [")
    assert "line 3 is not YAML" in refused(name)
    Path(name).write_text(SECRET)
    assert "it cannot be used" in refused(name)


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setattr(access.importlib.util, "find_spec", lambda name: None)
    assert refused() == "--kubernetes needs the official client: pip install 'infer-gateway[kubernetes]'"


def test_the_client_is_not_imported_here(tmp_path: Path) -> None:
    code = (
        "import sys, trio; from gateway.sources.kube.access import Access; "
        f"trio.run(Access.find, {kubeconfig(tmp_path, NOWHERE, {})!r}); "
        "assert not [name for name in sys.modules if name.split('.')[0] in ('kubernetes', 'urllib3')]"
    )
    assert trio.run(trio.run_process, [sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (f"exec: process returned 1. {SECRET}", "exec: process returned 1"),
        (
            f"Invalid kube-config file. Expected key id-token in /c/{{'token': '{SECRET}'}}/user/auth-provider/config",
            "Expected key id-token",
        ),
        (
            "Invalid kube-config file. Expected object with name a in /c/contexts list",
            "Expected object with name a in contexts",
        ),
        (SECRET, ""),
    ],
)
def test_what_may_be_told_of_the_clients_words(message: str, told: str) -> None:
    assert credentials.harmless(message) == told
