"""What the program writes about itself and its requests: as configured, whatever clients send, never a secret, whoever
reads it being slow or gone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from gateway.access_log import FIELDS
from protocols.extproc.messages import SERVICE
from protocols.grpc.generated.upb import inference as pb
from tests.gateway.issuing import ISSUER, Signer, key_set
from tests.process import ANY_PORT, ROOT, InferGateway, eventually, serve, simulate
from tests.whole import raw
from tests.whole.fleet import CHAT, admin, pool, settings, written

ANN = "sk-ann-0123456789"
ASK = {"model": "m", "messages": [{"role": "user", "content": "a prompt of mine"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def engine() -> Iterator[InferGateway]:
    with simulate("vllm", "m", "--ttft", "0.001", "--itl", "0.0001") as running:
        yield running


def ask(gateway: InferGateway, *headers: str, **more: object) -> raw.Answer:
    answer = raw.exchange(gateway.address, raw.post(CHAT, {**ASK, **more}, *headers))
    assert answer is not None
    return answer


def lines(text: str) -> list[dict[str, Any]]:
    """Those that are JSON."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def ids(file: Path) -> list[str]:
    return [line["id"] for line in lines(file.read_text())] if file.exists() else []


def test_the_log_is_as_configured_and_follows_the_configuration(tmp_path: Path, engine: InferGateway) -> None:
    file, other = tmp_path / "access.jsonl", tmp_path / "access.txt"

    def configured(**log: str) -> str:
        return written(tmp_path, pool("m", [engine]), settings(accessLog=log))

    with serve("-c", configured(requests="all", file=file.name)) as gateway:
        assert eventually(file.exists)
        assert ask(gateway, "x-request-id: one").status == 200
        assert ask(gateway, "x-request-id: two", model="unknown").status == 404
        assert eventually(lambda: ids(file) == ["one", "two"])
        one, two = lines(file.read_text())
        assert (one["route"], one["pool"], one["endpoint"]) == ("default/m", "default/m", engine.ready["http"])
        assert (one["status"], one["attempts"], one["tokens_out"]) == (200, 1, 3)
        assert (two["status"], two["reason"], two["model"]) == (404, "model_not_found", "unknown")

        moved = file.rename(tmp_path / "access.jsonl.1")
        gateway.signal(signal.SIGHUP)
        assert eventually(file.exists)
        ask(gateway, "x-request-id: three")
        assert eventually(lambda: ids(file) == ["three"])
        assert ids(moved) == ["one", "two"]

        configured(requests="all", format="text", file=other.name)
        gateway.signal(signal.SIGHUP)
        assert eventually(other.exists)
        ask(gateway, "x-request-id: four")
        assert eventually(lambda: bool(other.read_text()))
        words = dict(zip(FIELDS, other.read_text().rstrip("\n").split(" "), strict=True))
        assert (words["id"], words["status"], words["stream"]) == ("four", "200", "-")

        configured(requests="off")
        gateway.signal(signal.SIGHUP)
        assert eventually(lambda: gateway.stderr.count("configuration reloaded") == 3)
        ask(gateway, "x-request-id: five")
    assert "five" not in gateway.log + file.read_text() + other.read_text()
    assert not lines(gateway.log)


def test_the_command_line_has_all_requests_logged_whatever_the_file_says(tmp_path: Path, engine: InferGateway) -> None:
    file = written(tmp_path, pool("m", [engine]), settings(accessLog={"requests": "off"}))
    with serve("-c", file, "--access-log", "--log-format", "json") as gateway:
        ask(gateway, "x-request-id: one")
    *_, last = lines(gateway.log)
    assert [line["id"] for line in lines(gateway.log) if "id" in line] == ["one"]
    assert (last["level"], last["logger"]) == ("info", "infer_gateway")
    assert len(lines(gateway.log)) == len(gateway.log.splitlines())


def page(gateway: InferGateway) -> str:
    """Of metrics."""
    answer = raw.exchange(admin(gateway), raw.get("/metrics", "connection: close"))
    assert answer is not None
    return answer.body.decode()


