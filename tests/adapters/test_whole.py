"""Answers in one body: untouched if they are answers, an error if they are not."""
# ruff: noqa: E501 - chunks are written whole

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.openai import OpenAI
from adapters.providers import Gemini
from adapters.sglang import SGLang
from adapters.vllm import VLLM
from gateway.errors import GatewayError, UpstreamError
from gateway.ports import Decoder
from gateway.types import Operation, Usage
from tests.adapters.recorded import answer, request, run, split

JSON = [(b"content-type", b"application/json")]
WHOLE = b'{"id":"c","object":"o","created":1,"model":"m","choices":[{"text":"a","finish_reason":"stop"}]}'
SPEECHLESS = "the engine answered a choice that holds neither a message nor a text"


def decoder(operation: Operation = Operation.CHAT) -> Decoder:
    return VLLM().decoder(request(operation=operation), 200, JSON)


def error(body: bytes) -> GatewayError:
    made = decoder()
    assert run(made, [body]) == b""
    assert made.error is not None
    assert made.progress < 2
    return made.error


@pytest.mark.parametrize(
    ("name", "operation", "usage"),
    [
        ("vllm/chat", Operation.CHAT, Usage(26, 16)),
        ("vllm/completion", Operation.COMPLETIONS, None),
        ("vllm/responses", Operation.RESPONSES, Usage(13, 4)),
        ("sglang/responses", Operation.RESPONSES, Usage(13, 4 - 2, 4)),
        ("vllm/messages-anthropic", Operation.MESSAGES, None),
        ("vllm/tokenize", Operation.TOKENIZE, None),
        ("vllm/detokenize", Operation.DETOKENIZE, None),
    ],
)
def test_recorded_answers_pass_untouched(name: str, operation: Operation, usage: Usage | None) -> None:
    body = answer(name).body
    for size in (17, len(body)):
        made = decoder(operation)
        assert run(made, split(body, size)) == body
        assert made.error is None
        assert made.progress == 2
        if usage is not None:
            assert made.usage == usage


@pytest.mark.parametrize(
    ("name", "lead", "usage"),
    [("sglang/chat", b"", Usage(26, 16)), ("llamacpp/err-unknown-model", b'"logprobs":null,', Usage(26, 8, 4))],
)
def test_what_typed_clients_insist_on_is_there_if_only_as_null(name: str, lead: bytes, usage: Usage) -> None:
    body = answer(name).body
    made = decoder(Operation.CHAT)
    told = run(made, split(body, 17))
    assert told == body.replace(b'"message":{', lead + b'"message":{"refusal":null,')
    [choice] = json.loads(told)["choices"]
    assert choice["message"]["refusal"] is choice["logprobs"] is None
    assert made.usage == usage
    assert run(decoder(Operation.CHAT), [told]) == told


@pytest.mark.parametrize("space", ["", " "])
@given(texts=st.lists(st.text() | st.just('"message":{"'), min_size=1, max_size=3), told=st.booleans())
def test_nulls_are_put_beside_whatever_the_texts_are(space: str, texts: list[str], told: bool) -> None:
    own = {"refusal": "no"} if told else {}
    choices = [
        {"index": at, "message": {"content": text, "x": {"y": text}, **own}, "finish_reason": "stop"}
        for at, text in enumerate(texts)
    ]
    whole = {"id": "c", "object": "o", "created": 1, "model": "m", "choices": choices}
    body = json.dumps(whole, separators=(",", f":{space}"), ensure_ascii=False).encode()
    out = json.loads(run(decoder(Operation.CHAT), [body]))
    full = [{**each, "logprobs": None, "message": {"refusal": None, **each["message"]}} for each in choices]
    assert out == {**whole, "choices": full}


def test_a_message_that_is_not_the_choices_own_leaves_the_body_as_it_is() -> None:
    head = b'{"id":"c","object":"o","created":1,"model":"m","log":{"message":{"a":1}},'
    for choices in (b'[{"message":{"content":"a"}}]', b'[{"text":"a"}]', b'[{"message":{}}]'):
        body = head + b'"choices":' + choices + b"}"
        assert run(decoder(Operation.CHAT), [body]) == body


