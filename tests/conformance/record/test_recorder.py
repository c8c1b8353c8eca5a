"""A live engine becomes a folder that adapters can be tested with, and that may be shown to anybody."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

import pytest
import trio

from conformance.record import cli
from conformance.record.recorder import Recorder, record
from conformance.record.requests import Request, requests
from conformance.record.secrets import Scrubber
from conformance.suite.target import Setup
from conformance.suite.wire import Address
from tests import recordings
from tests.process import run, simulate
from tools import replay_recordings as replay

KEY = "key-0123456789abcdef"


def command(*words: str) -> int:
    parser = ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args(words))


def test_the_names_are_those_of_the_recordings_there_are() -> None:
    made = {request.name: request for request in requests("tiny")}
    assert len(made) == len(requests("tiny"))
    folder = recordings.folder("vllm")
    kept = {path.stem for path in folder.glob("*.http")}
    assert kept <= set(made)
    for path in folder.glob("*.request.json"):
        name = path.name.removesuffix(".request.json")
        if name not in ("err-invalid-json", "err-content-type", "completion-tokens", "detokenize", "chat-n2-stream"):
            assert json.loads(made[name].body or b"") == json.loads(path.read_bytes())


def test_a_simulated_engine_is_recorded_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "vllm-0.33.0"
    with simulate("vllm", "tiny", "--itl", "0.001") as engine:
        assert command("--url", engine.url, "--out", str(out), "--load", "3") == 0
    assert "0 not recorded" in capsys.readouterr().out
    about = json.loads((out / "about.json").read_bytes())
    assert (about["engine"], about["version"]) == ("vllm", "0.33.0")
    names = {path.stem for path in out.glob("*.http")}
    assert names == {request.name for request in requests("tiny")}
    assert json.loads(replay.load(out / "metrics.prom"))["running"] == 3
    assert "running" not in json.loads(replay.load(out / "metrics-idle.prom"))
    streamed = replay.read(out / "chat-stream.http")
    assert replay.seen(streamed).body.endswith(b"data: [DONE]\n\n")
    assert replay.seen(replay.read(out / "err-unknown-model.http")).status == 404
    assert replay.upstream(replay.read(out / "chat.http")) == "POST /v1/chat/completions as it came"


def test_only_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with simulate("openai", "gpt") as engine:
        assert (
            command("--url", f"{engine.url}/v1", "--out", str(tmp_path), "--only", "models", "--only", "chat-s*") == 0
        )
    assert {path.stem for path in tmp_path.glob("*.http")} == {
        "models", "chat-stop", "chat-stream", "chat-stream-nousage", "chat-stream-contusage", "chat-stream-logprobs",
    }  # fmt: skip
    assert command("--url", "http://127.0.0.1:1", "--out", str(tmp_path), "--list") == 0
    assert "err-no-model" in capsys.readouterr().out


def test_a_server_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none"
    assert command("--url", "http://127.0.0.1:1", "--out", str(out), "--only", "chat") == 1
    assert "does not answer" in capsys.readouterr().err
    assert not list(out.glob("*.http"))
    assert command("--url", "ftp://x", "--out", str(out)) == 2
    assert command("--url", "http://x", "--out", str(out), "--api-key-env", "NO_SUCH_VARIABLE_IS_SET") == 2


def test_it_is_a_command(tmp_path: Path) -> None:
    out = tmp_path / "tgi"
    with simulate("tgi", "tiny") as engine:
        done = run(
            "conformance", "record", "--url", engine.url, "--out", str(out), "--only", "info", "--only", "metrics-*"
        )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "about.json").read_bytes())["engine"] == "tgi"
    assert {path.name for path in out.iterdir()} == {"about.json", "info.http", "metrics-idle.prom"}


ANSWER = (
    b"HTTP/1.1 401 Unauthorized\r\nset-cookie: session=1\r\nopenai-organization: us\r\nx-asked-by: %(key)s\r\n"
    b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%(size)x\r\n%(body)s\r\n0\r\n\r\n"
)


def recorded(out: Path, reply: bytes, timeout: float = 5.0) -> tuple[Recorder, list[str], bytes]:
    """One exchange with a server that says ``reply`` and no more; what was told, and what it was sent."""
    got, told = bytearray(), list[str]()

    async def serve(stream: trio.SocketStream) -> None:
        got.extend(await stream.receive_some(65536))
        await stream.send_all(reply)
        if reply:
            await stream.aclose()
        else:
            await trio.sleep_forever()

    async def main() -> Recorder:
        async with trio.open_nursery() as nursery:
            listener = (await nursery.start(trio.serve_tcp, serve, 0))[0]
            port = listener.socket.getsockname()[1]
            setup = Setup(address=Address("127.0.0.1", port), engine="openai", key=KEY, timeout=timeout)
            recorder = Recorder(setup, out, Scrubber(KEY, ["gpu-7"]), told.append)
            await record(recorder, [Request("chat", "/v1/chat/completions", b"{}", (("X-Request-Id", "r"),))])
            nursery.cancel_scope.cancel()
        return recorder

    return trio.run(main), told, bytes(got)


def test_a_server_that_repeats_the_key_gives_nothing_away(tmp_path: Path) -> None:
    body = b'{"error":"no such key: %s on gpu-7"}' % KEY.encode()
    reply = ANSWER % {b"key": KEY.encode(), b"size": len(body), b"body": body}
    recorder, told, sent = recorded(tmp_path, reply)
    assert KEY.encode() in sent
    assert (recorder.kept, recorder.failed) == (1, 0)
    assert told == ["401 POST /v1/chat/completions  chat"]
    assert (tmp_path / "chat.http").read_bytes() == (
        b"# POST /v1/chat/completions -H X-Request-Id: r\nHTTP/1.1 401 Unauthorized\r\nx-asked-by: hidden\r\n"
        b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        b'{"error":"no such key: hidden on engine.example"}'
    )
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", b"rubbish\r\n\r\n"])
def test_of_half_an_answer_nothing_is_written(tmp_path: Path, reply: bytes) -> None:
    recorder, told, _ = recorded(tmp_path, reply, timeout=5.0 if reply else 0.2)
    assert (recorder.kept, recorder.failed) == (0, 1)
    assert told[0].startswith("not recorded: chat: ")
    assert not list(tmp_path.iterdir())
