"""The fake engine of upstream.c for machines without a C compiler: same arguments, same bytes, slower. (IO)

Invariant: a stream is max_tokens numbered tokens, one HTTP chunk each, then finish, usage and [DONE].

    python benchmarks/upstream.py PORT [TOKENS [PACE_US [TOKENS_PER_WRITE [EVENT_BYTES]]]]
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping

import httptools
import msgspec
import trio

_ID = '"id":"chatcmpl-81f12d222dc27c7a","object":"chat.completion.chunk","created":1795233512,"model":"m"'
_GOLDEN = 0.6180339887498949
_UNKNOWN = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


def _canned(content: str, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n\r\n"
    return (head + content).encode()


WHOLE_JSON = (
    '{"id":"chatcmpl-81f12d222dc27c7a","object":"chat.completion","created":1795233512,"model":"m","choices":'
    '[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you today? Ask me anything."},'
    '"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}'
)
MODELS_JSON = (
    '{"object":"list","data":[{"id":"m","object":"model","created":1795233512,"owned_by":"vllm","root":"m",'
    '"max_model_len":131072}]}'
)
VERSION_JSON = '{"version":"0.11.0"}'
METRICS = "".join(
    f'# TYPE vllm:{name} gauge\nvllm:{name}{{model_name="m"}} {value}\n'
    for name, value in (("num_requests_running", 1.0), ("num_requests_waiting", 0.0), ("kv_cache_usage_perc", 0.1))
)
PAGES: Mapping[bytes, bytes] = {
    b"/v1/models": _canned(MODELS_JSON),
    b"/version": _canned(VERSION_JSON),
    b"/health": _canned("", "text/plain"),
    b"/metrics": _canned(METRICS, "text/plain; version=0.0.4; charset=utf-8"),
}
_WHOLE = _canned(WHOLE_JSON)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class _Asked(msgspec.Struct):
    stream: bool = False
    max_tokens: int | None = None


def _chunk(event: str, pad: int = 0) -> bytes:
    fill = min(max(0, pad - len(event) - 26), 2048)
    data = (f'{event[:-1]},"system_fingerprint":"{"0" * fill}"}}' if fill else event).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(choices: str, rest: str = "") -> str:
    return f'data: {{{_ID},"choices":[{choices}]{rest}}}'


def _token(number: int, pad: int) -> bytes:
    delta = f'{{"index":0,"delta":{{"content":" {number}"}},"logprobs":null,"finish_reason":null,"token_ids":null}}'
    return _chunk(_event(delta), pad)


def _tail(tokens: int) -> bytes:
    last = '{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"length","stop_reason":null}'
    usage = f',"usage":{{"prompt_tokens":9,"total_tokens":{9 + tokens},"completion_tokens":{tokens}}}'
    return _chunk(_event(last)) + _chunk(_event("", usage)) + _chunk("data: [DONE]") + b"0\r\n\r\n"


class Engine:
    """The canned answers and the pace."""

    def __init__(self, tokens: int = 128, pace_s: float = 0.0, per_write: int = 1, event_bytes: int = 200) -> None:
        self.tokens = tokens
        self.pace_s = pace_s
        self.per_write = per_write
        self.event_bytes = event_bytes
        role = '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        self._head = _STREAM_HEAD + _chunk(_event(role))
        self._rendered: list[bytes] = []
        self._streams = itertools.count()

    def _text(self, tokens: int) -> list[bytes]:
        while len(self._rendered) < tokens:
            self._rendered.append(_token(len(self._rendered), self.event_bytes))
        return self._rendered

    async def answer(self, stream: trio.abc.Stream, path: bytes, method: bytes, body: bytes) -> None:
        """Write one answer."""
        if method != b"POST":
            return await stream.send_all(PAGES.get(path, _UNKNOWN))
        asked = msgspec.json.decode(body, type=_Asked)
        if not asked.stream:
            return await stream.send_all(_WHOLE)
        return await self._stream(stream, asked.max_tokens or self.tokens)

    async def _stream(self, stream: trio.abc.Stream, tokens: int) -> None:
        text, step = self._text(tokens), self.per_write
        await stream.send_all(self._head)
        # Streams that begin together are spread over one pace.
        due = trio.current_time() + (next(self._streams) * _GOLDEN % 1.0) * self.pace_s
        for at in range(0, tokens, step):
            if self.pace_s:
                await trio.sleep_until(due)
                due += self.pace_s
            await stream.send_all(b"".join(text[at : min(at + step, tokens)]))
        await stream.send_all(_tail(tokens))


class _Reader:
    """What httptools calls: collects one request."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self.path, self.body, self.complete = b"", b"", False

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


async def serve(stream: trio.abc.Stream, engine: Engine) -> None:
    """One connection, one request at a time, until the client goes (noticed between writes only)."""
    reader = _Reader()
    try:
        while data := await stream.receive_some(65536):
            reader.parser.feed_data(data)
            if reader.complete:
                reader.complete = False
                await engine.answer(stream, reader.path, reader.parser.get_method(), reader.body)
    except (trio.BrokenResourceError, httptools.HttpParserError, msgspec.DecodeError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def main(port: int, engine: Engine) -> None:
    """Serve until killed."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1", backlog=4096)
    print(f"ready {listeners[0].socket.getsockname()[1]}", flush=True)
    await trio.serve_listeners(lambda stream: serve(stream, engine), listeners)


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]] + [0, 128, 0, 1, 200][len(sys.argv) - 1 :]
    trio.run(main, given[0], Engine(given[1], given[2] / 1e6, max(1, given[3]), given[4]))
