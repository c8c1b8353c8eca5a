"""What looks like a secret is found, and what is known to be none is not."""

from __future__ import annotations

import base64

import pytest

from tools import secret_check

KEY = base64.b64encode(bytes(range(48))).decode()


@pytest.mark.parametrize(
    "parts",
    [
        ("sk-", "proj-0123456789abcdefghij"),
        ("AKIA", "ABCDEFGHIJKLMNOP"),
        ("ghp_", "abcdefghijklmnopqrstuvwx"),
        ("eyJ", "hbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ.c2lnbmF0dXJl"),
        ("-----BEGIN EC ", f"PRIVATE KEY-----\n{KEY}\n"),
        ("https://ann:", "correct-horse@host"),
        ("hf_", "zyxwvutsrqponmlkjihgfedcba"),
    ],
)
def test_a_secret_is_found(parts: tuple[str, str]) -> None:
    ((line, _, shown),) = secret_check.suspects(f"first\nkey: {''.join(parts)}\n")
    assert line == 2
    assert len(shown) <= 12


@pytest.mark.parametrize(
    "text",
    [
        "sk-short", "task-with-a-very-long-name-indeed", "redis://user:password@host", "-----BEGIN PRIVATE KEY-----\n",
        "https://host:8080/a@b", next(iter(secret_check.KNOWN)),
    ],
)  # fmt: skip
def test_what_is_none_is_not(text: str) -> None:
    assert not secret_check.suspects(text)
