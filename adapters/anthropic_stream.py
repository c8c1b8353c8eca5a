"""The events of Anthropic's Messages as the chunks of a chat. (P)

Invariant: any split of the upstream bytes gives the same chunks: the role first, calls numbered from 0 with their id
and name once, one finish reason, the usage if it was asked for, one ``[DONE]``. Nothing follows an error.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from adapters import chunk, failure, usage
from adapters.anthropic_reply import Block, Message, counted, created, thought
from adapters.shapes import arguments_text
from adapters.stream import DONE, EventDecoder, answer_id
from gateway.types import Headers, InferenceRequest, Usage
from gateway.wire import sse

_TAIL: Final = b',"logprobs":null,"finish_reason":null}]}\n\n'


class _Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int | None = None
    message: Message | None = None
    content_block: Block | None = None
    delta: _Delta | None = None
    usage: usage.Counts | None = None
    error: Any = None


class _Call:
    """One under way: its number in the chat, how its arguments came so far."""

    __slots__ = ("argued", "at", "whole")

    def __init__(self, at: int, *, whole: bool) -> None:
        self.at = at
        self.argued = self.whole = whole


_EVENT: Final = msgspec.json.Decoder(_Event)
_json: Final = msgspec.json.Encoder().encode


class AnthropicStream(EventDecoder):
    """The events of a message as chunks of a chat. Pings say nothing to a chat's client and are left out."""

    def __init__(self, request: InferenceRequest, headers: Headers) -> None:
        super().__init__()
        self._show_usage = request.include_usage
        self._created = created(headers)
        self._named(answer_id(request), request.model)
        self._begun = False
        self._calls = 0
        self._open: dict[int | None, _Call] = {}  # calls by their blocks' index
        self._finished = False

    def feed(self, data: bytes) -> bytes:
        return b"" if self.ended else self._each(data)

    def finish(self) -> bytes:
        """As for chats: who closes after the stop reason has answered."""
        if self.ended or not self._finished:
            return self._cut_off()
        return self._stop()

    def _block(self, block: bytes) -> bytes:
        data = sse.parse(block).data
        if not data or data.strip() == b"[DONE]":
            self.progress = max(self.progress, 1)
            comments = [line for line in block.split(b"\n") if line.startswith(b":")]
            return b"\n".join(comments) + b"\n\n" if comments and not data else b""
        try:
            event = _EVENT.decode(data)
        except (ValueError, RecursionError):
            return self._fail(failure.rubbish("Anthropic sent an event that cannot be understood"))
        if event.type == "content_block_delta":
            return self._delta(event.delta, event.index)
        return self._turn(event)

    def _turn(self, event: _Event) -> bytes:
        """Whatever begins or ends something."""
        kind = event.type
        if kind == "content_block_start":
            return self._start(event.content_block or Block(), event.index)
        if kind == "content_block_stop":
            return self._close(event.index)
        if kind == "message_start":
            return self._begin(event.message or Message())
        if kind == "message_delta":
            return self._end(event)
        if kind == "message_stop":
            return self._stop()
        if kind == "error" or event.error:
            return self._fail(failure.of_event({"error": event.error}, started=self.progress == 2))
        self.progress = max(self.progress, 1)
        return b""

    def _begin(self, message: Message) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        self.progress = max(self.progress, 1)
        self.usage = usage.read(message.usage, self.usage)
        if message.id and message.model:
            self._named(message.id, message.model)
        return self._chunk(b'{"role":"assistant","content":""}')

    def _start(self, block: Block, index: int | None) -> bytes:
        """Some that speak this dialect give a block's text with its start."""
        if block.type == "tool_use":
            return self._call(block, index)
        if block.type == "redacted_thinking":
            return self._say(b'{"thinking_blocks":[%b]}' % _json(thought(block)))
        said = self._say(b'{"content":%b}' % _json(block.text)) if block.text else b""
        return said + (self._say(b'{"reasoning_content":%b}' % _json(block.thinking)) if block.thinking else b"")

    def _call(self, block: Block, index: int | None) -> bytes:
        """Arguments that stand here already are not told again."""
        at, self._calls = self._calls, self._calls + 1
        given = "" if bytes(block.input) in (b"", b"null", b"{}") else arguments_text(block.input)
        self._open[index] = _Call(at, whole=bool(given))
        function = {"name": block.name or "", "arguments": given}
        call = {"index": at, "id": block.id or "", "type": "function", "function": function}
        return self._say(b'{"tool_calls":[%b]}' % _json(call))

    def _delta(self, delta: _Delta | None, index: int | None) -> bytes:
        if delta is None:
            return b""
        if delta.type == "text_delta":
            return self._say(b'{"content":%b}' % _json(delta.text or ""))
        if delta.type == "input_json_delta":
            if index is None:
                index = next(reversed(self._open), None)
            call = self._open.get(index)
            return self._argue(call, delta.partial_json) if call is not None and delta.partial_json else b""
        if delta.type == "thinking_delta":
            return self._say(b'{"reasoning_content":%b}' % _json(delta.thinking or ""))
        if delta.type == "signature_delta":
            return self._say(b'{"thinking_blocks":[{"type":"thinking","signature":%b}]}' % _json(delta.signature or ""))
        return b""

    def _argue(self, call: _Call, text: str) -> bytes:
        if call.whole:
            return b""
        call.argued = True
        return self._say(b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (call.at, _json(text)))

    def _close(self, index: int | None) -> bytes:
        """A call without arguments streams none, which a client would not take for JSON."""
        call = self._open.pop(index, None)
        return self._argue(call, "{}") if call is not None and not call.argued else b""

    def _end(self, event: _Event) -> bytes:
        self.usage = usage.read(event.usage, self.usage)
        reason = chunk.finish_reason(event.delta.stop_reason) if event.delta is not None else None
        if reason is None or self._finished:
            return b""
        lead = b"" if self._begun else self._begin(Message())
        self.progress = 2
        self._finished = True
        return lead + b'%b{},"logprobs":null,"finish_reason":"%b"}]}\n\n' % (self._head, reason.encode())

    def _stop(self) -> bytes:
        """An answer may end without a stop reason where something else speaks this dialect, but not without a start."""
        if not self._begun:
            return self._cut_off()
        out = b"" if self._finished else b'%b{},"logprobs":null,"finish_reason":"stop"}]}\n\n' % self._head
        self.progress = 2
        self.ended = True
        if self._show_usage:
            out += b'%b"choices":[],"usage":%b}\n\n' % (self._envelope, _json(counted(self.usage or Usage())))
        return out + DONE

    # -- chunks -----------------------------------------------------------------------------------------------------

    def _named(self, ident: str, model: str) -> None:
        self._envelope = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
            _json(ident),
            self._created,
            _json(model),
        )
        self._head = self._envelope + b'"choices":[{"index":0,"delta":'

    def _say(self, delta: bytes) -> bytes:
        lead = b"" if self._begun else self._begin(Message())
        self.progress = 2
        self.tokens += 1
        return lead + self._chunk(delta)

    def _chunk(self, delta: bytes) -> bytes:
        return self._head + delta + _TAIL
