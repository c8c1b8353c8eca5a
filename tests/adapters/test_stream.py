"""Streams through the decoder: the same bytes for any split, one end, no false one."""
# ruff: noqa: E501 - chunks are written whole

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.openai import OpenAI
from adapters.registry import load
from adapters.stream import DONE, StreamDecoder
from adapters.vllm import VLLM
from gateway.errors import GatewayError, UpstreamError
from gateway.types import Operation, Usage
from tests.adapters.recorded import answer, events, request, run, split
from tests.recordings import ROOT

STREAMS = sorted(
    str(path.relative_to(ROOT).with_suffix(""))
    for path in ROOT.glob("*/*stream*.http")
    if b"text/event-stream" in path.read_bytes() and not path.name.startswith(("messages", "responses", "queue-full"))
)
ROLE = b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
TOKEN = b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'


def decoder(*, usage: bool = False, operation: Operation = Operation.CHAT) -> StreamDecoder:
    made = VLLM().decoder(request(stream=True, include_usage=usage, operation=operation), 200, events(b"").headers)
    assert isinstance(made, StreamDecoder)
    return made


def decoded(*pieces: bytes, usage: bool = False) -> tuple[bytes, StreamDecoder]:
    made = decoder(usage=usage)
    return run(made, pieces), made


def state(made: StreamDecoder) -> tuple[object, ...]:
    return made.usage, made.progress, made.tokens, made.error and made.error.message


@pytest.mark.parametrize("name", STREAMS)
def test_6_recorded_streams_give_the_same_for_any_split(name: str) -> None:
    body = answer(name).body
    for usage in (True, False):
        whole, made = decoded(body, usage=usage)
        assert made.error is None
        assert whole.endswith(DONE)
        for size in (1, 3, 64, 250, 1024):
            pieces, again = decoded(*split(body, size), usage=usage)
            assert pieces == whole
            assert (again.usage, again.progress, again.error) == (made.usage, made.progress, made.error)
            assert abs(again.tokens - made.tokens) <= ("n2" in name)  # the second choice's role may count as a token


@pytest.mark.parametrize("name", ["vllm/chat-stream", "sglang/completion-stream", "llamacpp/chat-stream"])
def test_6_a_recorded_stream_split_in_two_at_every_byte(name: str) -> None:
    body = answer(name).body
    whole, _ = decoded(body, usage=True)
    for at in range(len(body)):
        assert decoded(body[:at], body[at:], usage=True)[0] == whole


@settings(max_examples=100)
@given(st.lists(st.integers(0, 3000), max_size=8), st.booleans(), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_6_line_ends_and_splits_do_not_matter(cuts: list[int], usage: bool, end: bytes) -> None:
    body = b": hello\n\n" + answer("vllm/chat-stream").body
    whole, _ = decoded(body, usage=usage)
    spelt = body.replace(b"\n", end)
    at = sorted({0, *(min(cut, len(spelt)) for cut in cuts), len(spelt)})
    pieces = [spelt[a:b] for a, b in pairwise(at)]
    assert decoded(*pieces, usage=usage)[0] == whole


COUNTED = TOKEN.replace(b"]}", b'],"usage":{"prompt_tokens":3,"completion_tokens":1}}')
PIECES = [
    ROLE,
    TOKEN,
    TOKEN,
    TOKEN * 3,
    USAGE,
    COUNTED,
    COUNTED * 2,
    FINISH,
    DONE,
    b": comment\n\n",
    b"\n",
    b"\r\n\r\n",
]
ODD = [
    TOKEN.replace(b"\n", b"\r\n"),
    TOKEN.replace(b"\n", b"\r"),
    TOKEN.replace(b"null", b'"abort"'),
    TOKEN.replace(b'":', b'": '),
    b"event: ping\ndata: {}\n\n",
    b"data: {\ndata: }\n\n",
    b'data: {"choices":null}\n\n',
    b'data: {"id":"","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n',
    b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":null,"finish_reason":null}]}\n\n',
    b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"function":{"name":"f"}}]},"finish_reason":null}]}\n\n',
    b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"\\ud83d"},"finish_reason":"eos"}]}\n\n',
    b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"NaN"},"logprobs":NaN,"finish_reason":null}]}\n\n',
    b'data: {"error":{"code":503}}\n\n',
    b"data: x\n\n",
    b"id: 1\n",
    b"error: {}\n\n",
]


