"""Starting, refusing to start, and stopping: exit codes and what is said."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.load import gone
from tests.gateway.test_stdio import fill
from tests.process import ANY_PORT, ROOT, InferGateway, Program, eventually, run, serve, simulate
from tests.whole import raw
from tests.whole.conftest import ENGINES


@pytest.fixture
def full() -> Iterator[int]:
    """The end of a pipe that nobody reads and that has no room left."""
    reader, writer = os.pipe()
    fill(writer)
    yield writer
    os.close(reader)
    os.close(writer)


STREAM = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.mark.parametrize("spelling", ["version", "--version"])
def test_version(spelling: str) -> None:
    done = run(spelling)
    assert done.returncode == 0
    assert re.search(r"\d+\.\d+\.\d+", done.stdout)


@pytest.mark.parametrize(
    "arguments", [(), ("nonsense",), ("serve", "--nonsense"), ("simulate", "nonsense"), ("check",)]
)
def test_bad_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr.lower()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--http", "nowhere"),
        ("--backend", "vllm"),
        ("--backend", "vllm=ftp://x"),
        ("--config-map", "a/b/c"),
        ("--service", "/name"),
        ("--pool", "namespace/"),
    ],
)
def test_bad_values_are_named(arguments: tuple[str, ...]) -> None:
    done = run("serve", *ANY_PORT, *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_said_of_a_cluster_needs_one() -> None:
    done = run("serve", *ANY_PORT, "--namespace", "models", "--gateway-ports")
    assert done.returncode == 2
    assert "--namespace, --gateway-ports: of use with --kubernetes only" in done.stderr


def test_the_ready_line_names_every_listener_that_is_wanted() -> None:
    with serve() as gateway:
        assert list(gateway.ready) == ["http", "grpc", "admin"]
        assert gateway.ready["grpc"].startswith("127.0.0.1:")
    with serve("--grpc", "off", "--ext-proc", "127.0.0.1:0") as gateway:
        assert list(gateway.ready) == ["http", "grpc", "admin", "ext_proc"]
        assert gateway.ready["grpc"] == "off"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("imported", ["argparse", "trio", "gateway.app"])
def test_a_program_told_to_stop_while_it_starts_goes_quietly(number: signal.Signals, imported: str) -> None:
    """The interpreter names each module once it is imported: the signal comes right after."""
    argv = [sys.executable, "-X", "importtime", "-m", "gateway.cli", "serve", *ANY_PORT]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert any(line.rpartition("|")[2].strip() == imported for line in process.stderr)
            process.send_signal(number)
            rest = process.stderr.read()
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGHUP, "there is no configuration to reload"),
        (signal.SIGUSR1, "SIGUSR1 is not needed here"),
        (signal.SIGUSR2, "process [0-9]+ has taken over"),
    ],
)
def test_a_signal_that_is_no_end_is_heeded_once_the_program_has_started(number: signal.Signals, said: str) -> None:
    argv = ("-X", "importtime", "-m", "gateway.cli", "serve", *ANY_PORT)
    gateway = Program(*argv)
    try:
        assert eventually(lambda: "| argparse" in gateway.start().stderr)
        gateway.signal(number)
        gateway.wait_ready()
        assert eventually(lambda: re.search(said, gateway.stderr) is not None)
        successors = re.findall(r"process (\d+) has taken over", gateway.stderr)
        if successors:
            assert gateway.wait_ready().wait() == 0
        for pid in map(int, successors):
            os.kill(pid, signal.SIGINT)
            assert eventually(lambda pid=pid: gone(pid))
        if not successors:
            gateway.signal(signal.SIGINT)
            assert gateway.wait() == 0
    finally:
        gateway.close()


@pytest.mark.parametrize("words", [("version",), ("--help",), ("check", "examples/gateway.yaml")])
def test_whoever_reads_no_further_is_no_error(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *words],
        cwd=ROOT, env=environment, stdout=writer, stderr=subprocess.PIPE, timeout=30,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_program_that_ends_does_so_as_it_was_about_to_however_often_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("kind: [")
    told = "signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM"
    ended = f"import os, signal; from gateway import cli; cli.main(); [os.kill(os.getpid(), n) for n in ({told})]"
    argv = [sys.executable, "-c", f"{ended}; signal.pause()", "serve", "-c", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, stderr=subprocess.PIPE, timeout=30)
    assert done.returncode == 1
    assert b"not valid YAML" in done.stderr


def test_nobody_is_waited_for_who_does_not_take_what_is_wrong(tmp_path: Path, full: int) -> None:
    (tmp_path / "bad.yaml").write_text("kind: [")
    argv = [sys.executable, "-m", "gateway.cli", "serve", *ANY_PORT]
    assert subprocess.run([*argv, "-c", str(tmp_path)], cwd=ROOT, stderr=full, timeout=30).returncode == 1


def test_an_address_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("serve", *ANY_PORT, "--http", address)
    assert done.returncode == 3
    assert address in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_everyone_has_to_be_said_out_loud(tmp_path: Path) -> None:
    done = run("serve", *ANY_PORT, "--http", "0.0.0.0:0")
    assert done.returncode == 1
    assert "auth" in done.stderr
    assert "required: false" in done.stderr
    assert done.stdout == ""


def test_demo_says_what_it_serves(demo: InferGateway) -> None:
    """The ready line promises that its models are there."""
    assert demo.ready.keys() == {"http", "grpc", "admin"}
    listing = raw.exchange(demo.address, raw.get("/v1/models"))
    assert listing is not None
    assert {card["id"] for card in json.loads(listing.body)["data"]} >= {f"demo-{engine}" for engine in ENGINES}


def test_no_backend_yet_is_no_reason_not_to_start() -> None:
    """The first discovery round ends without an answer; the gateway is alive then, and not ready."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        backend = f"vllm=http://127.0.0.1:{mute.getsockname()[1]}"
        with serve("--backend", backend) as gateway:
            alive = raw.exchange(gateway.address, raw.get("/healthz"))
            ready = raw.exchange(gateway.address, raw.get("/readyz"))
            assert alive is not None
            assert ready is not None
            assert (alive.status, ready.status) == (200, 503)