def test_what_asked_for_nothing_is_counted_and_has_a_line_where_all_have(tmp_path: Path, engine: InferGateway) -> None:
    file, key = tmp_path / "access.jsonl", "sk-nobody-0123456789"

    def configured(**log: str) -> str:
        return written(tmp_path, pool("m", [engine]), settings(accessLog=log))

    with serve("-c", configured(requests="all", file=file.name)) as gateway:
        raw.exchange(gateway.address, raw.post(f"/v1/chat/{key}?key={key}", ASK, "x-request-id: lost"))
        raw.exchange(gateway.address, b"GET / HTTP/1.1\r\n\r\n")
        assert eventually(lambda: len(ids(file)) == 2)
        lost, broken = lines(file.read_text())
        assert (lost["id"], lost["operation"], lost["status"], lost["reason"]) == (
            "lost", "/v1/chat/sk-***", 404, "not_found",
        )  # fmt: skip
        assert (broken["status"], broken["reason"], broken["why"]) == (
            400, "malformed", "a request needs a Host field",
        )  # fmt: skip
        configured(requests="errors", file=file.name)
        gateway.signal(signal.SIGHUP)
        assert eventually(lambda: "infer_gateway_config_generation 2.0" in page(gateway))
        raw.exchange(gateway.address, raw.get("/nothing"))
        raw.exchange(gateway.address, b"GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: x, chunked\r\n\r\n")
        shown = page(gateway)
        counts = dict(re.findall(r'^infer_gateway_http_refusals_total\{reason="(\w+)"\} (\S+)$', shown, re.MULTILINE))
        assert [counts[each] for each in ("not_found", "malformed", "unsupported", "tls")] == [
            "2.0",
            "1.0",
            "1.0",
            "0.0",
        ]
        assert "infer_gateway_requests_total{" not in shown
    assert len(ids(file)) == 2


def test_why_somebody_was_refused_is_said(tmp_path: Path, engine: InferGateway) -> None:
    limits = [{"match": {"user": "ann"}, "requestsPerDay": 1}]
    key = {"name": "ann", "keySha256": hashlib.sha256(ANN.encode()).hexdigest(), "tenant": "acme"}
    log = {"requests": "all", "file": "access.jsonl"}
    more = settings(auth={"apiKeys": [key]}, limits=limits, accessLog=log)
    with serve("-c", written(tmp_path, pool("m", [engine]), more)) as gateway:
        statuses = [ask(gateway, f"authorization: Bearer {ANN}").status for _ in range(2)]
        statuses.append(ask(gateway).status)
    assert statuses == [200, 429, 401]
    _, limited, stranger = lines((tmp_path / "access.jsonl").read_text())
    assert (limited["reason"], limited["user"], limited["tenant"]) == ("rate_limited", "ann", "acme")
    assert limited["why"] == "requests per day"
    assert (stranger["reason"], stranger.get("user")) == ("unauthorized", None)


LINES = """
{"time":"t","level":"info","logger":"infer_gateway","message":"configuration reloaded"}
{"time":"t","id":"req-1","status":200,"duration":1.5,"ttft":0.25,"model":"m","endpoint":"b:1","tokens_out":5,"tenant":"a"}
{"time":"t","id":"req-2","status":503,"duration":0,"reason":"overloaded","why":"queue_full"}
{"time":"t","id":"req-3","status":429,"duration":0,"reason":"rate_limited","why":"requests per day","tenant":"a"}
{"time":"t","id":"req-4","status":200,"duration":1,"endpoint":"b:1","failures":[["a:1","upstream_error"]],"tokens_out":2}
{"time":"t","id":"req-5","status":200,"duration":1,"endpoint":"b:1","reason":"upstream_error"}
"""
SAID = [
    "overloaded",
    "a\t\trequests per day",
    "req-4\tb:1\ta:1\tupstream_error",
    "0.25\t0\tm\tb:1\treq-1",
    "t\tb:1\tupstream_error",
    "-\t2\na\t5",
    "req-1",
]


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_filters_of_the_documentation_find_what_they_say() -> None:
    block = (ROOT / "docs" / "logs.md").read_text().partition("```jq\n")[2].partition("```")[0]
    filters = [row for row in block.splitlines() if not row.startswith("#")]
    for filter_, said in zip(filters, SAID, strict=True):
        inputs = "-rn" if "inputs" in filter_ else "-r"
        done = subprocess.run(["jq", inputs, filter_], input=LINES, capture_output=True, text=True, check=True)
        rows = sorted(done.stdout.splitlines())
        assert "\n".join(rows) == said or json.loads(done.stdout)["id"] == said, filter_


# -- whoever reads it --


