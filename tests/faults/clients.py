"""One question by every protocol, and what came of it in the same words whatever the protocol. (IO)

Every answer is looked at strictly: its framing, the shape of its errors, how its stream ends. A stream that ends
without telling whether it is whole fails here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
from google.rpc import error_details_pb2 as details_pb2
from grpc_status import rpc_status

from protocols.grpc.generated.upb import inference as pb
from tests.process import InferGateway
from tests.whole import raw

PREFIX = "/inference.v1.InferenceService/"
WITHIN_S = 10.0


class Outcome(NamedTuple):
    """``kind``: `whole`; `refused`, nothing but an error; `broken`, an error after part of the answer. ``code``: the
    error's, in the protocol's own words. ``retry_after``: seconds, where they were told.
    """

    kind: str
    text: str = ""
    status: int | str = 200
    code: str = ""
    retry_after: float | None = None
    finished: bool = False


Ask = Callable[..., Outcome]
CODES = {
    "upstream_error": {"upstream_error", "UPSTREAM_UNAVAILABLE", "STREAM_INTERRUPTED", "INTERNAL"},
    "upstream_timeout": {"upstream_timeout", "UPSTREAM_TIMEOUT"},
    "no_endpoints": {"no_endpoints", "NO_ENDPOINTS"},
    "overloaded": {"overloaded", "OVERLOADED"},
}
"""What means the same by each protocol."""


def means(outcome: Outcome, code: str) -> bool:
    return outcome.code in CODES[code]


# -- OpenAI's HTTP ----------------------------------------------------------------------------------------------------


def chat(gateway: InferGateway, model: str, *, stream: bool, **more: Any) -> Outcome:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, "max_tokens": 8, **more}
    answer = posted(gateway, "/v1/chat/completions", body)
    if answer.status != 200:
        return refused(answer, _told(json.loads(answer.body)["error"]))
    if not stream:
        said = json.loads(answer.body)
        assert said["choices"][0]["finish_reason"], said
        return Outcome("whole", said["choices"][0]["message"]["content"], finished=True)
    return _streamed(answer)


def posted(gateway: InferGateway, path: str, body: dict[str, Any]) -> raw.Answer:
    answer = raw.exchange(gateway.address, raw.post(path, body, "connection: close"))
    assert answer is not None, "the connection was cut"
    assert answer.whole, answer
    return answer


def refused(answer: raw.Answer, code: str) -> Outcome:
    again = answer.headers.get("retry-after")
    assert again is not None or answer.status < 500 or answer.headers["x-should-retry"] == "false"
    return Outcome("refused", "", answer.status, code, None if again is None else float(again))


def _told(error: dict[str, Any]) -> str:
    assert error.keys() >= {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str)
    assert error["message"]
    return str(error["code"])


def _streamed(answer: raw.Answer) -> Outcome:
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = raw.events(answer.body)
    done, text, finished = told[-1:] == ["[DONE]"], "", False
    for event in told[:-1] if done else told:
        assert event != "[DONE]", "not the last event"
        said = json.loads(event)
        if "error" in said:
            assert event is told[-1], "an error that is not the last event"
            return Outcome("broken", text, code=_told(said["error"]), finished=finished)
        for choice in said["choices"]:
            text += choice["delta"].get("content") or ""
            finished = finished or bool(choice["finish_reason"])
    assert done, f"a stream that ends as if it were cut: {told}"
    assert finished, told
    return Outcome("whole", text, finished=True)


# -- Anthropic's Messages ---------------------------------------------------------------------------------------------


def messages(gateway: InferGateway, model: str, *, stream: bool) -> Outcome:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, "max_tokens": 8}
    answer = posted(gateway, "/v1/messages", body)
    if answer.status != 200:
        said = json.loads(answer.body)
        assert said["type"] == "error"
        return refused(answer, _told(said["error"]))
    if not stream:
        said = json.loads(answer.body)
        assert said["type"] == "message"
        return Outcome("whole", "".join(block["text"] for block in said["content"]), finished=True)
    return _narrated(answer.body)


def _narrated(body: bytes) -> Outcome:
    text, last, finished = "", "", False
    for event in body.decode().split("\n\n"):
        if "data: " not in event:
            continue
        assert last not in ("message_stop", "error"), f"{event!r} after {last}"
        said = json.loads(event.partition("data: ")[2])
        last = said["type"]
        assert f"event: {last}\n" in event
        if last == "error":
            return Outcome("broken", text, code=_told(said["error"]), finished=finished)
        if last == "content_block_delta":
            text += said["delta"]["text"]
        finished = finished or (last == "message_delta" and bool(said["delta"]["stop_reason"]))
    assert last == "message_stop", f"a stream that ends as if it were cut: {body!r}"
    assert finished
    return Outcome("whole", text, finished=True)


# -- gRPC -------------------------------------------------------------------------------------------------------------


def rpc(gateway: InferGateway, model: str, *, stream: bool) -> Outcome:
    asked: Any = pb.CreateChatCompletionRequest(
        model=model, messages=[pb.ChatMessage(role="user", text="hi")], max_tokens=8
    )
    name = "StreamChatCompletion" if stream else "CreateChatCompletion"
    asked = pb.StreamChatCompletionRequest(request=asked) if stream else asked
    text, finished, pieces = "", False, 0
    with grpc.insecure_channel(
        gateway.ready["grpc"], options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    ) as channel:
        start: Any = (channel.unary_stream if stream else channel.unary_unary)(
            PREFIX + name,
            request_serializer=lambda it: it.SerializeToString(),
            response_deserializer=getattr(pb, f"{name}Response").FromString,
        )
        try:
            for piece in start(asked, timeout=WITHIN_S) if stream else [start(asked, timeout=WITHIN_S)]:
                pieces += 1
                for choice in piece.choices:
                    text += choice.delta.content if stream else choice.message.content
                    finished = finished or bool(choice.finish_reason)
        except grpc.RpcError as error:
            return _status(error, text, finished=finished)
    assert finished, "OK after an answer that was not finished"
    return Outcome("whole", text, finished=True)


def _status(error: Any, text: str, *, finished: bool) -> Outcome:
    status = rpc_status.from_call(error)
    assert status is not None, error
    info, again = details_pb2.ErrorInfo(), details_pb2.RetryInfo()
    assert status.details[0].Unpack(info), status
    assert info.domain == "infer-gateway.dev"
    wait = [again.retry_delay.seconds + again.retry_delay.nanos / 1e9 for it in status.details if it.Unpack(again)]
    kind = "broken" if text else "refused"
    return Outcome(kind, text, error.code().name, info.reason, wait[0] if wait else None, finished)


def _by(ask: Callable[..., Outcome], *, stream: bool) -> Ask:
    return lambda gateway, model: ask(gateway, model, stream=stream)


PROTOCOLS: dict[str, Ask] = {
    "chat": _by(chat, stream=False),
    "chat streamed": _by(chat, stream=True),
    "messages": _by(messages, stream=False),
    "messages streamed": _by(messages, stream=True),
    "grpc": _by(rpc, stream=False),
    "grpc streamed": _by(rpc, stream=True),
}
