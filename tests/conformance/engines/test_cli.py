"""The process: ready line, signals, exit codes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest


def start(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "conformance.engines", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_told_to_stop(sent: signal.Signals) -> None:
    process = start("vllm", "--model", "m", "--lora", "a", "--itl", "0.001")
    try:
        assert process.stdout is not None
        word, _, address = process.stdout.readline().strip().partition(" http=")
        assert word == "ready"
        with urllib.request.urlopen(f"http://{address}/v1/models", timeout=5) as answer:
            assert [card["id"] for card in json.load(answer)["data"]] == ["m", "a"]
        process.send_signal(sent)
        assert process.wait(5) == 0
    finally:
        stop(process)


@pytest.mark.parametrize(
    "args",
    [
        ("vllm", "--fail", "explode"),
        ("nobody",),
        ("tgi", "--kv-blocks", "0"),
        ("tgi", "--port", "99999"),
        ("tgi", "--port", "-1"),
        ("vllm", "--engine-version", "abc"),
        ("openai", "--rate-limit-requests", "0"),
        ("openai", "--rate-limit-period", "0"),
    ],
)
def test_bad_usage(args: tuple[str, ...]) -> None:
    process = start(*args)
    try:
        assert process.wait(20) == 2
    finally:
        stop(process)


def test_limits_of_a_provider() -> None:
    process = start("openai", "--model", "m", "--rate-limit-requests", "1", "--rate-limit-period", "90")
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip().partition(" http=")[2]
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}).encode()
        request = urllib.request.Request(f"http://{address}/v1/chat/completions", body)
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            assert answer.headers["x-ratelimit-reset-requests"].startswith("1m")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=5)
        with refused.value:
            assert refused.value.code == 429
            assert 60 < int(refused.value.headers["retry-after"]) <= 90
    finally:
        stop(process)


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("tgi", "--port", str(taken.getsockname()[1]))
        try:
            _, complaint = process.communicate(timeout=20)
            assert process.returncode == 3
            assert "cannot listen on 127.0.0.1" in complaint
        finally:
            stop(process)