def test_6_an_event_of_other_line_ends_between_events_alike_is_noticed() -> None:
    body = ROLE + TOKEN + ROLE + TOKEN + TOKEN.replace(b"\n", b"\r") + ROLE
    assert decoded(body)[0] == decoded(*split(body, 1))[0]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES + ODD), max_size=9), st.booleans(), st.data())
def test_6_any_events_at_any_split_give_the_same(sent: list[bytes], usage: bool, data: st.DataObject) -> None:
    body = b"".join(sent)
    one_by_one, slow = decoded(*split(body, 1), usage=usage)
    cuts = sorted({0, len(body), *data.draw(st.lists(st.integers(0, len(body)), max_size=5))})
    bounds = sorted({0, len(sent), *data.draw(st.lists(st.integers(0, len(sent)), max_size=3))})
    anywhere = [body[a:b] for a, b in pairwise(cuts)]
    between_events = [b"".join(sent[a:b]) for a, b in pairwise(bounds)]
    for pieces in (anywhere, between_events):
        out, made = decoded(*pieces, usage=usage)
        assert out == one_by_one
        assert (made.usage, made.progress) == (slow.usage, slow.progress)
        assert (made.error and made.error.message) == (slow.error and slow.error.message)


@pytest.mark.parametrize("name", ["vllm/chat-stream", "sglang/chat-stream", "llamacpp/chat-stream"])
def test_a_client_that_asked_for_usage_gets_the_engines_bytes(name: str) -> None:
    body = answer(name).body
    assert decoded(body, usage=True)[0] == body


def test_events_are_not_held_back() -> None:
    made = decoder()
    assert made.feed(ROLE) == ROLE
    assert made.feed(TOKEN + TOKEN[:20]) == TOKEN
    assert made.feed(TOKEN[20:] + TOKEN) == TOKEN + TOKEN
    assert made.tokens == 3


def test_plain_reads_are_passed_on_as_the_same_object() -> None:
    made = decoder()
    made.feed(ROLE + TOKEN)
    read = TOKEN * 16
    assert made.feed(read) is read
    assert made.tokens == 17


def test_progress_is_one_for_comments_and_roles_and_two_from_the_first_token_on() -> None:
    made = decoder()
    assert made.progress == 0
    assert made.feed(b": keep-alive\n\n") == b": keep-alive\n\n"
    assert made.progress == 1
    made.feed(ROLE)
    assert made.progress == 1
    made.feed(TOKEN)
    assert made.progress == 2


@pytest.mark.parametrize(
    "delta",
    [
        b'"delta":{"content":"x"}',
        b'"delta":{"reasoning":"x"}',
        b'"delta":{"content":null,"reasoning_content":"x"}',
        b'"delta":{"tool_calls":[{"index":0}]}',
        b'"delta":{"refusal":"no"}',
        b'"delta":{},"finish_reason":"stop"',
        b'"text":"x"',
    ],
)
def test_what_counts_as_a_first_token(delta: bytes) -> None:
    made = decoder()
    made.feed(b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,%b}]}\n\n' % delta)
    assert made.progress == 2


def test_7_an_event_of_megabytes_passes_and_one_without_end_does_not() -> None:
    long = (
        b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
        % (b"x" * 3_000_000)
    )
    assert decoded(*split(ROLE + TOKEN + long + FINISH + DONE, 65536))[0] == ROLE + TOKEN + long + FINISH + DONE
    made = decoder()
    for _ in range(260):
        made.feed(b"x" * 65536)
    assert isinstance(made.error, UpstreamError)
    assert made.feed(b"\n\n" + TOKEN) == b""


