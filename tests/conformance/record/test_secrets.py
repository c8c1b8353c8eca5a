"""Nothing secret is left in what is written down, and nothing else is touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.record.secrets import HIDDEN, HOST, Scrubber

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.text("abcXYZ019-_.", min_size=8, max_size=30), st.lists(TEXT, max_size=4))
def test_the_key_is_nowhere(key: str, around: list[str]) -> None:
    scrubber = Scrubber(key)
    body = key.join(["", *around, ""])
    assert key not in scrubber.text(body) or key in HIDDEN
    assert all(key not in value for _, value in scrubber.headers([("x", body)], 0)) or key in HIDDEN


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnopqrstuvwx",
        "sk-ant-api03-aaaaaaaaaaaaaaaaaaaaaaaa",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "gsk_0123456789abcdefghij",
        "AIzaSyA-0123456789abcdefghijklmnopqrs",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-DEF_123",
        "Bearer abcdefgh.ijkl/mn+op==",
    ],
)
def test_what_looks_like_a_key_is_hidden_though_nobody_named_it(secret: str) -> None:
    text = Scrubber().text(f'{{"message":"Incorrect API key provided: {secret}."}}')
    assert secret.removeprefix("Bearer ") not in text
    assert HIDDEN in text
    assert text.startswith('{"message":"Incorrect API key provided: ')


def test_whose_account_it_is_and_what_lets_one_in_is_dropped() -> None:
    told = ["date", "content-type", "x-request-id", "x-ratelimit-remaining-tokens", "retry-after", "server"]
    dropped = ["Set-Cookie", "cookie", "Authorization", "x-api-key", "openai-organization", "openai-project", "cf-ray"]
    kept = Scrubber().headers([(name, "v") for name in [*told, *dropped]], 7)
    assert [name for name, _ in kept] == told


def test_the_length_is_that_of_what_is_kept() -> None:
    scrubber = Scrubber("0123456789")
    body = scrubber.body(b'{"key":"0123456789"}')
    assert body == b'{"key":"hidden"}'
    assert scrubber.headers([("Content-Length", "20")], len(body)) == [("Content-Length", "16")]


def test_hosts_are_replaced_as_whole_words() -> None:
    scrubber = Scrubber(hosts=["gpu-7", "gpu-7.corp"], replaced={"/home/me": "/srv"})
    assert scrubber.text("http://gpu-7.corp:80 on gpu-7, not gpu-77 or my-gpu-7") == (
        f"http://{HOST}:80 on {HOST}, not gpu-77 or my-gpu-7"
    )
    assert scrubber.text("/home/me/model") == "/srv/model"


@given(st.binary(max_size=60))
def test_other_bytes_stay(data: bytes) -> None:
    assert Scrubber("a-key-of-some-length", ["engine-host"]).body(data) == data