def test_nothing_is_returned_before_the_whole_body_is_in() -> None:
    made = decoder()
    assert made.feed(WHOLE[:-1]) == b""
    assert made.progress == 1
    made.feed(WHOLE[-1:])
    assert made.finish() == WHOLE


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}', 400, "m"),
        (b'{"message":"m","code":503}', 503, "m"),
        (b'{"detail":"Not Found"}', 500, "Not Found"),
        (b'{"detail":[{"msg":NaN}],"choices":null}', 500, '[{"msg": NaN}]'),
        (
            b'{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"error"}]}',
            500,
            "the engine failed while generating",
        ),
        (b"{}", 502, "the engine answered something that holds no choices"),
        (b'{"id":"c","choices":null}', 502, "the engine answered something that holds no choices"),
        (b'{"object":"list","data":[{"embedding":[1.0]}]}', 502, "the engine answered something that holds no choices"),
        (b'{"object":"response","output":[]}', 502, "the engine answered something that holds no choices"),
        (b'{"choices":[]}', 502, "the engine answered something that holds no choices"),
        (b'{"choices":{},"usage":{"prompt_tokens":1}}', 502, "the engine answered something that holds no choices"),
        (b'{"choices":["a",null]}', 502, "the engine answered something that holds no choices"),
        (b'{"x":[NaN]}', 502, "the engine answered something that holds no choices"),
        (b'{"choices":[{"index":0,"finish_reason":"stop"}]}', 502, SPEECHLESS),
        (b'{"choices":[{"message":{"content":"a"}},{"message":null}]}', 502, SPEECHLESS),
        (b'{"choices":[{"text":null,"finish_reason":"stop"}]}', 502, SPEECHLESS),
        (b'{"choices":[{"message":"a","finish_reason":"stop"}]}', 502, SPEECHLESS),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETIONS, Operation.MESSAGES])
def test_what_is_no_answer_is_an_error(
    operation: Operation, stream: bool, body: bytes, status: int, message: str
) -> None:
    for adapter in (VLLM(), Gemini()):
        made = adapter.decoder(request(operation=operation, stream=stream), 200, JSON)
        if operation is Operation.MESSAGES and isinstance(adapter, VLLM):
            continue  # as it comes
        assert run(made, [body]) == b""
        assert isinstance(made.error, UpstreamError)
        assert (made.error.status, made.error.message) == (status, message)
        assert made.progress < 2


def test_what_is_no_utf8_is_told_in_replacement_characters() -> None:
    body = b'{"id":"c","object":"o","created":1,"model":"m","choices":[{"message":{"content":"h\xefx","refusal":null},"logprobs":null,"finish_reason":"stop"}]}'
    assert run(decoder(), [body]) == body.replace(b"\xef", "\ufffd".encode())


def test_a_failure_without_an_envelope_is_one_whatever_was_asked_for() -> None:
    for operation in (Operation.EMBEDDINGS, Operation.RERANK, Operation.TOKENIZE, Operation.RESPONSES):
        made = decoder(operation)
        assert run(made, [b'{"object":"error","message":"m","type":"ServiceUnavailable","code":503}']) == b""
        assert isinstance(made.error, UpstreamError)
        assert (made.error.status, made.error.retryable) == (503, True)


def test_anthropics_cached_tokens_are_counted_in() -> None:
    made = decoder(Operation.MESSAGES)
    counts = {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 10}
    run(made, [json.dumps({"type": "message", "usage": counts}).encode()])
    assert made.usage == Usage(115, 2, 100)


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"total_tokens": 43}, Usage(43)),
        ({"prompt_tokens": 40, "total_tokens": 43}, Usage(40)),
        ({"completion_tokens": 43, "total_tokens": 43}, Usage(0, 43)),
        ({"total_tokens": 0}, None),
    ],
)
def test_a_total_is_all_prompt_where_there_is_no_answer(counts: dict[str, int], usage: Usage | None) -> None:
    made = VLLM().decoder(request(operation=Operation.RERANK), 200, ())
    run(made, [json.dumps({"usage": counts}).encode()])
    assert made.usage == usage


def test_blank_lines_before_the_body_are_dropped() -> None:
    made = decoder()
    made.feed(b"\n\n")
    made.feed(b"\n")
    made.feed(WHOLE)
    assert made.finish() == WHOLE


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"<html>", b'{"choices":[', b"\xff", b"{} {}"])
def test_rubbish_is_an_upstream_error(body: bytes) -> None:
    assert (error(body).status, error(body).code) == (502, "upstream_error")


def test_11_an_error_in_a_200_is_an_error() -> None:
    assert error(b'{"error":{"message":"busy","code":503}}').status == 503
    assert error(b'{"error":"Model is overloaded","error_type":"overloaded"}').status == 429
    assert error(b'{"error":"text"}').message == "text"


def test_a_null_error_is_none() -> None:
    made = decoder(Operation.RESPONSES)
    assert run(made, [b'{"error":null,"status":"completed"}'])
    assert made.error is None


def test_19_odd_finish_reasons_become_openais() -> None:
    made = decoder()
    out = run(
        made,
        [
            b'{"id":"c","object":"o","created":1,"model":"m","choices":[{"text":"","finish_reason":"eos_token"},{"text":"","finish_reason":""},{"finish_reason":"length"}]}'
        ],
    )
    assert [choice["finish_reason"] for choice in json.loads(out)["choices"]] == ["stop", None, "length"]


