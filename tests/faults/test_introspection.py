"""An authorization server that hangs, babbles or never ends: who is known goes on, who is not is told 503 in time."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.faults.crooked import Crooked, Way, endless, mute, noise, saying
from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, eventually, serve, simulate
from tests.whole import raw
from tests.whole.fleet import CHAT, pool, settings, written

ACTIVE = json.dumps({"active": True, "sub": "ann"}).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
GOOD = saying(HEAD + b"content-length: %d\r\n\r\n%b" % (len(ACTIVE), ACTIVE))
WAYS: dict[str, Way] = {
    "mute": mute,
    "noise": noise,
    "endless body": endless(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    "endless header": endless(HEAD, b"x-a: b\r\n" * 100),
    "nested": saying(HEAD + b"content-length: 100000\r\n\r\n" + b"[" * 100_000),
}


class Stage(NamedTuple):
    gateway: InferGateway
    server: Crooked

    def status(self, token: str) -> int:
        """Within `raw.DEADLINE_S`."""
        body = {"model": CALM, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        fields = (f"authorization: Bearer {token}", "connection: close")
        answer = raw.exchange(self.gateway.address, raw.post(CHAT, body, *fields))
        assert answer is not None
        return answer.status


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory: Path = tmp_path_factory.mktemp("introspection")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    (directory / "secret").write_text("a secret of tests")
    with Crooked(GOOD, context) as server, simulate("vllm", "m") as calm:
        oauth = {
            "introspectionUrl": f"https://localhost:{server.port}/",
            "clientId": "gateway",
            "clientSecretFile": "secret",
            "caFile": "ca.pem",
            "timeout": "300ms",
        }
        auth = {"required": False, "oauth": oauth}
        with serve("-c", written(directory, pool(CALM, [calm]), settings(auth=auth))) as gateway:
            yield Stage(gateway, server)


def test_who_is_asked_about_tokens_does_not_say(stage: Stage) -> None:
    assert stage.status("known") == 200
    for name, way in WAYS.items():
        stage.server.go(way)
        before = stage.server.taken

        def asked(name: str = name, before: int = before) -> bool:
            """One that failed is left alone for a while."""
            assert stage.status(f"{name.replace(' ', '')}") == 503, name
            assert stage.status("known") == 200
            return stage.server.taken > before

        with unharmed(stage.gateway):
            assert eventually(asked), name
