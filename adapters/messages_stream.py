"""The chunks of a chat, as an adapter's own decoder gives them, as the events of Anthropic's Messages. (P)

Invariant: any split of the upstream bytes gives the same events; every content block that starts stops before the next
one starts; the stream ends with ``message_delta`` and ``message_stop``, and with neither of them if it is not whole.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from adapters import usage
from adapters.messages_reply import Call, Chat, Function, Over, Said, call_id, counts, encode, ident, read, stopped
from adapters.named import MessagesDecoder
from gateway.ports import Decoder
from gateway.types import InferenceRequest

_IDLE: Final = re.compile(rb"(?:[\r\n]|:[^\r\n]*[\r\n])*")
"""Comments and blank lines."""
_LEAD_MAX: Final = 1 << 20


class MessagesStream(Over):
    """A chat's chunks as the events of a message. One block is open at a time, calls come one after the other."""

    def __init__(self, inner: Decoder, request: InferenceRequest) -> None:
        super().__init__(inner, request)
        self._native = False
        self._lead: bytes | None = b""  # what came before it was clear what speaks
        self._begun = False
        self._index = -1  # of the open block, or of the last one
        self._open = ""  # its type
        self._call: Any = None  # the index of the open call in the chat
        self._calls = 0
        self._called: set[int] = set()  # all their indices
        self._stopped: tuple[str, str | None] = ("end_turn", None)

    def feed(self, data: bytes) -> bytes:
        if self._lead is not None:
            data = self._decided(self._lead + data)
        return self._events(self._inner.feed(data)) if data and self.error is None else b""

    def finish(self) -> bytes:
        lead, self._lead = self._lead, None
        out = self._inner.feed(lead) if lead else b""
        return self._events(out + self._inner.finish()) if self.error is None else b""

    def _decided(self, lead: bytes) -> bytes:
        """Everything from the first event on, once it is clear whether it is a chunk or a named one; b"" before."""
        idle = _IDLE.match(lead)
        lead = lead[idle.end() :] if idle is not None else lead
        if len(lead) < len(b"event:") or (lead.startswith(b":") and len(lead) < _LEAD_MAX):
            self._lead = lead
            return b""
        self._lead = None
        if lead.startswith(b"event:"):
            self._inner, self._native = MessagesDecoder(), True
        return lead

    def _events(self, chunks: bytes) -> bytes:
        """``chunks`` are whole events, each one line of data or comments."""
        self._copy()
        if self._native:
            return chunks
        out = []
        for event in chunks.split(b"\n\n"):
            if event.startswith(b"data: "):
                out.append(self._event(event[6:]))
            elif event.startswith(b":"):
                out.append(event + b"\n\n")
            if self.error is not None and self.error is not self._inner.error:
                break
        return b"".join(out)

    def _event(self, payload: bytes) -> bytes:
        if payload == b"[DONE]":
            return self._end()
        chunk = read(payload)
        if chunk is None:
            return self._rubbish()
        out = b"" if self._begun else self._start(chunk)
        for choice in chunk.choices or ():
            if choice.delta is not None:
                out += self._delta(choice.delta)
            if choice.finish_reason:
                self._stopped = stopped(choice, called=self._calls > 0)
        return out

    def _start(self, chunk: Chat) -> bytes:
        """The prompt's length is told here by engines that count in every chunk; by others at the end."""
        self._begun = True
        message: dict[str, Any] = {
            "id": chunk.id if isinstance(chunk.id, str) and chunk.id else ident(self._request),
            "type": "message",
            "role": "assistant",
            "model": chunk.model if isinstance(chunk.model, str) else self._request.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**counts(usage.read(usage.loose(chunk.usage))), "output_tokens": 0},
        }
        return b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n' % encode(message)

    def _delta(self, said: Said) -> bytes:
        out = b""
        if (said.reasoning_content or said.reasoning) and (thought := said.thought):
            out = self._text("thinking", b'"thinking_delta","thinking":', thought)
        if (said.content or said.refusal) and (text := said.text):
            out += self._text("text", b'"text_delta","text":', text)
        for call in said.tool_calls or ():
            out += self._told(call)
        return out

    def _text(self, kind: str, delta: bytes, text: str) -> bytes:
        opened = b""
        if self._open != kind:
            empty = {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}
            opened = self._block(empty)
        return opened + self._block_delta(delta + encode(text))

    def _told(self, call: Call) -> bytes:
        """A call has ended where another one or text begins, and no client could put together what follows."""
        function = call.function or Function()
        out = b""
        name = function.name if isinstance(function.name, str) else ""
        another = bool(name) if call.index is None else call.index != self._call
        if self._open != "tool_use" or another:
            if isinstance(call.index, int):
                if not name and call.index in self._called:
                    return self._rubbish("the engine went on with a call that had ended")
                self._called.add(call.index)
            ident = call_id(call.id, self._request, self._calls)
            out = self._block({"type": "tool_use", "id": ident, "name": name, "input": {}})
            self._call, self._calls = call.index, self._calls + 1
        if function.arguments:
            given = function.arguments
            text = given if isinstance(given, str) else json.dumps(given)
            out += self._block_delta(b'"input_json_delta","partial_json":' + encode(text))
        return out

    def _block(self, block: dict[str, Any]) -> bytes:
        """Close what is open, and begin this."""
        out = self._close()
        self._index += 1
        self._open = block["type"]
        start = b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
        return out + start % (self._index, encode(block))

    def _block_delta(self, delta: bytes) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b}}\n\n'
            % (self._index, delta)
        )

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index

    def _end(self) -> bytes:
        reason, sequence = self._stopped
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        used = counts(self.usage, self.tokens)
        begun = b"" if self._begun else self._start(Chat())
        return (
            begun
            + self._close()
            + b'event: message_delta\ndata: {"type":"message_delta","delta":%b,"usage":%b}\n\n'
            % (encode(delta), encode(used))
            + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
        )
