"""Targets and the bytes of requests."""

from __future__ import annotations

import random

import msgspec
import pytest

from conformance.load.workload import Api, Target, Workload, body, message, messages, parse_target, prompt


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("http://127.0.0.1:8080", Target(False, "127.0.0.1", 8080, "/v1"), "127.0.0.1:8080"),
        ("localhost:8000/", Target(False, "localhost", 8000, "/v1"), "localhost:8000"),
        ("https://api.example.com/v1", Target(True, "api.example.com", 443, "/v1"), "api.example.com"),
        ("http://host/openai/v2/", Target(False, "host", 80, "/openai/v2"), "host"),
        ("http://host/v1/chat/completions", Target(False, "host", 80, "/v1"), "host"),
        ("http://host/v1/completions/", Target(False, "host", 80, "/v1"), "host"),
        ("http://host/embeddings", Target(False, "host", 80, "/v1"), "host"),
        ("http://[::1]:9000", Target(False, "::1", 9000, "/v1"), "[::1]:9000"),
    ],
)
def test_a_url_names_a_target(url: str, target: Target, authority: str) -> None:
    assert parse_target(url) == target
    assert target.authority == authority


@pytest.mark.parametrize(
    "url", ["ftp://host", "http://", "http://host:port", "http://host:99999", "nope", "example.com/v1"]
)
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        parse_target(url)


@pytest.mark.parametrize(("api", "field"), [("chat", "messages"), ("completions", "prompt"), ("embeddings", "input")])
def test_each_api_has_its_body(api: Api, field: str) -> None:
    value = msgspec.json.decode(body(Workload("m", api), "hello"))
    assert field in value
    assert value.get("stream", False) is (api != "embeddings")


def test_extra_members_win() -> None:
    value = msgspec.json.decode(body(Workload("m", extra={"max_tokens": 3, "ignore_eos": True}), "hello"))
    assert (value["max_tokens"], value["ignore_eos"]) == (3, True)


def test_a_request_without_stream_or_usage_does_not_mention_them() -> None:
    assert b"stream" not in body(Workload("m", stream=False), "hello")
    assert b"stream_options" not in body(Workload("m", usage=False), "hello")


def test_a_message_is_whole() -> None:
    sent = message(Target(False, "h", 80, "/v1"), "POST", "/completions", b"{}", "secret")
    head, _, content = sent.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/completions HTTP/1.1"
    assert {b"Host: h", b"Content-Length: 2", b"Authorization: Bearer secret"} <= set(lines)
    assert content == b"{}"


def test_the_seed_fixes_the_prompts_and_they_differ() -> None:
    target, workload = Target(False, "h", 80, "/v1"), Workload("m")
    first, again = (messages(target, workload, random.Random(3), 8) for _ in range(2))
    assert first == again
    assert len(set(first)) == 8
    assert len(prompt(20, random.Random(0)).split()) == 20
