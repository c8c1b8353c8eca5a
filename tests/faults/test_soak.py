"""The soak in small: a few hundred streams while engines are killed and stopped."""

from __future__ import annotations

from pathlib import Path

from tests.soak.asking import judged
from tests.soak.run import Plan, soak

TEXT = " one two"
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def test_none_is_lost_and_none_falsely_finished(tmp_path: Path) -> None:
    report = soak(Plan(streams=600, at_once=80, engines=4, pause=0.5, seed=3), tmp_path)
    assert not report.wrong, "\n".join(report.lines())
    assert report.ends["stream", "whole"] > 100
    assert report.happened["kill"] + report.happened["stop"] > 1


def test_what_is_wrong_is_seen() -> None:
    def chunked(*events: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
        data = b"".join(b"data: %b\n\n" % event for event in events)
        return HEAD + b"%x\r\n%b\r\n" % (len(data), data) + end

    one, two = (b'{"choices":[{"delta":{"content":" %b"}}]}' % word for word in (b"one", b"two"))
    error, done = b'{"error":{"code":"upstream_error"}}', b"[DONE]"
    for received, how in (
        (chunked(one, two, done), "whole"),
        (chunked(one, error), "broken"),
        (chunked(one, done), "false"),
        (chunked(two, error), "mixed"),
        (chunked(one, two), "lost"),
        (chunked(one, two, done, end=b""), "lost"),
        (chunked(one, two, done, one), "odd"),
        (chunked(one, error, done), "odd"),
        (b"", "lost"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}", "lost"),
        (b"HTTP/1.1 400 No\r\ncontent-length: 2\r\n\r\n{}", "odd"),
    ):
        assert judged(received, TEXT, stream=True).how == how, received
