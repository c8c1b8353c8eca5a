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
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    message: Message | None = None
    content_block: Block | None = None
    delta: _Delta | None = None
    usage: usage.Counts | None = None
    error: Any = None


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
        self._calling = False  # the open block is a call
        self._argued = False  # and it has arguments
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
            return self._delta(event.delta)
        return self._turn(event)

    def _turn(self, event: _Event) -> bytes:
        """Whatever begins or ends something."""
        kind = event.type
        if kind == "content_block_start":
            return self._open(event.content_block or Block())
        if kind == "content_block_stop":
            return self._close()
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

    def _open(self, block: Block) -> bytes:
        """Some that speak this dialect give a block's text with its start."""
        self._calling = block.type == "tool_use"
        if self._calling:
            return self._call(block)
        if block.type == "redacted_thinking":
            return self._say(b'{"thinking_blocks":[%b]}' % _json(thought(block)))
        said = self._say(b'{"content":%b}' % _json(block.text)) if block.text else b""
        return said + (self._say(b'{"reasoning_content":%b}' % _json(block.thinking)) if block.thinking else b"")

    def _call(self, block: Block) -> bytes:
        at, self._calls = self._calls, self._calls + 1
        given = "" if bytes(block.input) in (b"", b"null", b"{}") else arguments_text(block.input)
        self._argued = bool(given)
        function = {"name": block.name, "arguments": given}
        call = {"index": at, "id": block.id, "type": "function", "function": function}
        return self._say(b'{"tool_calls":[%b]}' % _json(call))

    def _delta(self, delta: _Delta | None) -> bytes:
        if delta is None:
            return b""
        if delta.type == "text_delta":
            return self._say(b'{"content":%b}' % _json(delta.text))
        if delta.type == "input_json_delta":
            return self._argue(delta.partial_json) if delta.partial_json and self._calling else b""
        if delta.type == "thinking_delta":
            return self._say(b'{"reasoning_content":%b}' % _json(delta.thinking))
        if delta.type == "signature_delta":
            return self._say(b'{"thinking_blocks":[{"type":"thinking","signature":%b}]}' % _json(delta.signature))
        return b""

    def _argue(self, text: str) -> bytes:
        self._argued = True
        return self._say(b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (self._calls - 1, _json(text)))

    def _close(self) -> bytes:
        """A call without arguments streams none, which a client would not take for JSON."""
        bare = self._calling and not self._argued
        self._calling, out = False, self._argue("{}") if bare else b""
        return out

    def _end(self, event: _Event) -> bytes:
        self.usage = usage.read(event.usage, self.usage)
        reason = chunk.finish_reason(event.delta.stop_reason) if event.delta is not None else None
        if reason is None or self._finished:
            return b""
        self.progress = 2
        self._finished = True
        return b'%b{},"logprobs":null,"finish_reason":"%b"}]}\n\n' % (self._head, reason.encode())

    def _stop(self) -> bytes:
        """An answer may end without a stop reason where something else speaks this dialect."""
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