def test_9_the_usage_chunk_is_hidden_with_its_separator_from_a_client_that_did_not_ask() -> None:
    out, made = decoded(ROLE, TOKEN, FINISH + USAGE, DONE)
    assert out == ROLE + TOKEN + FINISH + DONE
    assert made.usage == Usage(prompt=3, completion=2)
    assert decoded(ROLE + TOKEN + FINISH + USAGE + DONE, usage=True)[0] == ROLE + TOKEN + FINISH + USAGE + DONE


def test_9_usage_in_the_finish_chunk_is_also_given_in_a_chunk_of_its_own() -> None:
    finish = FINISH.replace(b"}\n\n", b',"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n')
    out, made = decoded(TOKEN + finish + DONE, usage=True)
    assert made.usage == Usage(prompt=3, completion=2)
    only = finish.replace(b'[{"index":0,"delta":{},"finish_reason":"stop"}]', b"[]")
    assert out == TOKEN + finish + only + DONE
    assert decoded(TOKEN + finish + DONE)[0] == TOKEN + finish + DONE


def test_9_cumulative_usage_is_taken_last_and_zeros_are_no_news() -> None:
    counted = b"".join(
        TOKEN.replace(b"]}", b'],"usage":{"prompt_tokens":3,"completion_tokens":%d}}' % n) for n in (1, 2)
    )
    zero = FINISH.replace(b"]}", b'],"usage":{"prompt_tokens":0,"completion_tokens":0}}')
    _, made = decoded(counted + zero + DONE)
    assert made.usage == Usage(prompt=3, completion=2)


def test_9_reads_that_count_on_every_event_pass_as_they_are() -> None:
    made = decoder()
    made.feed(ROLE + TOKEN)
    read = b"".join(
        TOKEN.replace(b"]}", b'],"usage":{"prompt_tokens":3,"completion_tokens":%d}}' % n) for n in range(9)
    )
    assert made.feed(read) is read
    assert made.usage == Usage(prompt=3, completion=8)
    assert made.feed(TOKEN + USAGE + TOKEN) == TOKEN + TOKEN
    assert made.feed(read[: len(read) // 9]) == read[: len(read) // 9]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b'{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":4}}', Usage(9, 1, 4)),
        (b'{"prompt_tokens":9,"completion_tokens":1,"prompt_cache_hit_tokens":5}', Usage(9, 1, 5)),
        (b'{"prompt_tokens":9,"completion_tokens":8,"reasoning_tokens":3}', Usage(9, 8, 0, 3)),
        (
            b'{"prompt_tokens":9,"completion_tokens":8,"completion_tokens_details":{"reasoning_tokens":2}}',
            Usage(9, 8, 0, 2),
        ),
        (b'{"prompt_tokens":9.0,"completion_tokens":"8"}', Usage(9, 8)),
        (b'{"prompt_tokens":[]}', None),
        (b"null", None),
    ],
)
def test_9_usage_in_all_its_spellings(usage: bytes, expected: Usage | None) -> None:
    _, made = decoded(TOKEN + FINISH + b'data: {"choices":[],"usage":%b}\n\n' % usage + DONE)
    assert made.usage == expected
    assert made.error is None


def test_10_a_close_after_a_finish_reason_is_a_whole_answer() -> None:
    assert decoded(ROLE, TOKEN, FINISH)[0] == ROLE + TOKEN + FINISH + DONE
    assert decoded(ROLE + TOKEN + FINISH + USAGE + b"data: [DO")[0] == ROLE + TOKEN + FINISH + DONE
    spaced = FINISH.replace(b'":', b'": ')
    assert decoded(ROLE + TOKEN, TOKEN + spaced)[0].endswith(spaced + DONE)


