"""The access log: what a line says, that no value breaks it, and where it goes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.access_log import FIELDS, LONGEST, AccessLog, as_json, as_text
from gateway.config.observing import AccessLog as Settings
from gateway.meter import Record
from gateway.stdio import Stderr

DONE = Record(
    model="llama",
    pool="main",
    endpoint="10.0.0.1:8000",
    operation="/v1/chat/completions",
    stream=True,
    started=5.0,
    ended=6.5,
    ttft_s=0.25,
    tokens_in=100,
    tokens_out=50,
    tokens_cached=10,
    attempts=1,
    user="ann",
    id="req-1",
)
FAILED = Record(model="llama", status=503, reason="no_endpoints", id="req-2")
BROKEN = Record(model="llama", status=200, reason="upstream_error", id="req-3")
REFUSED = Record(status=404, reason="model_not_found", id="req-4")
GONE = Record(model="llama", status=499, reason="client_gone", id="req-5")


ALL = Settings(requests="all")
TEXT = Settings(requests="all", format="text")
NOON = 1767225600.25


class Taking(Stderr):
    """Takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def _take(self, lines: bytes, wait: float) -> bytes:
        self.written += lines
        return b""


def written(settings: Settings, *records: Record, everything: bool = False) -> list[bytes]:
    """The lines that come of the records."""
    stderr = Taking()
    log = AccessLog(settings, everything, stderr, lambda: NOON)
    for record in records:
        log.log(record)
    stderr.flush()
    return stderr.written.splitlines(keepends=True)


def ids(lines: list[bytes]) -> list[str]:
    return [msgspec.json.decode(line)["id"] for line in lines]


def test_a_json_line_holds_what_is_known() -> None:
    done, failed = map(msgspec.json.decode, written(ALL, DONE, FAILED))
    assert done == {
        "time": "2026-01-01T00:00:00.250Z",
        "id": "req-1",
        "operation": "/v1/chat/completions",
        "model": "llama",
        "status": 200,
        "duration": 1.5,
        "pool": "main",
        "endpoint": "10.0.0.1:8000",
        "attempts": 1,
        "stream": True,
        "ttft": 0.25,
        "tokens_in": 100,
        "tokens_out": 50,
        "tokens_cached": 10,
        "user": "ann",
    }
    assert failed["reason"] == "no_endpoints"
    assert not {"tenant", "tier", "queue", "ttft", "endpoint", "why", "failures", "trace_id"} & {*failed}


KNOWN = msgspec.structs.replace(
    DONE,
    tenant="acme",
    tier="gold",
    route="default/llama",
    queue_s=1.25,
    why="queue_long",
    failures=(("10.0.0.2:8000", "upstream_error"), ("10.0.0.3:8000", "upstream_timeout")),
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    protocol="grpc",
)


def test_whose_it_was_where_it_went_and_why_is_said_where_known() -> None:
    known, let_in = map(msgspec.json.decode, written(ALL, KNOWN, msgspec.structs.replace(KNOWN, queue_s=0.0)))
    said = ("tenant", "tier", "route", "queue", "why", "trace_id", "protocol")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert [known[name] for name in said] == ["acme", "gold", "default/llama", 1.25, "queue_long", trace, "grpc"]
    assert known["failures"] == [["10.0.0.2:8000", "upstream_error"], ["10.0.0.3:8000", "upstream_timeout"]]
    assert "queue" not in let_in


def test_a_model_that_nobody_knows_is_called_what_it_was_asked_for_by() -> None:
    unknown = msgspec.structs.replace(REFUSED, asked="lama")
    assert msgspec.json.decode(as_json("now", unknown))["model"] == "lama"
    assert as_text("now", unknown).split(b" ")[3] == b"lama"


def test_a_text_line_has_fixed_fields() -> None:
    assert b"".join(written(TEXT, KNOWN, FAILED)).decode().splitlines() == [
        "2026-01-01T00:00:00.250Z req-1 /v1/chat/completions llama 200 - 1.500000 0.250000 100/10/50"
        " main 10.0.0.1:8000 1 ann grpc acme gold default/llama 1.250000 stream queue_long"
        " 10.0.0.2:8000=upstream_error,10.0.0.3:8000=upstream_timeout 4bf92f3577b34da6a3ce929d0e0e4736 -",
        "2026-01-01T00:00:00.250Z req-2 - llama 503 no_endpoints 0.000000 - 0/0/0 - - 0 - http - - - - - - - - -",
    ]


def test_which_requests_are_logged() -> None:
    records = (DONE, FAILED, BROKEN, REFUSED, GONE)
    assert ids(written(Settings(), *records)) == ["req-2", "req-3"]  # by a server's fault
    assert ids(written(ALL, *records)) == ["req-1", "req-2", "req-3", "req-4", "req-5"]
    assert written(Settings(requests="off"), *records) == []
    assert len(written(Settings(requests="off"), *records, everything=True)) == 5


# -- values that are up to something --

