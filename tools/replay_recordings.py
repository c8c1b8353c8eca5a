"""Play recordings of real engines through their adapters, and keep what a client gets: tests/recordings. (IO)

    python tools/replay_recordings.py            which golden files differ; exit code 1 if any does
    python tools/replay_recordings.py --write    write them, for review

Invariant: a replay is the request's way to the engine and the recorded answer's way to the client, nothing made up.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from adapters import registry  # noqa: E402
from gateway.errors import GatewayError  # noqa: E402
from gateway.ports import Decoder  # noqa: E402
from gateway.types import Endpoint, Headers, InferenceRequest, Load, Operation, Usage  # noqa: E402
from protocols.openai import errors, parse  # noqa: E402

RECORDINGS = HERE.parent / "tests" / "recordings"
ADAPTERS = registry.load()
_ID = "req-1"
SAME = b"(the engine's bytes)"
"""Stands in a golden file for a body that is the engine's."""
_OPERATIONS = {operation.value: operation for operation in Operation}

Pieces = Callable[[bytes], Sequence[bytes]]
"""How an answer's body arrives."""


class Recorded(NamedTuple):
    """One exchange with a real engine. ``sent`` is None where the request's body was not kept, or there was none."""

    engine: str
    method: str
    path: str
    sent: bytes | None
    status: int
    headers: Headers
    body: bytes

    @property
    def operation(self) -> Operation | None:
        return _OPERATIONS.get(self.path) if self.method == "POST" else None

    @property
    def streamed(self) -> bool:
        return any(value.startswith(b"text/event-stream") for name, value in self.headers if name == b"content-type")


class Seen(NamedTuple):
    """What a client sees. ``fields`` are those that the answer itself brings."""

    status: int
    fields: Headers
    body: bytes
    usage: Usage | None = None


def read(path: Path) -> Recorded:
    """``NAME.http`` with the ``NAME.request.json`` beside it."""
    first, _, message = path.read_bytes().partition(b"\n")
    head, _, body = message.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    fields = [line.partition(b":") for line in lines]
    method, target = first.decode().lstrip("# ").split()[:2]
    sent = path.with_suffix(".request.json")
    return Recorded(
        path.parent.name.partition("-")[0],
        method,
        target,
        sent.read_bytes() if sent.exists() else None,
        int(status.split()[1]),
        [(name.lower(), value.strip()) for name, _, value in fields],
        body,
    )


def whole(body: bytes) -> Sequence[bytes]:
    return [body] if body else []


def asked(recorded: Recorded) -> InferenceRequest:
    """The request as the gateway reads it; where it would not take it, as little as the answer's decoder needs."""
    operation = recorded.operation
    assert operation is not None
    try:
        return parse.parse(operation, recorded.sent or b"", (), request_id=_ID, path=recorded.path)
    except GatewayError:
        return InferenceRequest(_ID, operation, "tiny", b"{}", path=recorded.path, stream=recorded.streamed)


def upstream(recorded: Recorded) -> str:
    """What becomes of the request: the gateway's refusal, or where it goes and what changes in its body."""
    operation = recorded.operation
    if recorded.sent is None or operation is None:
        return "not kept"
    endpoint = Endpoint(recorded.engine, "http", "127.0.0.1", 8000)
    try:
        request = parse.parse(operation, recorded.sent, (), request_id=_ID, path=recorded.path)
        sent = ADAPTERS[recorded.engine].encode(request, endpoint, request.model)
    except GatewayError as error:
        return f"refused: {error.status} {errors.body(error, operation).decode()}"
    body = "as it came" if sent.body == recorded.sent else sent.body.decode()
    return f"{sent.method.decode()} {sent.path.decode()} {body}"


def seen(recorded: Recorded, pieces: Pieces = whole) -> Seen:
    """What the client gets of the answer, which arrives in ``pieces``."""
    request, adapter = asked(recorded), ADAPTERS[recorded.engine]
    if not 200 <= recorded.status < 300:
        return _failed(adapter.error(recorded.status, recorded.headers, recorded.body), request)
    decoder = adapter.decoder(request, recorded.status, recorded.headers)
    body = b"".join(_fed(decoder, pieces(recorded.body)))
    if decoder.error is None:
        return Seen(200, [(b"content-type", decoder.content_type)], body, decoder.usage)
    if decoder.progress < 2:
        return _failed(decoder.error, request)
    body += errors.event(decoder.error, request.operation)
    return Seen(200, [(b"content-type", decoder.content_type)], body, decoder.usage)


def _fed(decoder: Decoder, pieces: Sequence[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield decoder.feed(piece)
        if decoder.ended or decoder.error is not None:
            return
    yield decoder.finish()


def _failed(error: GatewayError, request: InferenceRequest) -> Seen:
    return Seen(error.status, errors.fields(error), errors.body(error, request.operation))


def golden(recorded: Recorded) -> bytes:
    """The text of ``NAME.client``: what goes to the engine (>), what comes back (<), a blank line, the body."""
    if recorded.operation is None:
        cards = ADAPTERS[recorded.engine].parse_models(recorded.body)
        return msgspec.json.format(msgspec.json.encode(cards), indent=2) + b"\n"
    client = seen(recorded)
    lines = [f"> {upstream(recorded)}", f"< {client.status}"]
    lines += [f"< {name.decode()}: {value.decode()}" for name, value in client.fields]
    if client.usage is not None:
        lines.append(f"< usage: {msgspec.json.encode(client.usage).decode()}")
    return "\n".join([*lines, "", ""]).encode() + (SAME if client.body == recorded.body else client.body)


def load(page: Path) -> bytes:
    """The text of ``metrics*.load``: what the gateway reads of a metrics page."""
    found, nothing = ADAPTERS[page.parent.name.partition("-")[0]].parse_load(page.read_bytes(), 0.0), Load(at=0.0)
    told = {name: value for name in Load.__struct_fields__ if (value := getattr(found, name)) != getattr(nothing, name)}
    return msgspec.json.format(msgspec.json.encode(told, order="sorted"), indent=2) + b"\n"


def exchanges(root: Path = RECORDINGS) -> list[Path]:
    """Every recording an adapter has a part in: operations, and the listings of models that came."""
    found = sorted(root.glob("*/*.http"))
    return [path for path in found if _concerns(read(path))]


def _concerns(recorded: Recorded) -> bool:
    return recorded.operation is not None or (recorded.path == "/v1/models" and recorded.status == 200)


def goldens(root: Path = RECORDINGS) -> Iterator[tuple[Path, bytes]]:
    """Every golden file and what it should hold."""
    for path in exchanges(root):
        yield path.with_suffix(".client"), golden(read(path))
    for page in sorted(root.glob("*/metrics*.prom")):
        yield page.with_suffix(".load"), load(page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write what differs instead of naming it")
    write = parser.parse_args().write
    differing = [(path, text) for path, text in goldens() if not path.exists() or path.read_bytes() != text]
    for path, text in differing:
        if write:
            path.write_bytes(text)
        print("written" if write else "differs", path.relative_to(RECORDINGS))
    return bool(differing) and not write


if __name__ == "__main__":
    sys.exit(main())
