"""Usage events: what a line says, and what becomes of them when the file is moved, full or not to be had."""

from __future__ import annotations

import logging
import math
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from gateway import lines
from gateway.meter import Record
from gateway.usage import UsageLog

DONE = Record(
    model="llama",
    pool="default/main",
    endpoint="10.0.0.1:8000",
    operation="/v1/chat/completions",
    stream=True,
    started=5.0,
    ended=6.5,
    ttft_s=0.25,
    tokens_in=100,
    tokens_out=50,
    tokens_cached=10,
    tokens_reasoning=20,
    attempts=2,
    user="ann",
    id="req-1",
    tenant="acme",
    tier="gold",
    route="default/llama",
    queue_s=0.125,
)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FLUSH_S", 0.0)


def running(log: UsageLog, body: Callable[[], Awaitable[None]] | None = None) -> None:
    """Run the log while ``body`` does; then stop it, which writes what is left."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            if body is not None:
                with trio.fail_after(10):
                    await body()
            nursery.cancel_scope.cancel()

    trio.run(main)


def events(path: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await trio.lowlevel.checkpoint()


def numbered(number: int) -> Record:
    return msgspec.structs.replace(DONE, id=str(number))


def test_an_event_says_who_what_and_how_it_went(tmp_path: Path) -> None:
    log = UsageLog(str(tmp_path / "usage.jsonl"), wall=lambda: 1767225600.25)
    log.log(DONE)
    running(log)
    assert events(tmp_path / "usage.jsonl") == [
        {
            "time": "2026-01-01T00:00:00.250Z",
            "id": "req-1",
            "operation": "/v1/chat/completions",
            "model": "llama",
            "route": "default/llama",
            "pool": "default/main",
            "endpoint": "10.0.0.1:8000",
            "user": "ann",
            "tenant": "acme",
            "tier": "gold",
            "status": 200,
            "reason": "",
            "stream": True,
            "tokens": {"input": 100, "output": 50, "cached": 10, "reasoning": 20},
            "queue_s": 0.125,
            "ttft_s": 0.25,
            "duration_s": 1.5,
            "attempts": 2,
            "protocol": "http",
        }
    ]


@pytest.mark.parametrize(
    ("status", "reason"), [(429, "rate_limited"), (503, "overloaded"), (499, "client_gone"), (200, "upstream_error")]
)
def test_what_failed_is_an_event_with_every_member(tmp_path: Path, status: int, reason: str) -> None:
    log = UsageLog(str(tmp_path / "usage.jsonl"))
    log.log(Record(status=status, reason=reason, id="a\nb", user="ann"))
    log.log(DONE)
    running(log)
    failed, done = events(tmp_path / "usage.jsonl")
    assert failed.keys() == done.keys()
    assert (failed["status"], failed["reason"], failed["id"]) == (status, reason, "a\nb")
    assert (failed["ttft_s"], failed["queue_s"], failed["tokens"]["output"]) == (None, None, 0)


def test_without_a_file_nothing_is_kept() -> None:
    log = UsageLog()
    log.log(DONE)
    assert len(log.lines) == 0
    running(log)
    assert log.lost == 0


def test_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    path.write_text('{"id":"old"}\n')
    log = UsageLog(str(path))
    log.log(DONE)
    running(log)
    assert [event["id"] for event in events(path)] == ["old", "req-1"]


@pytest.mark.parametrize("way", ["renamed", "removed", "replaced"])
def test_a_rotated_file_is_made_anew(tmp_path: Path, way: str) -> None:
    path, old = tmp_path / "usage.jsonl", tmp_path / "usage.jsonl.1"
    log = UsageLog(str(path))

    async def rotate() -> None:
        log.log(numbered(1))
        await until(lambda: path.exists() and path.stat().st_size > 0)
        if way == "removed":
            path.unlink()
        else:
            path.rename(old)
        if way == "replaced":
            path.touch()
        log.log(numbered(2))

    running(log, rotate)
    assert [event["id"] for event in events(path)] == ["2"]
    if way != "removed":
        assert [event["id"] for event in events(old)] == ["1"]


def test_another_configuration_writes_elsewhere_or_nowhere(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    log = UsageLog(str(first))

    async def change() -> None:
        log.log(numbered(1))
        await until(lambda: first.exists() and first.stat().st_size > 0)
        log.reopen(str(second))
        await until(second.exists)  # at once, though there is nothing to write
        log.log(numbered(2))
        await until(lambda: second.stat().st_size > 0)
        log.reopen("")
        log.log(numbered(3))
        await until(lambda: log._file is None)

    running(log, change)
    assert [event["id"] for event in events(first)] == ["1"]
    assert [event["id"] for event in events(second)] == ["2"]
    assert log.lost == 0


def test_a_full_disk_costs_lines_that_are_counted_and_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = UsageLog("/dev/full")
    path = tmp_path / "usage.jsonl"

    def lost(count: int) -> bool:
        return log.lost == count

    async def fill() -> None:
        for number in range(3):
            log.log(numbered(number))
            await until(partial(lost, number + 1))
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert "No space left on device" in caplog.text
        log.reopen(str(path))
        log.log(numbered(3))

    running(log, fill)
    assert [event["id"] for event in events(path)] == ["3"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
    assert "3 were lost" in caplog.text


@pytest.mark.parametrize("name", ["missing/usage.jsonl", "", "a\0b"])
def test_a_file_that_cannot_be_had_is_told_of_before_there_is_an_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    log = UsageLog(str(tmp_path / name))
    running(log)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    log.log(DONE)
    running(log)
    assert log.lost == 1
    assert len(caplog.records) == 1


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    log = UsageLog(str(path))

    async def squeeze() -> None:
        log.log(numbered(1))
        await until(lambda: path.exists() and path.stat().st_size > 0)
        with files_no_larger_than(2 * path.stat().st_size + 100):
            for number in (2, 3, 4):
                log.log(numbered(number))
            await until(lambda: log.lost == 2)
        log.log(numbered(5))

    running(log, squeeze)
    *whole, torn, last = path.read_bytes().splitlines()
    assert (len(torn), torn[:1]) == (100, b"{")
    assert [msgspec.json.decode(line)["id"] for line in (*whole, last)] == ["1", "2", "5"]


def test_beyond_what_is_kept_lines_are_lost_and_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lines, "MAX_BUFFER", 1000)
    path = tmp_path / "usage.jsonl"
    log = UsageLog(str(path))
    for _ in range(50):
        log.log(DONE)
    running(log)
    assert 0 < len(events(path)) < 10
    assert len(events(path)) + log.lost == 50


def test_a_time_that_is_not_known_is_null_in_strict_json(tmp_path: Path) -> None:
    log = UsageLog(str(tmp_path / "usage.jsonl"))
    log.log(msgspec.structs.replace(DONE, ttft_s=math.nan, queue_s=math.nan))
    running(log)
    assert b"NaN" not in (tmp_path / "usage.jsonl").read_bytes()