@pytest.mark.parametrize(
    ("body", "choices"),
    [
        (b'{"n":3}', 3),
        (b'{"prompt":["a","b"]}', 2),
        (b'{"prompt":[[1,2],[3]],"n":2}', 4),
        (b'{"prompt":[1,2,3]}', 1),
        (b'{"n":null}', 1),
        (b"", 1),
    ],
)
def test_10_a_close_before_each_choice_has_its_finish_reason_is_an_error(body: bytes, choices: int) -> None:
    ends = [FINISH.replace(b'"index":0', b'"index":%d' % at) for at in range(choices)]
    for said in range(1, choices + 1):
        made = VLLM().decoder(request(body, stream=True), 200, events(b"").headers)
        out = run(made, [ROLE + TOKEN, *ends[:said], ends[0]])
        assert (made.error is None) == (b"[DONE]" in out) == (said == choices)


@pytest.mark.parametrize("body", [b"", ROLE, ROLE + TOKEN * 3, ROLE + TOKEN + FINISH[:-1], b": ping\n\n"])
def test_10_a_close_without_one_is_an_error_and_no_false_end(body: bytes) -> None:
    for size in (1, 50, 10_000):
        out, made = decoded(*split(body, size))
        assert b"[DONE]" not in out
        assert body.startswith(out)
        assert isinstance(made.error, UpstreamError)
        assert "closed the stream before finishing" in made.error.message
        assert made.error.retryable == (made.progress < 2)


def test_10_there_is_one_done_whatever_follows_it() -> None:
    assert decoded(TOKEN + FINISH + DONE + DONE + TOKEN)[0] == TOKEN + FINISH + DONE
    assert decoded(TOKEN + FINISH, b"data: [DONE] \n\n", b"data: [DONE]\n\n", USAGE)[0] == TOKEN + FINISH + DONE


def test_10_an_end_before_there_was_anything_is_none() -> None:
    """As of a proxy that says it whatever its own engine did."""
    for lead in (b"", ROLE, b": ping\n\n"):
        out, error = failed(lead + DONE)
        assert out == lead
        assert (error.status, error.retryable) == (502, True)


VLLM_DEAD = (
    b'data: {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",'
    b' "type": "InternalServerError", "param": null, "code": 500}}\n\n'
)
SGLANG_FULL = (
    b'data: {"error": {"object": "error", "message": "The request queue is full.", "type": "SERVICE_UNAVAILABLE",'
    b' "param": null, "code": 503}}\n\n'
)


def failed(*pieces: bytes) -> tuple[bytes, GatewayError]:
    out, made = decoded(*pieces)
    assert made.error is not None
    return out, made.error


def test_11_an_engine_that_dies_in_a_stream_leaves_no_done_behind() -> None:
    for size in (1, 33, 10_000):
        out, error = failed(*split(ROLE + TOKEN + VLLM_DEAD + DONE, size))
        assert out == ROLE + TOKEN
        assert (error.status, error.retryable) == (500, False)
        assert "EngineCore" in error.message


def test_11_an_error_before_the_first_token_may_be_tried_elsewhere() -> None:
    out, error = failed(SGLANG_FULL + DONE)
    assert (out, error.status, error.code, error.retryable) == (b"", 503, "overloaded", True)
    assert failed(ROLE + VLLM_DEAD)[1].retryable
    assert not failed(ROLE + TOKEN + SGLANG_FULL)[1].retryable


