"""What an API server says: pages of lists, lines of watches, and why it refuses. (P)

Invariant: an answer of another shape is a ValueError that names what is wrong, never an empty list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from gateway.sources.kube.kinds import Kind

Key = tuple[str, str]
"""(namespace, name) of an object; the namespace of one that has none is ""."""
MAX_LINE: Final = 16 << 20


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


def page_of(body: bytes, kind: Kind) -> Page:
    """Raises ValueError."""
    said = _list.decode(body)
    if said.kind not in ("", "List", f"{kind.name}List"):
        raise ValueError(f"is a {said.kind[:60]} instead of a {kind.name}List")
    if not said.metadata.resource_version:
        raise ValueError("has no resourceVersion")
    return Page(said.metadata.resource_version, said.metadata.token, said.items or [])


def event_of(line: bytes) -> Event:
    """Raises ValueError."""
    return _event.decode(line)


def named(raw: msgspec.Raw) -> tuple[Key, str]:
    """Whose object this is, and its resource version. Raises ValueError."""
    metadata = _object.decode(raw).metadata
    if not metadata.name or not metadata.resource_version:
        raise ValueError("has no name or no resourceVersion - at `$.metadata`")
    return (metadata.namespace, metadata.name), metadata.resource_version


def version_of(raw: msgspec.Raw) -> str:
    """Raises ValueError."""
    return _versioned.decode(raw).metadata.resource_version


def status_of(body: bytes | msgspec.Raw) -> Status:
    """An empty one, where the body is none."""
    try:
        said = _status.decode(body)
    except ValueError:
        return Status()
    return said if said.kind == "Status" else Status()


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
        """The lines that end in ``chunk``, empty ones left out. Raises ValueError for one that is too long."""
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
            raise ValueError(f"a line of more than {self._limit} bytes")