class Heard(InferGateway):
    """Its stderr goes where ``stderr`` says, a descriptor, or where the shell's ``redirection`` does."""

    def __init__(self, *arguments: str, stderr: int | None = None, redirection: str = "") -> None:
        super().__init__(*arguments)
        self._target = stderr
        self._redirection = redirection

    def start(self) -> Self:
        command = ["sh", "-c", f'exec "$@" {self._redirection}', "sh", sys.executable, *self.argv]
        stderr = self._log if self._target is None else self._target
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
        )
        return self


LOUD = ("--access-log", "--log-level", "debug")


def served(gateway: InferGateway, times: int = 3) -> None:
    with closing(raw.connect(gateway.address)) as connection, raw.Reader(connection) as reader:
        for _ in range(times):
            connection.sendall(raw.post(CHAT, ASK))
            answer = reader.answer()
            assert answer is not None
            assert answer.status == 200


def asked(gateway: InferGateway, path: str, *headers: str) -> raw.Answer:
    """Of the admin plane."""
    request = raw.get(path, "connection: close", *headers).replace(b"host: gateway", b"host: localhost")
    answer = raw.exchange(admin(gateway), request)
    assert answer is not None
    return answer


def metric(gateway: InferGateway, name: str) -> float:
    answer = asked(gateway, "/metrics")
    return next(float(row.split()[1]) for row in answer.body.decode().splitlines() if row.startswith(f"{name} "))


def backend(engine: InferGateway) -> tuple[str, ...]:
    return "serve", *ANY_PORT, "--backend", f"vllm={engine.url}"


def test_nobody_reads_on_after_the_first_line(engine: InferGateway) -> None:
    """`infer-gateway serve --access-log 2>&1 | head -1`"""
    with Heard(*backend(engine), "--access-log", "--log-level", "error", stderr=subprocess.STDOUT) as gateway:
        gateway.process.stdout.close()
        served(gateway)


def test_a_reader_that_stalls_holds_up_no_request_and_is_told_what_it_missed(engine: InferGateway) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with closing(os.fdopen(reader, "rb")) as said, Heard(*backend(engine), *LOUD, stderr=writer) as gateway:
        os.close(writer)
        served(gateway, 100)  # ten times what the pipe takes
        gateway.signal(signal.SIGTERM)
        received = said.read()
    assert len(lines(received.decode())) == 100
    assert received.splitlines()[-1].endswith(b"30 s at most")


def test_the_end_does_not_wait_for_a_reader_that_stalls(engine: InferGateway) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with closing(os.fdopen(reader, "rb")), Heard(*backend(engine), *LOUD, stderr=writer) as gateway:
        os.close(writer)
        served(gateway, 50)


def taken_over(gateway: InferGateway, redirection: str) -> list[str]:
    """What of the process stands where it was started with nothing."""
    closed = [{"<": "0", ">": "1"}.get(each, each) for each in re.findall(r"(2|[<>])>?&-", redirection)]
    assert len(closed) == redirection.count("&-")
    open_ = (os.readlink(f"/proc/{gateway.process.pid}/fd/{descriptor}") for descriptor in closed)
    return [to for to in open_ if to != os.devnull]


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&- <&-"])
def test_a_stderr_that_takes_nothing_stops_nothing(engine: InferGateway, redirection: str) -> None:
    with Heard(*backend(engine), *LOUD, redirection=redirection) as gateway:
        served(gateway)
        assert not taken_over(gateway, redirection)


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", ">&- 2>&-"])
def test_a_stdout_that_takes_nothing_stops_nothing(tmp_path: Path, engine: InferGateway, redirection: str) -> None:
    """Nor is what is opened in its place written to: the log's file is the first that is."""
    file = tmp_path / "access.jsonl"
    log = settings(accessLog={"requests": "all", "file": str(file)})
    with closing(raw.socket.create_server(("127.0.0.1", 0))) as free:
        address = free.getsockname()
    arguments = ("serve", "--http", "{}:{}".format(*address), "--grpc", "off", "--admin", "127.0.0.1:0")
    gateway = Heard(*arguments, "-c", written(tmp_path, pool("m", [engine]), log), redirection=redirection)
    gateway.start()
    try:
        gateway.ready["http"] = "{}:{}".format(*address)
        assert eventually(lambda: _answers(gateway), within_s=20)
        served(gateway)
        assert not taken_over(gateway, redirection)
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
    finally:
        gateway.close()
    assert len(lines(file.read_text())) == len(file.read_text().splitlines()) >= 3


def _answers(gateway: InferGateway) -> bool:
    try:
        return ask(gateway).status == 200
    except OSError:
        return False