@pytest.mark.parametrize(
    ("event", "status", "message"),
    [
        (b'data: {"error":{"message":"m","type":"server_error","code":null}}', 500, "m"),
        (b'data: {"error":{"message":"m","http_status_code":422}}', 422, "m"),
        (b'data: {"error":{"message":"Model is overloaded","http_status_code":422}}', 429, "Model is overloaded"),
        (b'data: {"error":"Model is overloaded","error_type":"overloaded"}', 429, "Model is overloaded"),
        (b'data: {"error":"text"}', 500, "text"),
        (b'error: {"code":500,"message":"m","type":"server_error"}', 500, "m"),
        (b'event: error\ndata: {"message":"m"}', 500, "m"),
        (b'event: error\ndata: {"message":"m","code":503}', 503, "m"),
        (b"event: error\ndata: out of luck", 500, "out of luck"),
        (
            b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"delta":{},"finish_reason":"error"}]}',
            500,
            "the engine failed while generating",
        ),
        (
            b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"finish_reason":"insufficient_system_resource"}]}',
            503,
            "the engine ran out of resources",
        ),
        (b'data: {"object":"error","message":"m","type":"InternalServerError","param":null,"code":503}', 503, "m"),
        (b'data: {"message":"m","code":500}', 500, "m"),
        (b'data: {"detail":"m","score":NaN}', 500, "m"),
        (b"data: rubbish", 502, "the engine sent an event that is not a JSON object"),
        (b"data: [1]", 502, "the engine sent an event that is not a JSON object"),
    ],
)
def test_11_errors_inside_a_200_in_every_shape(event: bytes, status: int, message: str) -> None:
    for lead in (b"", ROLE + TOKEN):
        out, error = failed(lead + event + b"\n\n" + TOKEN + FINISH + DONE)
        assert out == lead
        assert (error.status, error.message) == (status, message)
        assert isinstance(error.code, str | None)


def test_11_the_word_error_in_the_text_is_no_error() -> None:
    said = b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"error"},"finish_reason":null}],"error":null}\n\n'
    quoted = b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"{\\"error\\":1} [DONE]"}}]}\n\n'
    body = ROLE + TOKEN + said + quoted + FINISH + DONE
    assert decoded(*split(body, 100))[0] == body


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("", None),
        ("eos_token", "stop"),
        ("stop_sequence", "stop"),
        ("abort", "length"),
        ("repetition", "stop"),
        ("new", "stop"),
    ],
)
def test_19_odd_finish_reasons_become_openais(reason: str, expected: str | None) -> None:
    body = (
        TOKEN
        + b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"%b"}]}\n\n'
        % reason.encode()
    )
    out, _ = decoded(body)
    last = json.loads(out.split(b"\n\n")[1].removeprefix(b"data: "))
    assert last["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize(
    "event",
    [
        b'{"choices":null,"id":""}',
        b'{"id":"c","object":"o","created":1,"model":"m","choices":[{"delta":null}]}',
        b'{"usage":null,"choices":[]}',
    ],
)
def test_19_nulls_where_lists_and_objects_are_due_break_nothing(event: bytes) -> None:
    out, made = decoded(TOKEN + b"data: %b\n\n" % event + FINISH + DONE)
    assert made.error is None
    for payload in out.split(b"\n\n")[:-2]:
        assert isinstance(json.loads(payload.removeprefix(b"data: "))["choices"], list)


