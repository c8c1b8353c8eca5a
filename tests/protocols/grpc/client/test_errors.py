"""Answers that are not gRPC's, as errors."""

from __future__ import annotations

import pytest

from protocols.grpc.client.errors import refused


@pytest.mark.parametrize(
    ("status", "words"),
    [(b"503", "HTTP 503 Service Unavailable"), (b"599", "HTTP 599"), (b"", "HTTP 0"), ("²".encode(), "HTTP 0")],
)
def test_a_status_of_http(status: bytes, words: str) -> None:
    error = refused(status, b"text/html")
    assert error is not None
    assert str(error).endswith(words)


def test_an_answer_is_no_error() -> None:
    assert refused(b"200", b"application/grpc+proto") is None
