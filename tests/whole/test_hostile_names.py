"""Names that are meant to break whoever shows them, from clients and from files: whatever is shown of them is sane."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from tests.process import InferGateway, eventually, run, serve, simulate
from tests.whole import raw
from tests.whole.fleet import CHAT, admin, pool, settings, written

HOSTILE = (
    'quote" back\\slash \\" {a="b"} 1',
    "line\nbreak\r\nHTTP/1.1 200 OK\r\n\r\n# HELP x y\nx 1",
    "\x1b[2J\x1b]0;owned\x07\x1bP\x9b31m",
    "nul\x00 del\x7f bell\x07",
    "\u202egnp.exe \u2066\u200b\u200d\ufeff\u2028\u2029\x85",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "日本語👩\u200d🚀🇩🇪 ﷽ שלום",
    "%s {0} ${x} $(id) `id` {{7*7}} ../../etc/passwd",
    "x" * 100_000,
    "\u0301" * 5000,
)
TOLD = HOSTILE[:8]
"""Those that fit a file's names."""
IN_HEADERS = tuple(name.encode() for name in HOSTILE if not re.search(r"[\x00\r\n]", name) and len(name) < 8000)
MODELS = 2000
SERIES = 20_000
"""Far below what two thousand names of models would come to, with a dozen buckets for each of some histograms."""
KEYS = tuple(f"sk-hostile-{at}" for at in range(len(TOLD)))


class Shown(NamedTuple):
    """A gateway that has been through it, the access log, and the usage events."""

    gateway: InferGateway
    log: Path
    usage: Path


def key(at: int, name: str) -> dict[str, object]:
    digest = hashlib.sha256(KEYS[at].encode()).hexdigest()
    return {"name": f"key {name}", "keySha256": digest, "user": name, "tenant": f"of {name}", "tier": name}


def route(at: int, name: str) -> str:
    kind = {"apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelRoute"}
    rules = [{"targetModels": [{"modelServerName": "m"}]}]
    return json.dumps({**kind, "metadata": {"name": f"r{at}"}, "spec": {"modelName": name, "rules": rules}}) + "\n---\n"


def _unpaired(document: str) -> str:
    """JSON as YAML takes it, which knows no pairs of surrogates."""
    return re.sub(r"\\ud[89ab]..\\ud[c-f]..", lambda found: json.loads(f'"{found[0]}"'), document)


def body(model: str, **more: object) -> bytes:
    return json.dumps(
        {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **more}
    ).encode()


def sent(to: socket.socket, reader: raw.Reader, payload: bytes, **fields: bytes) -> raw.Answer | None:
    lines = [b"POST /v1/chat/completions HTTP/1.1", b"host: g", b"content-type: application/json"]
    lines += [b"content-length: %d" % len(payload)]
    lines += [name.replace("_", "-").encode() + b": " + value for name, value in fields.items()]
    to.sendall(b"\r\n".join([*lines, b"", b""]) + payload)
    return reader.answer()


def one(gateway: InferGateway, payload: bytes, **fields: bytes) -> raw.Answer | None:
    """On a connection of its own: the gateway may end it. None if it does so at once."""
    with raw.connect(gateway.address) as connection, raw.Reader(connection) as reader:
        try:
            return sent(connection, reader, payload, **fields)
        except ConnectionError:
            return None


def status(answer: raw.Answer | None) -> int:
    return 0 if answer is None else answer.status


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    directory = tmp_path_factory.mktemp("hostile")
    log, usage = directory / "access.log", directory / "usage.log"
    sections = settings(
        fairness={"enabled": True, "tiers": {name: {"weight": 2} for name in TOLD[5:8]}},
        auth={"required": False, "apiKeys": [key(at, name) for at, name in enumerate(TOLD)]},
        accessLog={"requests": "all", "file": str(log)},
        usage={"file": str(usage)},
        limits=[{"match": {"user": "*", "model": "*"}, "requestsPerMinute": 1_000_000}],
    )
    with simulate("vllm", "m", "--ttft", "0.001", "--itl", "0.001") as engine:
        routes = (route(at, name) for at, name in enumerate(TOLD))
        file = written(directory, pool("m", [engine]), *map(_unpaired, (*routes, sections)))
        with serve("-c", file) as gateway:
            offend(gateway)
            yield Shown(gateway, log, usage)