def chunks(out: bytes) -> list[dict[str, Any]]:
    """The events of a stream that ends well, as strict readers read them."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    *payloads, end = [event.removeprefix(b"data: ") for event in out.split(b"\n\n")[:-1]]
    assert end == b"[DONE]"
    return [json.loads(payload, parse_constant=refuse) for payload in payloads]


@pytest.mark.parametrize("odd", [b'{"x":NaN}', b'{"x":-Infinity}'])
def test_19_numbers_that_json_does_not_know_become_null(odd: bytes) -> None:
    nan = (
        b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"},"logprobs":%b,"finish_reason":null}]}\n\n'
        % odd
    )
    made = OpenAI().decoder(request(b'{"logprobs":true}', stream=True), 200, events(b"").headers)
    first, second, _ = chunks(run(made, [TOKEN, nan, FINISH + DONE]))
    assert second["choices"][0]["logprobs"] == {"x": None}
    assert second["choices"][0]["delta"] == first["choices"][0]["delta"]


@pytest.mark.parametrize("kind", ["openai", "vllm", "sglang", "llamacpp", "trtllm", "huggingface", "deepseek"])
def test_19_what_typed_clients_need_is_put_in_whatever_the_engine_is(kind: str) -> None:
    """From the first odd event on, be it the first of all or one after many that were in order."""
    odd_ids = b'data: {"id":"","created":0,"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    no_delta = b'data: {"id":"c","choices":[{"index":0,"delta":null,"finish_reason":null}]}\n\n'
    call = b'{"function":{"name":"f","arguments":{"a":1}}}'
    calls = b'data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[%b,%b]},"finish_reason":null}]}\n\n' % (
        call, call
    )  # fmt: skip
    adapter, asked = load()[kind], request(b'{"tools":[{}]}', stream=True)

    def mended(*pieces: bytes) -> list[dict[str, Any]]:
        return chunks(run(adapter.decoder(asked, 200, events(b"").headers), pieces))

    first, second, _ = mended(odd_ids, odd_ids, FINISH + DONE)
    assert first["id"] == second["id"] == "chatcmpl-req-1"
    assert mended(TOKEN, no_delta, FINISH + DONE)[1]["choices"][0]["delta"] == {}
    _, _, called, last = mended(TOKEN, TOKEN, calls, FINISH + DONE)
    found = called["choices"][0]["delta"]["tool_calls"]
    assert [(c["index"], c["type"], c["function"]) for c in found] == [
        (i, "function", {"name": "f", "arguments": '{"a": 1}'}) for i in range(2)
    ]
    assert len({c["id"] for c in found}) == 2
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def calling(at: int, name: str = "", ident: str = "", arguments: str = "") -> bytes:
    named = {"id": ident, "type": "function"} if ident else {}
    function = {"arguments": arguments, **({"name": name} if name else {})}
    delta = {"tool_calls": [{"index": at, **named, "function": function}]}
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: %b\n\n" % json.dumps({"id": "c", "choices": [choice]}).encode()


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param((1, 0), id="the second first"),
        pytest.param((1, 2), id="from 1"),
        pytest.param((10**9, 7), id="any"),
    ],
)
@pytest.mark.parametrize("kind", ["ollama", "tgi", "gemini", "vllm"])
def test_each_call_has_one_id_and_one_name_whatever_its_number(kind: str, numbers: tuple[int, int]) -> None:
    """Clients put together whatever they hear of a number, its id and name included; in one stream it all turns odd."""
    a, b = numbers
    odd = b'data: {"id":"c","choices":[{"index":0,"delta":null,"finish_reason":null}]}\n\n'
    sent = [calling(a, "f", "call_f", "{"), calling(b, "g", "call_g"), odd, calling(a, arguments="}"), FINISH + DONE]
    made = load()[kind].decoder(request(b'{"tools":[{}]}', stream=True), 200, events(b"").headers)
    found: dict[int, dict[str, str]] = {}
    for told in chunks(run(made, sent)):
        for call in told["choices"][0]["delta"].get("tool_calls", ()):
            heard = found.setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
            heard["id"] += call.get("id", "")
            for name in ("name", "arguments"):
                heard[name] += call["function"].get(name, "")
    assert found == {
        a: {"id": "call_f", "name": "f", "arguments": "{}"},
        b: {"id": "call_g", "name": "g", "arguments": ""},
    }


def test_calls_that_all_have_one_number_are_several() -> None:
    """Gemini's: whole ones, each of which says 0."""
    made = load()["gemini"].decoder(request(b'{"tools":[{}]}', stream=True), 200, events(b"").headers)
    out = run(made, [calling(0, "f", "a", "{}"), calling(0, "f", "b", "{}"), calling(0, "g", "c", "{}"), FINISH + DONE])
    calls = [call for told in chunks(out) for call in told["choices"][0]["delta"].get("tool_calls", ())]
    assert [(call["index"], call["id"], call["function"]["name"]) for call in calls] == [
        (0, "a", "f"),
        (1, "b", "f"),
        (2, "c", "g"),
    ]


