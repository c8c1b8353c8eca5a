import io
import json
import logging
from collections.abc import Iterator

import pytest

from gateway import logs


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """What the process would log; the test runner's own handlers are put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("infer_gateway").setLevel(logging.NOTSET)


def test_a_line_tells_time_level_logger_and_message(output: io.StringIO) -> None:
    logging.getLogger("infer_gateway.pools").info("endpoint %s is up", "10.0.0.1:8000")
    stamp, rest = output.getvalue().split(" ", 1)
    assert rest == "INFO infer_gateway.pools: endpoint 10.0.0.1:8000 is up\n"
    assert stamp[10] == "T"
    assert stamp.endswith("Z")


def test_libraries_are_heard_from_warnings_up(output: io.StringIO) -> None:
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("infer_gateway.x").debug("detail")
    assert output.getvalue() == ""
    logging.getLogger("some.library").warning("trouble")
    assert "trouble" in output.getvalue()


def test_what_is_said_ten_times_a_second_is_heard_once_a_minute_in_a_line(output: io.StringIO) -> None:
    moments = iter((0.0, 0.1, 59.0, 61.0))
    library = logging.getLogger("trio.serve_listeners")
    assert [type(seldom) for seldom in library.filters] == [logs.Seldom]
    library.filters[:] = [logs.Seldom(lambda: next(moments))]
    for _ in range(4):
        try:
            raise OSError("Too many open files")
        except OSError:
            library.exception("accept failed")
    library.filters.clear()
    assert [line.split(" ", 1)[1] for line in output.getvalue().splitlines()] == [
        "ERROR trio.serve_listeners: accept failed"
    ] * 2


def test_a_message_cannot_forge_a_line(output: io.StringIO) -> None:
    logging.getLogger("infer_gateway").warning("engine said %s", "x\n2026-01-01 ERROR forged\r\x1b[2J\u2028y")
    assert output.getvalue().count("\n") == 1
    assert "x\\n2026-01-01 ERROR forged\\r\\x1b[2J\\u2028y" in output.getvalue()


def test_a_traceback_is_kept(output: io.StringIO) -> None:
    try:
        raise KeyError("bug")
    except KeyError:
        logging.getLogger("infer_gateway").exception("failed")
    assert "Traceback" in output.getvalue()
    assert output.getvalue().endswith("KeyError: 'bug'\n")


@pytest.mark.parametrize(
    "text",
    [
        "authorization: Bearer abcdef123456",
        "Authorization: Basic abcdef123456",
        "{'authorization': 'abcdef123456'}",
        'api_key="abcdef123456"',
        "x-api-key: abcdef123456",
        "clientSecret=abcdef123456&x=1",
        "no such key sk-abcdef123456",
        "redis://:abcdef123456@host:6379/0",
        "https://ann:abcdef123456@host",
    ],
)
def test_secrets_are_blotted_out(output: io.StringIO, text: str) -> None:
    logging.getLogger("infer_gateway").warning("%s", text)
    assert "abcdef123456" not in output.getvalue()
    assert "***" in output.getvalue()


def test_numbers_of_tokens_are_no_secret(output: io.StringIO) -> None:
    logging.getLogger("infer_gateway").warning("max_tokens: 1000000, basics learned")
    assert "max_tokens: 1000000, basics learned" in output.getvalue()


def test_a_flood_of_one_logger_is_cut_and_counted_and_others_are_heard() -> None:
    now, stream = 0.0, io.StringIO()
    handler = logs.Bounded(stream, lambda: now)
    flood, other = (logging.LogRecord(name, logging.WARNING, "", 0, name, None, None) for name in ("flood", "other"))
    for _ in range(10_000):
        handler.handle(flood)
    handler.handle(other)
    assert stream.getvalue().split() == ["flood"] * 2000 + ["other"]
    stream.truncate(0)
    now += 0.5
    handler.handle(flood)
    assert not stream.getvalue()
    now += 0.5
    handler.handle(flood)
    assert "8001 messages were left out" in stream.getvalue()
    assert stream.getvalue().endswith("flood\n")


def test_a_traceback_cannot_forge_a_line_and_tells_no_secret(output: io.StringIO) -> None:
    try:
        raise ValueError("x\n2026-01-01T00:00:00.000Z ERROR forged\x1b[2J token=abcdef123456")
    except ValueError:
        logging.getLogger("infer_gateway").exception("failed")
    first, *rest = output.getvalue().splitlines()
    assert first.endswith("failed")
    assert all(row.startswith("    ") for row in rest)
    assert "\x1b" not in output.getvalue()
    assert "abcdef123456" not in output.getvalue()


def test_a_message_is_of_bounded_length(output: io.StringIO) -> None:
    logging.getLogger("infer_gateway").warning("%s", "x" * 1_000_000)
    assert len(output.getvalue()) < 5_000
    assert "… (996000 more)" in output.getvalue()


def test_a_message_may_be_json() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("info", stream, "json")
    try:
        logging.getLogger("infer_gateway.x").warning("a\n%s \x9b\u2028 token=abcdef123456", "\ud800")
        try:
            raise KeyError("bug")
        except KeyError:
            logging.getLogger("infer_gateway").exception("failed")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("infer_gateway").setLevel(logging.NOTSET)
    told, failed = map(json.loads, stream.getvalue().splitlines())
    assert told.pop("time").endswith("Z")
    message = r"a\n\ud800 \x9b\u2028 token=***"
    assert told == {"level": "warning", "logger": "infer_gateway.x", "message": message}
    assert failed["traceback"].splitlines()[-1] == "KeyError: 'bug'"


@pytest.mark.parametrize("text", ["://" * 1300, "token=" * 700, "Bearer " * 600, "sk-" * 1300, "a:b@" * 1000])
def test_looking_for_secrets_takes_no_time_to_speak_of(output: io.StringIO, text: str) -> None:
    for _ in range(100):  # quadratic would be minutes
        logging.getLogger("infer_gateway").warning("%s", text)
    assert output.getvalue().count("\n") == 100
