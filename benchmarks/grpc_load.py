"""gRPC load at hardly any cost of its own: frames prepared once, sent again and again, replies counted. (IO)

    grpc_load.py PORT PATH MESSAGE_FILE... [--replies N...] [--connections C] [--streams S] [--seconds T]

Each message file is a step of one call: its message is sent, then so many replies are waited for; after the last step
the client's side is closed. Prints JSON: calls and messages a second, and failures by status.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import struct
import time
from collections import Counter
from pathlib import Path

import hpack

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_CHUNK = 16384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload) << 8 | kind)[:4] + struct.pack(">BI", flags, stream) + payload


class Call:
    """What one stream has still to do."""

    __slots__ = ("owed", "rest", "step")

    def __init__(self) -> None:
        self.step = self.owed = 0
        self.rest = b""


class Connection:
    """One connection with ``streams`` calls under way at a time."""

    def __init__(self, port: int, fields: list[tuple[str, str]], steps: list[tuple[bytes, int]], streams: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        encoder = hpack.Encoder()
        self.heads = [encoder.encode(fields), encoder.encode(fields)]  # literal at first, then from the table
        self.decoder = hpack.Decoder()
        self.steps = steps
        self.calls: dict[int, Call] = {}
        self.next_id = 1
        self.window = 65535
        self.buffer = b""
        self.done = self.messages = 0
        self.failures: Counter[str] = Counter()
        self.received = 0
        start = frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1))
        self.socket.sendall(_PREFACE + start + frame(_WINDOW, 0, 0, struct.pack(">I", 2**31 - 1 - 65535)))
        self.outbox = [self.open() for _ in range(streams)]

    def open(self) -> bytes:
        """The frames of a new call, up to where it has to wait."""
        stream, self.next_id = self.next_id, self.next_id + 2
        head = self.heads[stream > 1]
        self.calls[stream] = Call()
        return frame(_HEADERS, _END_HEADERS, stream, head) + self.advance(stream)

    def advance(self, stream: int) -> bytes:
        call, out = self.calls[stream], b""
        while call.step < len(self.steps) and call.owed <= 0:
            message, replies = self.steps[call.step]
            call.step += 1
            call.owed += replies
            last = call.step == len(self.steps)
            cuts = range(0, len(message), _CHUNK)
            for at in cuts:
                piece = message[at : at + _CHUNK]
                out += frame(_DATA, _END_STREAM if last and at == cuts[-1] else 0, stream, piece)
        return out

    def read(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        data = self.buffer + data
        at, end = 0, len(data)
        while end - at >= 9:
            length = int.from_bytes(data[at : at + 3], "big")
            if end - at < 9 + length:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            self.take(kind, flags, stream, data[at + 9 : at + 9 + length])
            at += 9 + length
        self.buffer = data[at:]

    def take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self.count(self.calls[stream], payload)
            if self.calls[stream].owed <= 0 and not flags & _END_STREAM:
                self.outbox.append(self.advance(stream))
        elif kind == _HEADERS:
            fields = dict(self.decoder.decode(payload, raw=True))
            if flags & _END_STREAM:
                status = fields.get(b"grpc-status", b"?")
                if status != b"0":
                    self.failures[f"{status.decode()} {fields.get(b'grpc-message', b'').decode()}"] += 1
                del self.calls[stream]
                self.done += 1
                self.outbox.append(self.open())
        elif kind == _RESET:
            self.failures["reset"] += 1
            if self.calls.pop(stream, None) is not None:
                self.outbox.append(self.open())
        elif kind == _SETTINGS and not flags & _ACK:
            self.outbox.append(frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self.outbox.append(frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            raise ConnectionError(f"goaway {payload!r}")

    def count(self, call: Call, payload: bytes) -> None:
        data = call.rest + payload if call.rest else payload
        at, end = 0, len(data)
        while end - at >= 5:
            length = int.from_bytes(data[at + 1 : at + 5], "big")
            if end - at < 5 + length:
                break
            at += 5 + length
            call.owed -= 1
            self.messages += 1
        call.rest = data[at:]

    def flush(self) -> None:
        out = b"".join(self.outbox)
        self.outbox.clear()
        if out:
            self.socket.sendall(out)


def run(
    port: int, path: str, steps: list[tuple[bytes, int]], connections: int, streams: int, seconds: float
) -> dict[str, object]:
    fields = [
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", f"127.0.0.1:{port}"),
        ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "grpc-load"),
    ]  # fmt: skip
    framed = [(b"\0" + struct.pack(">I", len(message)) + message, replies) for message, replies in steps]
    everybody = [Connection(port, fields, framed, streams) for _ in range(connections)]
    selector = selectors.DefaultSelector()
    for each in everybody:
        selector.register(each.socket, selectors.EVENT_READ, each)
        each.flush()
    warm, began = False, time.perf_counter()
    done = messages = 0
    while True:
        now = time.perf_counter()
        if not warm and now - began > 0.5:
            warm, began = True, now
            done, messages = sum(each.done for each in everybody), sum(each.messages for each in everybody)
        if warm and now - began > seconds:
            break
        for key, _ in selector.select(1.0):
            key.data.read()
            key.data.flush()
    failures: Counter[str] = sum((each.failures for each in everybody), Counter())
    elapsed = now - began
    return {
        "calls_per_s": (sum(each.done for each in everybody) - done) / elapsed,
        "messages_per_s": (sum(each.messages for each in everybody) - messages) / elapsed,
        "failures": dict(failures),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("messages", nargs="+", type=Path)
    parser.add_argument("--replies", nargs="+", type=int, help="to each message (default: one to the last, 0 before)")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    replies = args.replies or [0] * (len(args.messages) - 1) + [1]
    steps = [(file.read_bytes(), count) for file, count in zip(args.messages, replies, strict=True)]
    print(json.dumps(run(args.port, args.path, steps, args.connections, args.streams, args.seconds)))


if __name__ == "__main__":
    main()