def test_calls_that_are_in_order_pass_as_they_came() -> None:
    call = b'{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}'
    event = (
        b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[%b]},"finish_reason":null}]}\n\n'
        % call
    )
    made = VLLM().decoder(request(b'{"tools":[{}],"logprobs":true}', stream=True), 200, events(b"").headers)
    sent = [TOKEN, event, event + event, TOKEN, FINISH + DONE]
    assert run(made, sent) == b"".join(sent)


@pytest.mark.parametrize("kind", ["vllm", "tgi"])
def test_half_an_emoji_breaks_nothing(kind: str) -> None:
    """Some engines cut between surrogates; JSON can say that, UTF-8 cannot."""
    half = TOKEN.replace(b'"a"', b'"\\ud83d"')
    made = load()[kind].decoder(request(stream=True), 200, events(b"").headers)
    out = run(made, [TOKEN, half, half.replace(b"null", b'"eos_token"'), DONE])
    assert made.error is None
    assert [c["choices"][0]["delta"]["content"] for c in chunks(out)] == ["a", "\ud83d", "\ud83d"]


def test_named_events_ids_and_retries_that_break_sdks_are_dropped() -> None:
    body = (
        b"retry: 10\n\nevent: ping\n\nevent: ping\ndata: {}\n\nid: 1\nevent: x\n" + TOKEN + b"id: 2\n\n" + FINISH + DONE
    )
    assert decoded(body)[0] == TOKEN + FINISH + DONE


def test_an_event_of_null_is_no_event() -> None:
    """llama.cpp's first one for an array of prompts (recorded in autumn 2026)."""
    sent, made = decoded(b"data: null\n\n", TOKEN, b"data: null\n\n" + FINISH, DONE)
    assert (sent, made.error, made.tokens) == (TOKEN + FINISH + DONE, None, 1)
    error = decoded(b"data: null\n\n")[1].error
    assert isinstance(error, UpstreamError)
    assert error.retryable  # a stream of nothing else has not begun


def test_several_data_lines_become_one_event() -> None:
    out, _ = decoded(b'data: {"choices":\ndata: []}\n\n', FINISH + DONE)
    assert out == b'data: {"choices": []}\n\n' + FINISH + DONE


def test_a_stream_answered_whole_is_streamed() -> None:
    for name in ("vllm/chat", "llamacpp/chat", "vllm/completion"):
        given = answer(name)
        operation = Operation.CHAT if "chat" in name else Operation.COMPLETIONS
        asked = request(stream=True, include_usage=True, operation=operation)
        made = OpenAI().decoder(asked, 200, given.headers)
        assert made.content_type.startswith(b"text/event-stream")
        first, second, done, _ = run(made, [given.body]).split(b"\n\n")
        original = json.loads(given.body)
        chunk = json.loads(first.removeprefix(b"data: "))
        if operation is Operation.CHAT:
            assert chunk["object"] == "chat.completion.chunk"
            assert chunk["choices"][0]["delta"] == original["choices"][0]["message"]
        assert chunk["choices"][0]["finish_reason"] == "length"
        assert json.loads(second.removeprefix(b"data: "))["usage"] == original["usage"]
        assert done == b"data: [DONE]"
        assert made.usage is not None


def test_recordings_are_there() -> None:
    assert len(STREAMS) > 15
    assert Path(ROOT, "README.md").exists()


def test_tokens_of_one_shape_pass_however_their_texts_begin_and_end() -> None:
    texts = [" a", " b", "c", '\\"', " sing", " ring", "\\n", "", "finish_reason"]
    events = [TOKEN.replace(b'"a"', b'"%b"' % text.encode()) for text in texts]
    assert len(set(events)) == len(texts)
    made = decoder()
    for first in range(0, len(events), 3):
        read = b"".join(events[first : first + 3])
        assert made.feed(read) == read
    assert made.feed(b"".join(events)) == b"".join(events)
    assert made.feed(events[0] + FINISH.replace(b'"stop"', b'"eos_token"')).endswith(b'"finish_reason":"stop"}]}\n\n')
    assert made.error is None
    broken = decoder()
    broken.feed(b"".join(events))
    assert broken.feed(events[0] + b'data: {"error":{"message":"m","code":500}}\n\n' + events[1]) == events[0]
    assert broken.error is not None


