"""Verdicts on whole answers and on streams, at any split of the bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.load.answers import Check, FullStreamCheck, QuickStreamCheck, WholeCheck
from tests.recordings import folder

END = b"data: [DONE]\n\n"


def full() -> Check:
    return FullStreamCheck(chat=True, usage=True, numbered=True)


def lenient() -> Check:
    return FullStreamCheck(chat=True, usage=False)


def event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def chunk(delta: dict[str, object] | None, finish: str | None = None, **extra: object) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return event(head | extra)


ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({"content": ""}, "stop")


def usage(completion: int, total: int | None = None) -> bytes:
    counts = {"prompt_tokens": 9, "completion_tokens": completion, "total_tokens": total or 9 + completion}
    return chunk(None, usage=counts)


def tokens(count: int) -> list[bytes]:
    return [chunk({"content": f" {number}"}) for number in range(count)]


def stream(count: int = 3) -> list[bytes]:
    return [ROLE, *tokens(count), STOP, usage(count), END]


def verdict(check: Check, data: bytes, cuts: Iterable[int] = ()) -> str | None:
    at = 0
    for cut in (*sorted(cuts), len(data)):
        check.feed(data[at:cut])
        at = cut
    return check.finish()


@given(st.data())
@settings(max_examples=100)
@pytest.mark.parametrize("new", [QuickStreamCheck, full])
def test_a_good_stream_is_good_at_any_split(new: Callable[[], Check], data: st.DataObject) -> None:
    text = b"".join(stream(4))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    check, events = new(), 0
    for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
        events += check.feed(text[start:stop])
    assert check.finish() is None
    assert events == 7
    assert check.begun
    assert (check.prompt_tokens, check.output_tokens) == (9, 4)


BROKEN = {
    "no_done": [ROLE, *tokens(1), STOP, usage(1)],
    "done_twice": [*stream(), END],
    "after_done": [*stream(), *tokens(1)],
    "no_finish_reason": [ROLE, *tokens(2), usage(2), END],
    "error_event": [ROLE, *tokens(1), event({"error": {"message": "gone", "code": "upstream_error"}}), END],
    "partial_line": [*stream(), b"data: "],
}


@given(st.data())
@settings(max_examples=60)
@pytest.mark.parametrize("new", [QuickStreamCheck, full])
@pytest.mark.parametrize("wrong", list(BROKEN))
def test_a_broken_stream_is_named_at_any_split(new: Callable[[], Check], wrong: str, data: st.DataObject) -> None:
    text = b"".join(BROKEN[wrong])
    assert verdict(new(), text, data.draw(st.sets(st.integers(0, len(text)), max_size=12))) == wrong


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        ("out_of_order", [ROLE, *reversed(tokens(2)), STOP, usage(2), END]),
        ("out_of_order", [ROLE, tokens(1)[0], tokens(1)[0], STOP, usage(2), END]),
        ("out_of_order", [ROLE, tokens(3)[0], tokens(3)[2], STOP, usage(2), END]),
        ("no_role", [*tokens(1), STOP, usage(1), END]),
        ("bad_role", [chunk({"role": "user", "content": ""}), STOP, usage(1), END]),
        ("after_finish", [ROLE, STOP, *tokens(1), usage(1), END]),
        ("no_usage", [ROLE, *tokens(1), STOP, END]),
        ("usage_sum", [ROLE, *tokens(1), STOP, usage(1, 99), END]),
        ("usage_count", [ROLE, *tokens(3), STOP, usage(2), END]),
        ("id_changed", [ROLE, chunk({"content": " 0"}, id="other"), STOP, usage(1), END]),
        ("bad_object", [chunk({"role": "assistant"}, object="text_completion"), END]),
        ("bad_event", [b"data: {]\n\n", END]),
        ("not_sse", [b"<html>\n", *stream()]),
    ],
)
def test_the_full_check_reads_every_token(wrong: str, parts: list[bytes]) -> None:
    assert verdict(full(), b"".join(parts)) == wrong


def test_text_that_looks_like_protocol_is_text() -> None:
    sly = ["\ndata: [DONE]\n", '{"error": 1}', '"finish_reason":"stop"', '"usage":{"completion_tokens":5}', "data: {"]
    parts = [ROLE, *(chunk({"content": text}) for text in sly)]
    for new in (QuickStreamCheck, lenient):
        assert verdict(new(), b"".join([*parts, END])) == "no_finish_reason"
        check = new()
        assert check.feed(b"".join([*parts, STOP, usage(len(sly)), END])) == len(sly) + 3
        assert check.finish() is None
        assert check.output_tokens == len(sly)


@pytest.mark.parametrize("new", [QuickStreamCheck, lenient])
def test_comments_and_carriage_returns_are_fine(new: Callable[[], Check]) -> None:
    text = b": keep-alive\n\n" + b"".join(stream()) + b"\n"
    assert verdict(new(), text) is None
    assert verdict(new(), text.replace(b"\n", b"\r\n")) is None


def test_the_first_token_is_the_first_with_text() -> None:
    check = QuickStreamCheck()
    assert check.feed(ROLE + chunk({"content": None})) == 2
    assert not check.begun
    check.feed(chunk({"reasoning_content": "hm"}))
    assert check.begun


CHOICE = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"choices": [CHOICE], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}, None),
        ({"object": "list", "data": [{"embedding": [0.5]}]}, None),
        ({"choices": [CHOICE | {"finish_reason": None}]}, "no_finish_reason"),
        ({"choices": []}, "no_finish_reason"),
        ({"data": []}, "no_choices"),
        ({"error": {"message": "no"}}, "error_body"),
        ({"object": "error", "message": "no"}, "error_body"),
        ([], "bad_json"),
    ],
)
def test_whole_answers(value: object, wrong: str | None) -> None:
    text = msgspec.json.encode(value)
    assert verdict(WholeCheck(), text) == wrong
    assert verdict(WholeCheck(), text, range(len(text))) == wrong


@pytest.mark.parametrize("name", ["chat-stream", "chat-stream-contusage", "chat-n2-stream", "chat-stream-logprobs"])
@pytest.mark.parametrize("engine_name", ["vllm", "sglang", "llamacpp"])
def test_recorded_streams_of_real_engines_are_fine(engine_name: str, name: str) -> None:
    text = (folder(engine_name) / f"{name}.http").read_bytes()
    body = text.replace(b"\r\n", b"\n").partition(b"\n\n")[2]
    for check in (QuickStreamCheck(), FullStreamCheck(chat=True, usage=False)):
        assert check.feed(body) > 1
        assert check.finish() is None
        assert check.begun


@pytest.mark.parametrize(("details", "cached"), [({"cached_tokens": 7}, 7), ({}, None), (None, None)])
def test_cached_tokens_are_told_where_the_engine_does(details: object, cached: int | None) -> None:
    check = QuickStreamCheck()
    counts = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10, "prompt_tokens_details": details}
    for part in (ROLE, *tokens(1), STOP, chunk(None, usage=counts), END):
        check.feed(part)
    assert (check.finish(), check.prompt_tokens, check.cached_tokens) == (None, 9, cached)
