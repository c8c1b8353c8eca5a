"""Usage events: what a line says. What becomes of their file is `gateway.journal`'s."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

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


def events(path: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def test_an_event_says_who_what_and_how_it_went(tmp_path: Path) -> None:
    log = UsageLog(str(tmp_path / "usage.jsonl"), wall=lambda: 1767225600.25)
    log.log(DONE)
    log.journal.lines.flush()
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
    log.journal.lines.flush()
    failed, done = events(tmp_path / "usage.jsonl")
    assert failed.keys() == done.keys()
    assert (failed["status"], failed["reason"], failed["id"]) == (status, reason, "a\nb")
    assert (failed["ttft_s"], failed["queue_s"], failed["tokens"]["output"]) == (None, None, 0)


def test_without_a_file_nothing_is_kept() -> None:
    log = UsageLog()
    log.log(DONE)
    assert len(log.journal.lines) == 0
    log.journal.lines.flush()
    assert log.lost == 0


def test_a_thread_writes_and_another_file_may_be_had(tmp_path: Path) -> None:
    log = UsageLog(str(tmp_path / "first"))
    with log:
        log.log(DONE)
    assert len(events(tmp_path / "first")) == 1
    log.reopen(str(tmp_path / "missing" / "second"))
    log.log(DONE)
    log.journal.lines.flush()
    assert log.lost == 1


def test_half_a_surrogate_pair_in_a_token_costs_nothing(tmp_path: Path) -> None:
    log = UsageLog(str(tmp_path / "usage.jsonl"))
    log.log(msgspec.structs.replace(DONE, user="a\ud800\n"))
    log.journal.lines.flush()
    (line,) = (tmp_path / "usage.jsonl").read_bytes().splitlines()
    assert json.loads(line)["user"] == "a\ud800\n"


def test_a_time_that_is_not_known_is_null_in_strict_json(tmp_path: Path) -> None:
    log = UsageLog(str(tmp_path / "usage.jsonl"))
    log.log(msgspec.structs.replace(DONE, ttft_s=math.nan, queue_s=math.nan))
    log.journal.lines.flush()
    assert b"NaN" not in (tmp_path / "usage.jsonl").read_bytes()
