"""The soak's clients: one question each, and what came of it by an oracle that knows every answer. (T)

Nothing is believed: framing is read by hand, and only an answer that is word for word the expected one may end as if it
were whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

import trio

from protocols.grpc.client import Channel, Code, RpcError
from protocols.grpc.client.inference import InferenceClient
from protocols.grpc.generated.inference import v1

PATIENCE_S = 60.0
"""Far beyond what the gateway is configured to bear: a hang."""
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")
GOOD = ("whole", "broken", "refused", "left")
"""Ends that are in order; any other is a defect."""


class Question(NamedTuple):
    """``leave``: bytes after which the client goes; 0: it stays."""

    number: int
    kind: str
    prompt: str
    tokens: int
    leave: int = 0

    @property
    def expected(self) -> tuple[str, int]:
        return self.prompt, self.tokens


class End(NamedTuple):
    """``how``: one of `GOOD`, or what is wrong; ``why``: more about it."""

    how: str
    why: str = ""


def body(question: Question, model: str, *, stream: bool) -> bytes:
    turns = [{"role": "user", "content": question.prompt}]
    return json.dumps(
        {"model": model, "messages": turns, "max_tokens": question.tokens, "stream": stream, "temperature": 0}
    ).encode()


def posted(payload: bytes) -> bytes:
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return b"%bcontent-length: %d\r\n\r\n%b" % (head.encode(), len(payload), payload)


async def ask(
    address: tuple[str, int], channel: Channel, question: Question, texts: Mapping[tuple[str, int], str]
) -> End:
    """Ask, and judge the answer."""
    text = texts[question.expected]
    with trio.move_on_after(PATIENCE_S):
        try:
            if question.kind == "grpc":
                return await _called(channel, question, text)
            received = await _received(address, posted(body(question, "m", stream=question.kind == "stream")), question)
        except OSError as error:
            return End("lost", repr(error))
        if received is None:
            return End("left")
        return judged(received, text, stream=question.kind == "stream")
    return End("hung")


async def _received(address: tuple[str, int], request: bytes, question: Question) -> bytes | None:
    """Everything until the connection ends; None where the client has left before."""
    received = b""
    connection = await trio.open_tcp_stream(*address)
    try:
        await connection.send_all(request)
        while data := await connection.receive_some(65536):
            received += data
            if question.leave and len(received) >= question.leave:
                return None
    except trio.BrokenResourceError as error:
        raise ConnectionResetError(str(error)) from None
    finally:
        await trio.aclose_forcefully(connection)
    return received


def judged(received: bytes, text: str, *, stream: bool) -> End:
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head:
        return End("lost", "no answer")
    status = int(head[9:12])
    payload = unframed(rest) if b"transfer-encoding: chunked" in head.lower() else _whole(head, rest)
    if payload is None:
        return End("lost", f"cut after {len(rest)} bytes, status {status}")
    if status != 200:
        known = isinstance(json.loads(payload).get("error", {}).get("message"), str)
        return End("refused" if known and status >= 500 else "odd", f"{status}")
    return _told(payload, text) if stream else _same(json.loads(payload)["choices"][0]["message"]["content"], text)


def unframed(data: bytes) -> bytes | None:
    """The chunks' content; None where the last one is missing."""
    out, at = [], 0
    while found := _CHUNK.match(data, at):
        size = int(found[1], 16)
        at = found.end() + size + 2
        if not size:
            return b"".join(out) if at == len(data) else None
        out.append(data[found.end() : at - 2])
    return None


def _whole(head: bytes, rest: bytes) -> bytes | None:
    found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return rest if found and int(found[1]) == len(rest) else None


def _told(payload: bytes, text: str) -> End:
    said = ""
    *events, rest = payload.decode().split("\n\n")
    for number, event in enumerate(events):
        if not event.startswith("data: "):
            continue
        data = event.removeprefix("data: ")
        if data == "[DONE]":
            return _same(said, text) if number == len(events) - 1 and not rest else End("odd", "more after [DONE]")
        chunk = json.loads(data)
        if "error" in chunk:
            last = number == len(events) - 1 and not rest
            return _part(said, text, chunk["error"]["code"]) if last else End("odd", "more after an error")
        said += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
    return End("lost", "a stream that ends without a word about it")


def _same(said: str, text: str) -> End:
    return End("whole") if said == text else End("false", f"{said!r} instead of {text!r}")


def _part(said: str, text: str, why: str) -> End:
    return End("broken", why) if text.startswith(said) else End("mixed", f"{said!r} is not the start of {text!r}")


async def _called(channel: Channel, question: Question, text: str) -> End:
    asked = v1.CreateChatCompletionRequest(
        model="m",
        messages=[v1.ChatMessage(role="user", text=question.prompt)],
        max_tokens=question.tokens,
        temperature=0.0,
    )
    said = ""
    try:
        async with InferenceClient(channel).stream_chat_completion(asked) as call:
            async for piece in call:
                said += "".join(choice.delta.content or "" for choice in piece.choices if choice.delta)
                if question.leave and len(said) * 20 >= question.leave:
                    return End("left")
    except RpcError as error:
        if error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.RESOURCE_EXHAUSTED):
            return _part(said, text, error.code.name) if said else End("refused", error.code.name)
        return End("odd", str(error))
    return _same(said, text)
