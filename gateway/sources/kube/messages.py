"""What an API server says: pages of lists, lines of watches, and why it refuses. (P)

Invariant: an answer of another shape is `Garbage` that says what is wrong, never an empty list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec

from gateway.sources.kube.kinds import Kind

T = TypeVar("T")
Key = tuple[str, str]
"""(namespace, name) of an object; the namespace of one that has none is ""."""
MAX_LINE: Final = 16 << 20
_MAX_WORDS: Final = 1000


class Garbage(Exception):
    """What came is not what API servers send."""


class Named(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str
    resource_version: str
    namespace: str = ""


class _Object(msgspec.Struct, gc=False):
    metadata: Named


class _Version(msgspec.Struct, gc=False, rename="camel"):
    resource_version: str


class _Versioned(msgspec.Struct, gc=False):
    metadata: _Version


class _ListMeta(msgspec.Struct, rename={"resource_version": "resourceVersion", "token": "continue"}):
    resource_version: str
    token: str = ""


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None  # Go writes null for none
    kind: str = ""


class Page(msgspec.Struct, frozen=True):
    """Part of a list. ``token`` asks for the next part, "" where there is none."""

    version: str
    token: str
    items: list[msgspec.Raw]


class Event(msgspec.Struct, frozen=True, gc=False):
    """A line of a watch. ``type``: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: msgspec.Raw


class Details(msgspec.Struct, frozen=True, rename={"retry_after": "retryAfterSeconds"}):
    name: str = ""
    group: str = ""
    kind: str = ""
    causes: list[dict[str, str]] | None = None
    retry_after: float | None = None


class Status(msgspec.Struct, frozen=True):
    """Why a request failed (meta/v1 Status)."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: Details | None = None


_object: Final = msgspec.json.Decoder(_Object)
_versioned: Final = msgspec.json.Decoder(_Versioned)
_list: Final = msgspec.json.Decoder(_List)
_event: Final = msgspec.json.Decoder(Event)
_status: Final = msgspec.json.Decoder(Status)


def _read(decoder: msgspec.json.Decoder[T], said: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(said)
    except (ValueError, RecursionError) as error:
        raise Garbage(str(error)) from None


def page_of(body: bytes, kind: Kind) -> Page:
    """Raises Garbage."""
    said = _read(_list, body)
    if said.kind not in ("", "List", f"{kind.name}List"):
        raise Garbage(f"a {said.kind[:60]} instead of a {kind.name}List")
    if not said.metadata.resource_version:
        raise Garbage("a list without resourceVersion")
    return Page(said.metadata.resource_version, said.metadata.token, said.items or [])


def event_of(line: bytes) -> Event:
    """Raises Garbage."""
    return _read(_event, line)


def named(raw: msgspec.Raw) -> tuple[Key, str]:
    """Whose object this is, and its resource version. Raises Garbage."""
    metadata = _read(_object, raw).metadata
    if not metadata.name or not metadata.resource_version:
        raise Garbage("an object without name or resourceVersion")
    return (metadata.namespace, metadata.name), metadata.resource_version


def version_of(raw: msgspec.Raw) -> str:
    """Raises Garbage."""
    if not (version := _read(_versioned, raw).metadata.resource_version):
        raise Garbage("a bookmark without resourceVersion")
    return version


def status_of(body: bytes | msgspec.Raw) -> Status:
    """An empty one, where the body is none."""
    try:
        said = _read(_status, body)
    except Garbage:
        return Status()
    return said if said.kind == "Status" else Status()


class ApiError(OSError):
    """The server's refusal. ``retry_after`` is in seconds, None where it names no time.

    ``reason`` is the Status object's ("NotFound", "Expired", "Conflict", "Forbidden", …), "" where there is none.
    """

    def __init__(
        self,
        status: int,
        reason: str = "",
        message: str = "",
        retry_after: float | None = None,
        details: Details | None = None,
    ) -> None:
        said = f"{reason}: {message}" if message else reason or "without a word why, as API servers have it"
        super().__init__(f"{status} {said}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.details = details


class Unreachable(OSError):
    """No answer, or none that can be read: sockets, TLS, timeouts, credentials, HTTP that is broken."""


class TooLong(Unreachable):
    """An answer of more bytes than are taken at a time."""


def refusal(said: Status, code: int = 0, retry_after: float | None = None) -> ApiError:
    """``code`` and ``retry_after``: what HTTP says; where it says nothing, the Status counts."""
    gone = 410 if said.reason in ("Expired", "Gone") else 500
    wait = said.details.retry_after if retry_after is None and said.details is not None else retry_after
    return ApiError(code or said.code or gone, said.reason, said.message[:_MAX_WORDS], wait, said.details)


class Lines:
    """Lines out of chunks as they come; each byte is looked at once."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._begun: list[bytes] = []
        self._size = 0

    @property
    def rest(self) -> int:
        """Bytes of the line that has no end yet."""
        return self._size

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that end in ``chunk``, empty ones left out. Raises Garbage for one that is too long."""
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._keep(chunk[start:end])
            line, self._begun, self._size, start = b"".join(self._begun), [], 0, end + 1
            if line.strip():
                yield line
        self._keep(chunk[start:])

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._begun.append(piece)
            self._size += len(piece)
        if self._size > self._limit:
            raise Garbage(f"a line of more than {self._limit} bytes")
