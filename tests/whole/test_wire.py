"""Clients that are foreign or rude: curl, pipelining, ambiguous framing, over real sockets."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.process import InferGateway
from tests.whole import raw

ASK = {"model": "demo-vllm", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def curl(*arguments: str) -> str:
    """What curl prints, headers first. Fails where curl fails."""
    options = ["--silent", "--show-error", "--max-time", "20", "--include", "-H", "content-type: application/json"]
    command = ["curl", *options, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_with_a_large_body_waits_for_100_continue(fleet: InferGateway, tmp_path: Path) -> None:
    """curl asks before it sends more than a megabyte, and waits a second for the answer."""
    body = tmp_path / "body.json"
    body.write_text(json.dumps({**ASK, "metadata": {"padding": "x" * (2 << 20)}}))
    printed = curl(f"{fleet.url}/v1/chat/completions", "-d", f"@{body}", "-H", "Expect: 100-continue")
    assert printed.startswith("HTTP/1.1 100 Continue")
    assert "HTTP/1.1 200" in printed
    assert '"chat.completion"' in printed


def test_curl_head(fleet: InferGateway) -> None:
    printed = curl("--head", f"{fleet.url}/v1/models")
    assert printed.startswith("HTTP/1.1 200")
    assert "content-length: 0" not in printed.lower()


def test_curl_http_1_0(fleet: InferGateway) -> None:
    """A 1.0 client gets no chunks: its stream ends with the connection."""
    body = json.dumps({**ASK, "stream": True})
    printed = curl("--http1.0", "--no-buffer", f"{fleet.url}/v1/chat/completions", "-d", body)
    assert printed.startswith("HTTP/1.1 200")
    assert "transfer-encoding" not in printed.lower()
    assert printed.rstrip().endswith("data: [DONE]")


def test_curl_chunked_upload(fleet: InferGateway) -> None:
    printed = curl(f"{fleet.url}/v1/chat/completions", "-d", json.dumps(ASK), "-H", "Transfer-Encoding: chunked")
    assert printed.startswith("HTTP/1.1 200")


def test_too_large_a_body_is_refused_before_it_is_sent(fleet: InferGateway) -> None:
    with raw.connect(fleet.address) as connection, raw.Reader(connection) as reader:
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\nexpect: 100-continue"
        connection.sendall(f"{head}\r\n\r\n".encode())
        answer = reader.answer()
        assert answer is not None
        assert answer.status == 413
        assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"


def test_pipelined_requests_are_answered_in_order(fleet: InferGateway) -> None:
    asks = [{**ASK, "stream": number % 2 == 0, "max_tokens": 1 + number % 3} for number in range(8)]
    with raw.connect(fleet.address) as connection, raw.Reader(connection) as reader:
        requests = [
            raw.post("/v1/chat/completions", ask, f"x-request-id: r{number}") for number, ask in enumerate(asks)
        ]
        connection.sendall(b"".join(requests))
        for number, ask in enumerate(asks):
            answer = reader.answer()
            assert answer is not None
            assert (answer.status, answer.headers["x-request-id"]) == (200, f"r{number}")
            assert answer.whole
            assert answer.body.endswith(b"data: [DONE]\n\n") == ask["stream"]


def test_a_request_in_single_bytes(fleet: InferGateway) -> None:
    with raw.connect(fleet.address) as connection, raw.Reader(connection) as reader:
        for byte in raw.post("/v1/chat/completions", ASK):
            connection.sendall(bytes([byte]))
        answer = reader.answer()
        assert answer is not None
        assert answer.status == 200


def test_what_is_no_http_gets_400_and_the_door(fleet: InferGateway) -> None:
    for nonsense in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        with raw.connect(fleet.address) as connection, raw.Reader(connection) as reader:
            connection.sendall(nonsense)
            answer = reader.answer()
            assert answer is not None
            assert answer.status in (400, 505)
            assert reader.rest() == b""


@pytest.mark.parametrize(
    "headers",
    [
        "content-length: 3\r\ncontent-length: 4",
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked, identity",
        "content-length: -1",
        "content-length: 1\r\n folded: yes",
        "transfer-encoding : chunked",
    ],
)
def test_ambiguous_framing_is_refused(fleet: InferGateway, headers: str) -> None:
    smuggled = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    with raw.connect(fleet.address) as connection, raw.Reader(connection) as reader:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n".encode()
        connection.sendall(head + b"0\r\n\r\n" + smuggled)
        answer = reader.answer()
        assert answer is not None
        assert answer.status == 400
        assert reader.rest() == b""