def test_the_shape_of_tokens_is_learned_from_two_of_them() -> None:
    made = decoder()
    assert made.feed(ROLE) == ROLE
    tokens = [TOKEN.replace(b'"a"', b'" %d"' % number) for number in range(20)]
    assert made.feed(tokens[0]) == tokens[0]
    assert made.feed(b"".join(tokens[1:3])) == b"".join(tokens[1:3])
    assert made._alike.events(b"".join(tokens[3:])) == 17
    assert made._alike.events(b"".join(tokens[3:]) + FINISH) == 0


def chunk(delta: Any, reason: Any = None, **members: Any) -> dict[str, Any]:
    """A chunk as OpenAI's are; a member given as ... is left out."""
    whole = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        **members,
    }
    return {name: value for name, value in whole.items() if value is not ...}


def told(*chunks: dict[str, Any], date: bytes = b"Thu, 01 Jan 1970 00:00:09 GMT") -> list[dict[str, Any]]:
    """What a client gets of a stream of these chunks, however it is cut."""
    body = b"".join(b"data: " + json.dumps(each, separators=(",", ":")).encode() + b"\n\n" for each in chunks) + DONE
    headers = [(b"content-type", b"text/event-stream"), (b"date", date)]
    outs = {
        run(VLLM().decoder(request(stream=True), 200, headers), split(body, size)) for size in (1, 50, 200, len(body))
    }
    assert len(outs) == 1
    *made, done, rest = outs.pop().split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(each[6:]) for each in made]


SPOKEN = ({"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"})


@pytest.mark.parametrize(
    ("member", "odd", "mended"),
    [
        ("id", "", "chatcmpl-req-1"),
        ("id", None, "chatcmpl-req-1"),
        ("id", ..., "chatcmpl-req-1"),
        ("created", 0, 9),
        ("created", ..., 9),
        ("object", ..., "chat.completion.chunk"),
        ("object", "", "chat.completion.chunk"),
        ("model", ..., "tiny"),
    ],
)
def test_19_what_every_chunk_has_to_have_is_there_and_always_the_same(member: str, odd: Any, mended: Any) -> None:
    made = told(*(chunk(delta, **{member: odd}) for delta in SPOKEN), chunk({}, "stop", **{member: odd}))
    assert made == [*(chunk(delta, **{member: mended}) for delta in SPOKEN), chunk({}, "stop", **{member: mended})]


def test_19_a_role_is_said_once_to_each_choice() -> None:
    made = told(*(chunk({"role": "assistant", "content": text}) for text in "abcd"), chunk({}, "stop"))
    assert [each["choices"][0]["delta"] for each in made] == [
        {"role": "assistant", "content": "a"},
        {"content": "b"},
        {"content": "c"},
        {"content": "d"},
        {},
    ]


def test_19_choices_get_their_index_and_lists_that_are_null_are_empty() -> None:
    bare = {"delta": {"content": "a"}, "finish_reason": None}
    made = told(chunk(None, choices=[bare]), chunk(None, choices=None), chunk({}, "stop"))
    assert [each["choices"] for each in made] == [
        [{**bare, "index": 0}],
        [],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    ]


def test_19_a_first_chunk_without_choices_says_nothing_of_the_others() -> None:
    """Azure tells of its filters so, with neither id nor time."""
    filters = chunk(None, id="", created=0, object="", model="", choices=[], prompt_filter_results=[])
    chunks = [filters, *(chunk(delta) for delta in SPOKEN), chunk({}, "stop")]
    assert told(*chunks) == chunks


def test_19_without_a_date_nobody_knows_the_time() -> None:
    assert told(chunk({"content": "a"}, created=0), chunk({}, "stop"), date=b"soon")[0]["created"] == 0