HOSTILE = [
    "a b\n2026-01-01T00:00:00.000Z forged",
    "\r\n\t\0",
    "\x1b[2J\x1b]0;title\x07",
    "\x7f\x80\x9b31m",
    "\u2028\u2029\u202e\ufeff\u200b",
    "half \ud800 of a pair",
    "emoji \U0001f600, private \U0010ffff",
    'quotes " and \\ and \\u000a',
    "x" * 100_000,
    "\0" * 5_000,
    "\U000e0001" * 3_000,
]
texts = st.text(st.characters(), max_size=40) | st.sampled_from(HOSTILE)
numbers = st.integers(0, 2**63)
seconds = st.floats(0, 1e9) | st.just(math.nan)
records = st.builds(
    Record,
    **dict.fromkeys(("model", "pool", "endpoint", "operation", "reason", "user", "id", "tenant", "tier"), texts),
    **dict.fromkeys(("route", "protocol", "why", "engine", "trace_id", "asked"), texts),
    **dict.fromkeys(("tokens_in", "tokens_out", "tokens_cached", "attempts"), numbers),
    status=st.integers(100, 599),
    stream=st.booleans(),
    ended=st.floats(0, 1e9),
    ttft_s=seconds,
    queue_s=seconds,
    failures=st.lists(st.tuples(texts, texts), max_size=20).map(tuple),
)
SAFE = st.text(st.characters(categories=["L", "N", "P", "S", "Cc", "Zs"]), max_size=40)
WORST = Record(
    **dict.fromkeys(("model", "pool", "endpoint", "user", "id", "tenant", "tier", "why"), "\U000e0001" * 3000)
)


def value(line: bytes) -> str:
    """A line without its end, in which nothing is left that acts on a terminal or ends a line."""
    text = line.decode()
    assert (text[-1], len(line) <= LONGEST) == ("\n", True)
    assert text[:-1].isprintable()
    return text[:-1]


@given(records)
@example(WORST)
def test_any_record_is_one_line_of_json_of_bounded_length(record: Record) -> None:
    said = msgspec.json.decode(value(as_json("now", record)))
    assert (said["status"], said.get("stream", False), said.get("tokens_in", 0)) == (
        record.status,
        record.stream,
        record.tokens_in,
    )


@given(records)
@example(WORST)
def test_any_record_is_as_many_words_of_bounded_length(record: Record) -> None:
    words = value(as_text("now", record)).split(" ")
    assert len(words) == len(FIELDS)
    assert (words[4], "".join(words) != "") == (str(record.status), True)
    assert all(words)


@given(SAFE, SAFE, SAFE)
def test_values_come_back_as_they_were(user: str, tenant: str, model: str) -> None:
    record = Record(user=user, tenant=tenant, model=model)
    said: dict[str, Any] = msgspec.json.decode(value(as_json("now", record)))
    assert (said.get("user", ""), said.get("tenant", ""), said["model"]) == (user, tenant, model)
    words = dict(zip(FIELDS, value(as_text("now", record)).split(" "), strict=True))
    for name, given_ in (("user", user), ("tenant", tenant), ("model", model)):
        assert _read(words[name]) in (given_, "-" if given_ in ("", "-") else given_)


def _read(word: str) -> str:
    return re.sub(r"\\(?:x..|u....|U........|.)", lambda found: _character(found[0]), word)


def _character(escaped: str) -> str:
    return escaped.encode("latin-1").decode("unicode_escape")


@pytest.mark.parametrize("write", [as_json, as_text])
@pytest.mark.parametrize("name", ["id", "model", "asked", "user"])
@pytest.mark.parametrize(
    ("told", "secret"),
    [
        ("sk-ann-0123456789", "ann-0123456789"),
        ("hf_abcdefghijklmno", "abcdefghijklmno"),
        ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl", "eyJzdWIiOiJhbm4ifQ"),
        ("Bearer swordfish-1234", "swordfish"),
        ("x" * 150 + " sk-ann-0123456789" + "x" * 5000, "ann-0123456789"),
    ],
)
def test_what_looks_like_a_credential_is_not_told(write: Any, name: str, told: str, secret: str) -> None:
    line = value(write("now", msgspec.structs.replace(DONE, **{"model": "", name: told})))
    assert secret not in line
    assert "***" in line


def test_a_long_value_leaves_the_others_whole() -> None:
    said = msgspec.json.decode(as_json("now", msgspec.structs.replace(DONE, model="m" * 100_000)))
    assert (said["id"], said["user"], said["endpoint"]) == ("req-1", "ann", "10.0.0.1:8000")
    assert said["model"] == "m" * 159 + "…"


# -- where lines go --


def test_a_file_takes_the_lines_and_another_configuration_takes_effect_at_once(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    stderr = Taking()
    log = AccessLog(Settings(requests="all", file=str(first)), stderr=stderr)
    log.log(DONE)
    log.journal.lines.flush()
    log.apply(Settings(requests="errors", file=str(second)))
    log.log(DONE)
    log.log(FAILED)
    log.journal.lines.flush()
    log.apply(TEXT)
    log.log(GONE)
    stderr.flush()
    assert ids(first.read_bytes().splitlines()) == ["req-1"]
    assert ids(second.read_bytes().splitlines()) == ["req-2"]
    assert stderr.written.split()[1] == b"req-5"
    assert log.lost == 0


def test_a_thread_writes_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    log = AccessLog(Settings(requests="all", file=str(file)))
    with log:
        log.log(DONE)
    assert ids(file.read_bytes().splitlines()) == ["req-1"]


def test_lost_lines_are_counted_wherever_they_were_to_go() -> None:
    with open("/dev/full", "wb") as full:
        stderr = Stderr(full.fileno())
        log = AccessLog(ALL, stderr=stderr)
        log.log(DONE)
        stderr.flush()
        assert log.lost == 1
        log.apply(Settings(requests="all", file="/dev/full"))
        log.log(DONE)
        log.journal.lines.flush()
        assert log.lost == 2