def test_a_full_disk_costs_lines_that_are_told_of_once(tmp_path: Path, engine: InferGateway) -> None:
    log = settings(accessLog={"requests": "all", "file": "/dev/full"}, usage={"file": "/dev/full"})
    with serve("-c", written(tmp_path, pool("m", [engine]), log)) as gateway:
        served(gateway)
        for name in ("usage_events", "access_log_lines"):
            assert eventually(lambda: metric(gateway, f"infer_gateway_{name}_lost_total") == 3)  # noqa: B023
        served(gateway)
    assert gateway.log.count("No space left on device") == 2  # one each


# -- whatever is sent --

KINDS = (
    "\n2026-01-01T00:00:00.000Z ERROR forged",
    "\x1b[2J\x1b]0;title\x07",
    "\0",
    "\u2028\u202e",
    "\x9b31m",
    "%s%n{}",
)


def hostile() -> Iterator[bytes]:
    """Requests that try, each in another place."""
    for text in (*KINDS, "x" * 60_000):
        yield raw.post(CHAT, {**ASK, "model": text, "user": text})
        latin = text.encode("utf-8", "replace").decode("latin-1")
        for field in ("x-request-id", "traceparent", "user-agent", "authorization", "x-tenant", "host"):
            request = raw.post(CHAT, ASK).replace(b"\r\nhost: gateway", b"")
            head = f"\r\n{field}: {latin}\r\nconnection: close\r\n".encode("latin-1")
            yield request.replace(b"\r\n", head, 1)
        yield f"GET /{latin} HTTP/1.1\r\nhost: x\r\n\r\n".encode("latin-1")
        yield raw.post(f"/v1/{latin.replace(' ', '')}", ASK)
    yield raw.post(CHAT, b'{"model": "\\ud800", "messages": []}')
    yield raw.post(CHAT, b'{"model": "\xff\xfe", "messages": []}')


@pytest.mark.parametrize("form", ["json", "text"])
def test_whatever_clients_send_a_line_is_a_line(tmp_path: Path, engine: InferGateway, form: str) -> None:
    more = settings(accessLog={"requests": "all", "format": form, "file": "access"})
    with serve("-c", written(tmp_path, pool("m", [engine]), more), "--log-level", "debug") as gateway:
        for request in hostile():
            with raw.connect(gateway.address) as connection:
                connection.sendall(request)
                with raw.Reader(connection) as reader, suppress(ConnectionError):
                    reader.answer()
        served(gateway, 1)
    for text in ((tmp_path / "access").read_text(), gateway.log):
        assert all(row.isprintable() and len(row) <= 4096 for row in text.split("\n"))
        assert "\n2026-01-01" not in text
    told = (tmp_path / "access").read_text().splitlines()
    assert sum("model_not_found" in row for row in told) == len(KINDS) + 1
    for row in told:
        assert "status" in json.loads(row) if form == "json" else len(row.split(" ")) == len(FIELDS)


# -- secrets --


class Secrets:
    """Everything that must not be told, by what it is."""

    def __init__(self) -> None:
        now = time.time()
        self.signer = Signer()
        self.ann = ANN
        self.stranger = "stranger-key-8675309"
        self.token = self.signer.token(exp=now + 600, iat=now).decode()
        self.bad_token = self.token[:-6] + "AAAAAA"
        self.provider = "sk-provider-24681357"
        self.redis = "redis-password-97531"
        self.admin = "admin-token-1122334455"
        self.prompt = "a prompt of mine"

    def found(self, text: str) -> list[str]:
        return [name for name, value in vars(self).items() if isinstance(value, str) and value in text]


@contextmanager
def guarded(folder: Path, secrets: Secrets, engine: InferGateway, provider: InferGateway) -> Iterator[InferGateway]:
    """A gateway that knows all of them, with everything it can tell of turned on."""
    (folder / "jwks.json").write_bytes(key_set(secrets.signer.jwk()))
    (folder / "admin.token").write_text(secrets.admin)
    (folder / "admin.token").chmod(0o600)
    more = settings(
        auth={
            "apiKeys": [{"name": "ann", "keySha256": hashlib.sha256(ANN.encode()).hexdigest()}],
            "issuers": [{"issuer": ISSUER, "audiences": ["gateway"], "jwksUri": f"file://{folder}/jwks.json"}],
        },
        state={"redis": {"url": f"redis://:{secrets.redis}@127.0.0.1:1", "timeout": "10ms"}},
        limits=[{"match": {"user": "ann"}, "requestsPerDay": 1000}],
        listeners={"admin": {"tokenFile": "admin.token"}},
        accessLog={"requests": "all", "file": "access.jsonl"},
        usage={"file": "usage.jsonl"},
    )
    file = written(folder, pool("m", [engine]), more)
    arguments = (*ANY_PORT, "--ext-proc", "127.0.0.1:0", "-c", file, "--backend", f"openai={provider.url}", *LOUD)
    with InferGateway("serve", *arguments) as gateway:
        yield gateway


