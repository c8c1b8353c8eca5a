"""Recorded answers and the little that adapter tests share."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.ports import Decoder
from gateway.types import Endpoint, Headers, InferenceRequest, Operation
from tests.recordings import folder


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: bytes


def answer(name: str) -> Answer:
    """``engine/NAME`` as recorded; without a version, of the newest release."""
    where, _, which = name.partition("/")
    _, _, message = (folder(where) / f"{which}.http").read_bytes().partition(b"\n")
    head, _, body = message.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    fields = [line.partition(b":") for line in lines]
    return Answer(int(status.split()[1]), [(n.lower(), v.strip()) for n, _, v in fields], body)


def events(body: bytes) -> Answer:
    return Answer(200, [(b"content-type", b"text/event-stream")], body)


def request(
    body: bytes = b'{"model":"tiny","messages":[]}',
    *,
    operation: Operation = Operation.CHAT,
    stream: bool = False,
    include_usage: bool = False,
    model: str = "tiny",
    headers: Headers = (),
) -> InferenceRequest:
    return InferenceRequest("req-1", operation, model, body, headers, operation.value, stream, include_usage)


def endpoint(base_path: str = "", labels: tuple[tuple[str, str], ...] = ()) -> Endpoint:
    return Endpoint("x", "http", "127.0.0.1", 8000, base_path, labels=labels)


def run(decoder: Decoder, pieces: Sequence[bytes]) -> bytes:
    return b"".join([decoder.feed(piece) for piece in pieces]) + decoder.finish()


def split(body: bytes, size: int) -> list[bytes]:
    return [body[i : i + size] for i in range(0, len(body), size)]
