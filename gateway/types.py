"""The values every part of the gateway speaks in: requests, endpoints, usage, replies. (P)

All are frozen: a request keeps the snapshot of the world it began with. They are msgspec structs rather than
dataclasses because building a frozen one costs 0.3 µs instead of 3 µs.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gateway.entrance import Entrance

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
    COUNT_TOKENS = "/v1/messages/count_tokens"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Who is asking, as far as the gateway has verified it.

    ``models``: glob patterns of what it may ask for, none meaning everything. ``claims`` are those of its token that
    the configuration speaks of. ``address`` (without port) tells anonymous callers apart; "" where somebody is known.
    """

    user: str = ""
    tenant: str = ""
    tier: str = ""
    models: tuple[str, ...] = ()
    claims: tuple[tuple[str, str], ...] = ()
    address: str = ""

    @property
    def caller(self) -> str:
        """What separates this caller from others of its tenant: the user, or an anonymous one's address."""
        return self.user or f"anonymous@{self.address}"

    @property
    def flow(self) -> tuple[str, str]:
        """(tenant, caller): whom fairness is kept between. Who has no tenant is one of its own."""
        caller = self.caller
        return self.tenant or caller, caller


ANONYMOUS = Identity()


class InferenceRequest(msgspec.Struct, frozen=True):
    """A client's request, whatever protocol it came in by.

    ``body`` is the client's JSON object, byte for byte. ``view`` is what the front end decoded of it (a struct of the
    few fields the gateway reads, see `protocols.openai.parse`); adapters read it instead of decoding again.
    ``include_usage``: the client asked for usage in its stream. ``deadline`` is on Trio's clock, in seconds. ``query``
    is what stood behind the question mark, percent-encoded as it came. ``protocol``: "http", "grpc" or "ext_proc".
    ``only``: no endpoints but these may be asked, each "address:port", or "address" for all its ports; None: any.
    ``objective``: by its name a pool knows how urgent the request is; set only where whoever sends it is believed.
    ``entrance``: the Gateways that it came in by, None for none.
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
    query: str = ""
    protocol: str = "http"
    only: tuple[str, ...] | None = None
    objective: str = ""
    entrance: Entrance | None = None

    @property
    def named(self) -> str:
        """The model as the client's body names it, "" where no body was read."""
        return getattr(self.view, "model", "")


def bracketed(host: str) -> str:
    """As hosts stand before a port."""
    return f"[{host}]" if ":" in host else host


AUTO = "auto"
ANY = "any"
PLAIN = "plain"
"""Of an `Endpoint` configured as `AUTO` or `ANY` it is found out which engine it is. One of `ANY` that answers like
none that is known is `PLAIN`: whoever gave its address knows that it serves.
"""
UNKNOWN = (AUTO, ANY)


class Endpoint(msgspec.Struct, frozen=True, cache_hash=True):
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
    query: str = ""
    """Goes behind every path, percent-encoded; it may hold credentials."""
    deployments: bool = False
    """Models are part of the path, as at Azure."""
    outward: bool = False
    """Whoever named it may not reach the gateway itself or its machine by it, whatever the name resolves to."""

    @property
    def id(self) -> str:
        """host:port with the base path: unique within a pool, and what operators see in logs and metrics."""
        return f"{self.address}{self.base_path}"

    @property
    def address(self) -> str:
        """host:port, "[…]:port" for IPv6."""
        return f"{bracketed(self.host)}:{self.port}"

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


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What a request wants of one account: ``amount`` at once, of ``burst`` at most, leaking at ``rate`` a second.

    ``rate`` 0: a place that is held until it is given back, of ``burst`` places. ``key`` says whose and what, never how
    much is allowed: it outlives changes of the limit.
    """

    key: str
    amount: float
    rate: float
    burst: float


class Taken(msgspec.Struct, frozen=True, gc=False):
    """Whether all demands were met, or none. ``wait``: seconds until they could be, 0 if they were; for a place
    nobody knows, and it is 1. ``used``: what each account has used, this request included if it was granted.
    ``at``: when, in seconds on the store's own clock.
    """

    granted: bool
    wait: float
    used: tuple[float, ...]
    at: float = 0.0


class Ration(msgspec.Struct, frozen=True, gc=False):
    """What a provider will still take of us: requests and tokens left, and the seconds until there are more of each.

    Infinity left: nothing is said of it.
    """

    requests: float = math.inf
    requests_reset: float = 0.0
    tokens: float = math.inf
    tokens_reset: float = 0.0

    @property
    def wait(self) -> float:
        """Seconds until it takes anything at all; 0 if it does now."""
        return max(
            self.requests_reset if self.requests < 1 else 0.0,
            self.tokens_reset if self.tokens < 1 else 0.0,
        )


class ModelCard(msgspec.Struct, frozen=True):
    """One model an endpoint serves. ``parent`` names the base model if this is a LoRA."""

    id: str
    parent: str | None = None
    max_model_len: int | None = None
    owned_by: str = ""
    created: int = 0


class Load(msgspec.Struct, frozen=True, gc=False):
    """What an engine said of itself at ``at`` (seconds on Trio's clock), all its data-parallel ranks together.

    Gauges first, None or 0 where the engine has no such number: ``kv_usage`` is the fraction of KV blocks in use,
    ``block_size`` is in tokens, ``blocks`` counts them over all ranks. ``loras``: adapters that running requests use.
    Then counters since the engine started, by which two loads are compared: sums are in seconds, ``*_tokens`` count
    prompt tokens, tokens made, prompt tokens looked up in and served from the prefix cache, ``finished`` requests that
    ended, however. ``ttft`` and ``tpot`` are
    means in seconds over the recent past; a page does not hold them, they come of the difference between two.
    """

    at: float = 0.0
    waiting: float = 0.0
    running: float = 0.0
    kv_usage: float | None = None
    block_size: int = 0
    blocks: int = 0
    asleep: bool = False
    loras: frozenset[str] | None = None
    waiting_loras: frozenset[str] = frozenset()
    max_loras: int = 0
    ttft_sum: float = 0.0
    ttft_count: float = 0.0
    tpot_sum: float = 0.0
    tpot_count: float = 0.0
    prompt_tokens: float = 0.0
    generated_tokens: float = 0.0
    queried_tokens: float = 0.0
    hit_tokens: float = 0.0
    finished: float = 0.0
    started: float = 0.0
    ttft: float | None = None
    tpot: float | None = None