def over_http(gateway: InferGateway, secrets: Secrets) -> None:
    for secret in (secrets.ann, secrets.token, secrets.bad_token, secrets.stranger):
        for model in ("m", "p", "unknown", secret):
            for more in ({}, {"stream": True}, {"max_tokens": -1}, {"n": "x"}):
                ask(gateway, f"authorization: Bearer {secret}", model=model, **more)
        ask(gateway, f"x-api-key: {secret}")
        ask(gateway, f"authorization: Bearer {secrets.ann}", "x-request-id: " + secrets.token)
        for path in (f"/v1/{secrets.token}", f"/v1/models/{secrets.ann}", f"/v1/models?api_key={secret}"):
            raw.exchange(gateway.address, raw.get(path, f"authorization: Bearer {secret}", "connection: close"))
        said = {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": secrets.prompt}]}
        raw.exchange(gateway.address, raw.post("/v1/messages", said, f"x-api-key: {secret}"))
    raw.exchange(gateway.address, f"GET / HTTP/1.1\r\nauthorization: Bearer {secrets.ann}\r\n\0\r\n\r\n".encode())
    for token in (secrets.admin, secrets.stranger):
        for path in ("/metrics", "/api/config", "/nothing"):
            asked(gateway, path, f"authorization: Bearer {token}")


def over_grpc(gateway: InferGateway, secrets: Secrets) -> None:
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        call = channel.unary_unary(
            "/inference.v1.InferenceService/CreateChatCompletion",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.CreateChatCompletionResponse.FromString,
        )
        for secret in (secrets.ann, secrets.token, secrets.stranger):
            for model in ("m", "p", "unknown", secret):
                message = pb.CreateChatCompletionRequest(
                    model=model, messages=[pb.ChatMessage(role="user", text=secrets.prompt)], max_tokens=2
                )
                _failing(lambda: call(message, timeout=10, metadata=[("authorization", f"Bearer {secret}")]))  # noqa: B023


def over_ext_proc(gateway: InferGateway, secrets: Secrets) -> None:
    proxy = pytest.importorskip("tests.protocols.extproc.proxy", reason="Envoy's messages are not there")
    with grpc.insecure_channel(gateway.ready["ext_proc"]) as channel:
        call = channel.stream_stream(
            f"/{SERVICE}/Process",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=lambda data: data,
        )
        for secret in (secrets.ann, secrets.token, secrets.stranger):
            for model in ("m", "unknown"):
                fields = [(":method", "POST"), (":path", CHAT), ("authorization", f"Bearer {secret}")]
                asked = json.dumps({**ASK, "model": model}).encode()
                messages = [proxy.heads("request_headers", fields), proxy.body("request_body", asked, end=True)]
                _failing(lambda: list(call(iter(messages), timeout=10)))  # noqa: B023


def _failing(call: Any) -> None:
    """It may."""
    with suppress(grpc.RpcError):
        call()


def test_no_secret_is_told_whatever_comes_of_requests(
    tmp_path: Path, engine: InferGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = Secrets()
    monkeypatch.setenv("OPENAI_API_KEY", secrets.provider)
    with (
        simulate("openai", "p", "--api-key", "another") as provider,
        guarded(tmp_path, secrets, engine, provider) as gateway,
    ):
        over_http(gateway, secrets)
        over_grpc(gateway, secrets)
        over_ext_proc(gateway, secrets)
        gateway.signal(signal.SIGHUP)
        assert eventually(lambda: "configuration reloaded" in gateway.stderr)
    access, usage = ((tmp_path / name).read_text() for name in ("access.jsonl", "usage.jsonl"))
    told = lines(access)
    assert {line.get("protocol", "http") for line in told} == {"http", "grpc", "ext_proc"}
    assert {200, 400, 401, 503} <= {line["status"] for line in told}
    for text in (gateway.log, access, usage):
        assert secrets.found(text) == []