def offend(gateway: InferGateway) -> None:
    for at, name in enumerate(HOSTILE):
        model = name if at < len(TOLD) else "m"
        bearer = b"Bearer " + KEYS[at % len(KEYS)].encode()
        answer = one(gateway, body(model, user=name, metadata={"k": name}), authorization=bearer)
        assert status(answer) in (200, 400), answer
        assert one(gateway, body(name)) is not None
    for value in (*IN_HEADERS, b"\xff\xfe\x80", b'"\\'):
        for field in ("x_request_id", "user_agent", "traceparent", "x_auth_user", "x_session_id"):
            one(gateway, body("m"), **{field: value})
        one(gateway, body("m"), authorization=b"Bearer " + value)
    for text in (rb"\ud800", rb"\u0000\udfff", b"\xff\xfe", rb"\u001b[2J"):
        one(gateway, b'{"model": "' + text + b'", "messages": [{"role": "user", "content": "hi"}]}')
        one(gateway, b'{"model": "m", "user": "' + text + b'", "messages": [{"role": "user", "content": "hi"}]}')
    with raw.connect(gateway.address) as connection, raw.Reader(connection) as reader:
        for at in range(MODELS):
            assert status(sent(connection, reader, body(f"made-up-{at}\n{at}"))) == 404
        assert status(sent(connection, reader, body("m"))) == 200


def asked(gateway: InferGateway, path: str, *headers: str) -> raw.Answer:
    answer = raw.exchange(admin(gateway), raw.get(path, "connection: close", *headers))
    assert answer is not None
    assert answer.status == 200, answer
    return answer


def metrics(gateway: InferGateway, accept: str) -> str:
    return asked(gateway, "/metrics", f"accept: {accept}").body.decode()


@pytest.mark.parametrize(
    ("accept", "parser"), [("text/plain", prometheus), ("application/openmetrics-text; version=1.0.0", openmetrics)]
)
def test_metrics_parse_and_are_bounded(shown: Shown, accept: str, parser: Any) -> None:
    text = metrics(shown.gateway, accept)
    samples = [sample for family in parser(text) for sample in family.samples]
    assert len(samples) < SERIES
    assert not [name for name in ("owned", "x") for sample in samples if sample.name == name]
    values = {value for sample in samples for value in sample.labels.values()}
    assert not [value for value in values if value.startswith("made-up")]
    assert max(map(len, values)) <= 1100
    assert "m" in {sample.labels.get("model") for sample in samples}
    assert any("<script>" in str(sample.labels.get("model")) for sample in samples), "a name of the file is a label"


@pytest.mark.parametrize("path", ["config", "routes", "pools", "endpoints", "flows", "decisions?limit=1000"])
def test_what_the_admin_plane_tells_is_json(shown: Shown, path: str) -> None:
    answer = asked(shown.gateway, f"/api/{path}")
    assert answer.headers["content-type"] == "application/json"
    assert not re.search(rb"[\x00-\x1f]", answer.body)
    json.loads(answer.body)
    assert len(answer.body) < 4 << 20


def test_logs_have_one_object_a_line(shown: Shown) -> None:
    with raw.connect(shown.gateway.address) as connection, raw.Reader(connection) as reader:
        assert status(sent(connection, reader, body("m"), x_request_id=b"the-last")) == 200
    for file, least in ((shown.log, MODELS), (shown.usage, len(HOSTILE))):
        assert eventually(lambda file=file: b"the-last" in file.read_bytes())
        assert file.read_bytes().endswith(b"\n")
        lines = file.read_bytes().split(b"\n")[:-1]
        assert len(lines) > least
        assert all(isinstance(json.loads(line), dict) for line in lines)
        assert not [line for line in lines if not line.decode().isprintable()], "for a terminal, too"
        assert max(map(len, lines)) < 32_768
        assert not [line for line in lines if b"sk-hostile" in line]


def test_answers_hold_no_lines_of_the_client(shown: Shown) -> None:
    """`raw.Reader` takes printable header lines only; an id that is none is replaced."""
    for value in IN_HEADERS:
        answer = one(shown.gateway, body("m"), x_request_id=value)
        if answer is not None:
            assert answer.headers["x-request-id"].isascii()
            assert answer.headers["x-request-id"].isprintable()


def test_what_the_process_says_is_lines_of_text(shown: Shown) -> None:
    assert all(line.isprintable() for line in shown.gateway.stderr.split("\n")), shown.gateway.stderr


def test_the_terminal_gets_no_controls(shown: Shown) -> None:
    url = f"http://{shown.gateway.ready['admin']}"
    with raw.connect(shown.gateway.address) as connection:
        held = body(TOLD[5], max_tokens=20_000, stream=True)
        fields = ["authorization: Bearer " + KEYS[5]]
        connection.sendall(raw.post(CHAT, held, *fields))
        assert connection.recv(1) == b"H"
        done = run("top", "--once", "--admin", url)
        told = run("top", "--json", "--admin", url)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.split("\n"):
        assert not [letter for letter in line if unicodedata.category(letter)[0] in "CM"], repr(line)
        assert not [letter for letter in line if unicodedata.bidirectional(letter) in ("R", "AL", "RLO")], repr(line)
    assert "<script>" in done.stdout
    assert told.stdout.isascii()
    assert json.loads(told.stdout)["state"]["flows"]


def test_the_gateway_is_as_well_as_before(shown: Shown) -> None:
    assert status(one(shown.gateway, body("m"))) == 200
    assert [seen["state"] for seen in json.loads(asked(shown.gateway, "/api/endpoints").body)] == ["ready"]
