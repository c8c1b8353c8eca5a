import os
import subprocess
import sys
import threading

import msgspec
import pytest
import trio
import trio.lowlevel
import trio.testing

from gateway import lines
from gateway.access_log import AccessLog, Form, Requests
from gateway.meter import Record

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


class Sink:
    """Takes lines; while ``stalled`` is held, as a reader that has stopped."""

    def __init__(self) -> None:
        self.written = b""
        self.stalled = threading.Lock()
        self.called = threading.Event()

    def __call__(self, lines: bytes) -> None:
        self.called.set()
        with self.stalled:
            self.written += lines

    @property
    def lines(self) -> list[bytes]:
        return self.written.splitlines()


def written(log: AccessLog, *records: Record) -> None:
    """Log the records while the log runs, and stop it."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            await trio.testing.wait_all_tasks_blocked()
            for record in records:
                log.log(record)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_json_line_holds_what_is_known() -> None:
    sink = Sink()
    written(AccessLog(Requests.ALL, write=sink, wall=lambda: 1767225600.25), DONE, FAILED)
    done, failed = (msgspec.json.decode(line) for line in sink.lines)
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
    assert "ttft" not in failed
    assert "endpoint" not in failed
    assert not {"tenant", "tier", "queue"} & {*done, *failed}


def test_whose_it_was_and_how_long_it_waited_is_said_where_known() -> None:
    sink = Sink()
    known = msgspec.structs.replace(DONE, tenant="acme", tier="gold", queue_s=1.25)
    written(AccessLog(Requests.ALL, write=sink), known, msgspec.structs.replace(known, queue_s=0.0))
    waited, let_in = (msgspec.json.decode(line) for line in sink.lines)
    assert (waited["tenant"], waited["tier"], waited["queue"]) == ("acme", "gold", 1.25)
    assert "queue" not in let_in


def test_a_text_line_has_fixed_fields() -> None:
    sink = Sink()
    written(AccessLog(Requests.ALL, Form.TEXT, sink, lambda: 1767225600.25), DONE, FAILED)
    assert sink.written.decode().splitlines() == [
        "2026-01-01T00:00:00.250Z req-1 /v1/chat/completions llama 200 - 1.500000 0.250000 100/10/50"
        " main 10.0.0.1:8000 1 ann http",
        "2026-01-01T00:00:00.250Z req-2 - llama 503 no_endpoints 0.000000 - 0/0/0 - - 0 - http",
    ]


@pytest.mark.parametrize("form", list(Form))
def test_a_value_cannot_forge_a_line_or_a_field(form: Form) -> None:
    sink = Sink()
    written(AccessLog(Requests.ALL, form, sink), Record(id="a b\n2026 x", user="é\x1b"))
    assert len(sink.lines) == 1
    if form is Form.TEXT:
        assert len(sink.lines[0].split(b" ")) == 14
    else:
        assert msgspec.json.decode(sink.lines[0])["id"] == "a b\n2026 x"


def test_errors_are_those_of_a_server() -> None:
    sink = Sink()
    written(AccessLog(write=sink), DONE, FAILED, BROKEN, REFUSED, GONE)
    assert [msgspec.json.decode(line)["id"] for line in sink.lines] == ["req-2", "req-3"]


def test_off_is_silent() -> None:
    sink = Sink()
    written(AccessLog(Requests.OFF, write=sink), DONE, FAILED)
    assert sink.written == b""


def test_lines_are_written_while_it_runs() -> None:
    async def main() -> None:
        arrived = trio.Event()
        token = trio.lowlevel.current_trio_token()
        log = AccessLog(Requests.ALL, write=lambda lines: token.run_sync_soon(arrived.set))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            log.log(DONE)
            with trio.fail_after(5):
                await arrived.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_stalled_reader_costs_lines_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_BUFFER", 1000)
    monkeypatch.setattr(lines, "FLUSH_S", 0.0)
    sink = Sink()
    log = AccessLog(Requests.ALL, write=sink)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            with sink.stalled:
                log.log(DONE)
                while not sink.called.is_set():  # until the writer has taken it and stands still
                    await trio.lowlevel.checkpoint()
                for _ in range(100):
                    log.log(DONE)
                assert log.lines.dropped > 90
                assert len(log.lines) < 2000
            nursery.cancel_scope.cancel()

    trio.run(main)
    *told, notice = map(msgspec.json.decode, sink.lines)
    assert len(told) + notice["dropped"] == 101
    assert {line["id"] for line in told} == {"req-1"}


def test_stopping_does_not_wait_for_a_stalled_reader_for_ever() -> None:
    sink = Sink()
    log = AccessLog(Requests.ALL, write=sink)
    with sink.stalled:
        written(log, DONE)  # returns after the second it is given
        assert sink.written == b""


def test_a_closed_stderr_stops_nothing() -> None:
    code = "import os; os.close(2); from gateway.access_log import to_stderr; to_stderr(b'x\\n'); os.write(1, b'alive')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, timeout=30, env=environment)
    assert done.stdout == b"alive"