def test_19_numbers_that_json_does_not_know_become_null() -> None:
    out = run(decoder(), [b'{"x":[NaN,-Infinity,1.50],"choices":[{"text":"a","finish_reason":null}]}'])
    assert out.startswith(b'{"x":[null,null,1.5],"choices":[{"text":"a","finish_reason":null,')


def test_19_arguments_given_as_an_object_become_text() -> None:
    body = b'{"id":"c","object":"o","created":1,"model":"m","choices":[{"message":{"content":null,"tool_calls":[{"id":"c","function":{"name":"f","arguments":%b}}]}}]}'
    out = run(decoder(), [body % b'{"a":1}'])
    assert json.loads(out)["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert b'"arguments":"{}"' in run(decoder(), [body % b'"{}"'])


def test_half_an_emoji_breaks_nothing() -> None:
    made = decoder()
    out = run(
        made,
        [
            b'{"id":"c","object":"o","created":1,"model":"m","choices":[{"message":{"content":"\\ud83d"},"finish_reason":"eos_token"}]}'
        ],
    )
    assert made.error is None
    assert json.loads(out)["choices"][0] == {"message": {"content": "\ud83d"}, "finish_reason": "stop"}


def test_a_stream_nobody_asked_for_is_refused() -> None:
    made = OpenAI().decoder(request(), 200, [(b"content-type", b"text/event-stream")])
    assert run(made, [b"data: {}\n\n"]) == b""
    assert made.error is not None
    assert made.error.status == 502


def test_a_page_in_place_of_a_stream_is_rubbish() -> None:
    made = OpenAI().decoder(request(stream=True), 200, [(b"content-type", b"text/html")])
    assert run(made, [b"<html>"]) == b""
    assert made.error is not None


RANKED = b'[{"score":0.25,"document":"b","index":1,"meta_info":{"prompt_tokens":3}},{"score":0.75,"index":0}]'


def reranked(body: bytes, **asked: object) -> Decoder:
    asking = request(json.dumps({"model": "tiny", **asked}).encode(), operation=Operation.RERANK)
    made = SGLang().decoder(asking, 200, JSON)
    made.feed(body)
    return made


def test_sglangs_ranking_gets_the_shape_that_others_have() -> None:
    made = reranked(RANKED)
    assert json.loads(made.finish()) == {
        "id": "rerank-req-1",
        "model": "tiny",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
        "results": [
            {"index": 0, "relevance_score": 0.75},
            {"index": 1, "document": {"text": "b"}, "relevance_score": 0.25},
        ],
    }
    assert (made.error, made.progress, made.usage) == (None, 2, Usage(3))


def test_sglang_heeds_no_top_n_so_the_ranking_is_cut_here() -> None:
    assert [each["index"] for each in json.loads(reranked(RANKED, top_n=1).finish())["results"]] == [0]
    assert len(json.loads(reranked(RANKED, top_n=0).finish())["results"]) == 2
    assert len(json.loads(reranked(RANKED, top_n="x").finish())["results"]) == 2


@pytest.mark.parametrize("body", [b"", b"[1]", b'[{"index":0}]', b"<html>", b"\xff"])
def test_what_is_no_ranking_is_rubbish(body: bytes) -> None:
    made = reranked(body)
    assert made.finish() == b""
    assert made.error is not None
    assert made.error.status == 502


def test_a_ranking_that_is_an_object_passes_untouched() -> None:
    assert reranked(b'{"results":[] }').finish() == b'{"results":[] }'
    assert reranked(b'{"error":{"message":"no"}}').finish() == b""


@pytest.mark.parametrize("member", ["id", "object", "created", "model"])
@pytest.mark.parametrize("odd", ["", None, 0])
def test_19_what_every_answer_has_to_have_is_there(member: str, odd: object) -> None:
    whole = {"id": "c", "object": "chat.completion", "created": 5, "model": "m", "x": 1}
    choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    headers = [(b"content-type", b"application/json"), (b"date", b"Thu, 01 Jan 1970 00:00:09 GMT")]

    def told(document: dict[str, object]) -> dict[str, object]:
        made = OpenAI().decoder(request(), 200, headers)
        decoded = json.loads(run(made, [json.dumps(document).encode()]))
        assert made.error is None
        assert isinstance(decoded, dict)
        return decoded

    mended = {"id": "chatcmpl-req-1", "object": "chat.completion", "created": 9, "model": "tiny"}[member]
    full = {**choice, "message": {"role": "assistant", "content": "a", "refusal": None}, "logprobs": None}
    assert told({**whole, "choices": [choice], member: odd}) == {**whole, "choices": [full], member: mended}