def test_a_backend_that_comes_later_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = str(reserved.getsockname()[1])
    with serve("--backend", f"vllm=http://127.0.0.1:{port}") as gateway:

        def ready() -> bool:
            answer = raw.exchange(gateway.address, raw.get("/readyz"))
            return answer is not None and answer.status == 200

        assert not ready()
        with simulate("vllm", "m", "--port", port):
            assert eventually(ready, within_s=15)


def begin_stream(gateway: Program, reader: raw.Reader, connection: socket.socket, tokens: int) -> None:
    """A stream under way: its head and first event have arrived."""
    connection.sendall(raw.post("/v1/chat/completions", {**STREAM, "max_tokens": tokens}))
    head = reader.head()
    assert head is not None
    assert head[0] == 200
    assert reader.chunk()


def test_drain_lets_a_stream_finish_and_nobody_in() -> None:
    with (
        simulate("vllm", "m", "--itl", "0.02") as engine,
        serve("--backend", f"vllm={engine.url}") as gateway,
        raw.connect(gateway.address) as connection,
        raw.connect(gateway.address) as idle,
        raw.Reader(connection) as reader,
    ):
        begin_stream(gateway, reader, connection, tokens=50)
        gateway.signal(signal.SIGTERM)
        assert eventually(lambda: raw.refuses(gateway.address))
        assert gateway.process is not None
        assert gateway.process.poll() is None
        assert idle.recv(1) == b""
        received = b""
        while chunk := reader.chunk():
            received += chunk
        assert chunk == b""
        assert raw.events(received)[-1] == "[DONE]"
        assert gateway.wait() == 0


def test_a_second_signal_stops_at_once() -> None:
    with (
        simulate("vllm", "m", "--itl", "0.05") as engine,
        serve("--backend", f"vllm={engine.url}") as gateway,
        raw.connect(gateway.address) as connection,
        raw.Reader(connection) as reader,
    ):
        begin_stream(gateway, reader, connection, tokens=1000)
        gateway.signal(signal.SIGTERM)
        assert eventually(lambda: raw.refuses(gateway.address))
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(within_s=3) == 0
        assert b"[DONE]" not in reader.rest()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_gateway_stops_at_once(number: signal.Signals) -> None:
    with serve() as gateway:
        gateway.signal(number)
        assert gateway.wait(within_s=3) == 0


def test_simulate_stops_when_asked() -> None:
    with simulate("tgi", "m") as engine:
        engine.signal(signal.SIGTERM)
        assert engine.wait(within_s=3) == 0
