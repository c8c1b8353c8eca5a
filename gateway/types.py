"""The values every part of the gateway speaks in: requests, endpoints, usage, replies. (P)

All are frozen: a request keeps the snapshot of the world it began with. They are msgspec structs rather than
dataclasses because building a frozen one costs 0.3 µs instead of 3 µs.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import msgspec

Headers = Sequence[tuple[bytes, bytes]]
"""Header fields in wire order; names are lower-case, values are stripped of surrounding whitespace."""


class Operation(enum.StrEnum):
    """What a request asks an engine for. The value is the OpenAI path it arrives on."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    RESPONSES = "/v1/responses"
    RERANK = "/v1/rerank"
    MESSAGES = "/v1/messages"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Who is asking, as far as the gateway has verified it."""

    user: str = ""
    tenant: str = ""
    tier: str = ""


ANONYMOUS = Identity()


class InferenceRequest(msgspec.Struct, frozen=True):
    """A client's request, whatever protocol it came in by.

    ``body`` is the client's JSON object, byte for byte. ``view`` is what the front end decoded of it (a struct of the
    few fields the gateway reads, see `protocols.openai.parse`); adapters read it instead of decoding again.
    ``include_usage``: the client asked for usage in its stream. ``deadline`` is on Trio's clock, in seconds.
    """

    id: str
    operation: Operation
    model: str
    body: bytes
    headers: Headers = ()
    path: str = ""
    stream: bool = False
    include_usage: bool = False
    view: object = None
    deadline: float = math.inf
    identity: Identity = ANONYMOUS


class Endpoint(msgspec.Struct, frozen=True):
    """One addressable engine replica (or one public provider).

    ``base_path`` is put before every path the adapter asks for ("" or "/v1beta/openai" — no trailing slash).
    ``headers`` are sent with every request (credentials of the provider). Endpoints compare by value: one that changes
    in the configuration is a new one.
    """

    engine: str
    scheme: str
    host: str
    port: int
    base_path: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    verify: bool = True
    ca_file: str = ""
    versioned: bool = False
    """The base path already names the API version: a leading /v1 of the adapter's path is dropped before joining."""

    @property
    def id(self) -> str:
        """host:port with the base path: unique within a pool, and what operators see in logs and metrics."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{self.base_path}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.id}"

    def __repr__(self) -> str:
        """Without the headers: they hold credentials."""
        return f"Endpoint({self.engine!r}, {self.url!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("engine", self.engine), ("url", self.url)]


class UpstreamRequest(msgspec.Struct, frozen=True, gc=False):
    """What an adapter wants sent; the transport adds host, content-length, the endpoint's headers and base path.

    ``headers`` are the same for every request of a kind (their encoding is kept), ``extra`` this request's own.
    """

    method: bytes
    path: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    extra: Headers = ()


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one request. ``cached`` counts prompt tokens served from the engine's prefix cache."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


class ModelCard(msgspec.Struct, frozen=True):
    """One model an endpoint serves. ``parent`` names the base model if this is a LoRA."""

    id: str
    parent: str | None = None
    max_model_len: int | None = None
    owned_by: str = ""
    created: int = 0
