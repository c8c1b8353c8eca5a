"""GatewayConfiguration: how the program itself behaves, every field with its default. (P)

Invariant: a `Settings` has been checked as far as one process can without touching anything outside.
"""

from __future__ import annotations

import math
import re
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, field

from gateway.config.decode import Duration, Fault, Hidden, Limit, Section
from gateway.config.scheduler import Scheduler
from gateway.config.url import is_loopback

Count = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(ge=0)]
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def split_address(address: str) -> tuple[str, int]:
    """ "host:port" or "[v6]:port" → host and port; an empty host means every interface. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise ValueError(f'expected an address such as "127.0.0.1:8080", got {address!r}')
    return host or "0.0.0.0", int(port)


# --- listeners --------------------------------------------------------------------------------------------------------


class TLS(Section, frozen=True):
    """PEM files; both or neither."""

    cert_file: str
    key_file: str


class _Listener(Section, frozen=True):
    address: str

    def __post_init__(self) -> None:
        try:
            split_address(self.address)
        except ValueError as error:
            raise Fault(".address", str(error)) from None

    @property
    def host(self) -> str:
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        return split_address(self.address)[1]

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)


class HttpListener(_Listener, frozen=True):
    """The OpenAI API. Sizes in bytes."""

    address: str = "127.0.0.1:8080"
    tls: TLS | None = None
    max_body_bytes: Count = 32 * 1024 * 1024
    max_header_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024
    header_timeout: Duration = Duration(10)
    idle_timeout: Duration = Duration(75)
    max_connections: Count = 16_384


class GrpcListener(_Listener, frozen=True):
    address: str = "127.0.0.1:50051"
    tls: TLS | None = None
    client_ca_file: str | None = field(default=None, name="clientCAFile")


class AdminListener(_Listener, frozen=True):
    address: str = "127.0.0.1:9090"


class ExtProcListener(_Listener, frozen=True):
    """Envoy's external processor; ``pool`` is the pool it picks from, "namespace/name" or a name in "default"."""

    address: str = "127.0.0.1:9002"
    pool: str | None = None
    tls: TLS | None = None


class Listeners(Section, frozen=True):
    http: HttpListener = HttpListener()
    grpc: GrpcListener = GrpcListener()
    admin: AdminListener = AdminListener()
    ext_proc: ExtProcListener | None = None

    def __post_init__(self) -> None:
        taken: dict[tuple[str, int], str] = {}
        for name, listener in (
            ("http", self.http),
            ("grpc", self.grpc),
            ("admin", self.admin),
            ("extProc", self.ext_proc),
        ):
            if listener is None or listener.port == 0:
                continue
            first = taken.setdefault((listener.host, listener.port), name)
            if first != name:
                raise Fault(f".{name}.address", f"{listener.address} is the {first} listener's already")


# --- auth -------------------------------------------------------------------------------------------------------------


class APIKey(Section, frozen=True):
    """``key_sha256`` is the hex digest of the key; ``models`` are glob patterns, none meaning every model."""

    name: Annotated[str, Meta(min_length=1)]
    key_sha256: Hidden
    user: str = ""
    tenant: str = ""
    tier: str = ""
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _SHA256.match(self.key_sha256.reveal()):
            raise Fault(".keySha256", "expected 64 lower-case hexadecimal digits")


class OAuth(Section, frozen=True):
    introspection_url: str
    client_id: Annotated[str, Meta(min_length=1)]
    client_secret_file: str

    def __post_init__(self) -> None:
        _check_url(".introspectionUrl", self.introspection_url, ("https",))


class Auth(Section, frozen=True):
    """Empty strings mean unset, as in published files. ``required`` None: as soon as anything is configured."""

    issuer: str = ""
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    api_keys: tuple[APIKey, ...] = ()
    oauth: OAuth | None = None
    required: bool | None = None

    def __post_init__(self) -> None:
        if self.jwks_uri:
            _check_url(".jwksUri", self.jwks_uri, ("https", "file"))
            if not self.issuer:
                raise Fault(".issuer", "needed with jwksUri: tokens meant for others would be believed without it")
        if self.required and not self.configured:
            raise Fault(".required", "true, but neither apiKeys, jwksUri nor oauth say who is let in")
        for name, values in (
            ("name", [key.name for key in self.api_keys]),
            ("keySha256", [key.key_sha256.reveal() for key in self.api_keys]),
        ):
            for index, value in enumerate(values):
                if values.index(value) != index:
                    raise Fault(f".apiKeys[{index}].{name}", "given twice")

    @property
    def configured(self) -> bool:
        return bool(self.jwks_uri or self.api_keys or self.oauth)


def _check_url(path: str, url: str, schemes: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        allowed = parts.scheme in schemes or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        usable = allowed and "@" not in parts.netloc and bool(parts.path if parts.scheme == "file" else parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise Fault(path, f"expected an {' or '.join(schemes)} URL")


# --- sharing ----------------------------------------------------------------------------------------------------------


class Tier(Section, frozen=True):
    """``weight``: share of the service; ``priority``: higher is served first."""

    weight: Annotated[float, Meta(gt=0)] = 1.0
    priority: int = 0


class Fairness(Section, frozen=True):
    enabled: bool = False
    window_size: Duration = Duration(600)
    input_token_weight: Weight = 1.0
    output_token_weight: Weight = 2.0
    queue_qps: Annotated[float, Meta(gt=0)] | None = field(default=None, name="queueQPS")
    max_concurrent: Annotated[int, Meta(ge=0)] = 0
    queue_timeout: Duration = Duration(60)
    max_queued: Count = 10_000
    tiers: dict[str, Tier] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 60 <= self.window_size <= 3600:
            raise Fault(".windowSize", "expected 1m to 1h")


class LimitMatch(Section, frozen=True):
    """Glob patterns, all of which have to hold; "*" in ``user`` or ``tenant`` still counts each one separately."""

    user: str | None = None
    tenant: str | None = None
    tier: str | None = None
    model: str | None = None


class RateLimits(Section, frozen=True):
    match: LimitMatch = LimitMatch()
    requests_per_minute: Count | None = None
    input_tokens_per_minute: Count | None = None
    output_tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None

    def __post_init__(self) -> None:
        given = (
            self.requests_per_minute,
            self.input_tokens_per_minute,
            self.output_tokens_per_minute,
            self.concurrent_requests,
        )
        if all(limit is None for limit in given):
            raise ValueError("limits nothing: give at least one of requestsPerMinute, inputTokensPerMinute, …")


class Redis(Section, frozen=True):
    """A ``redis://``, ``rediss://`` or ``unix://`` URL; it may hold a password, hence hidden."""

    url: Hidden

    def __post_init__(self) -> None:
        if not self.url.reveal().startswith(("redis://", "rediss://", "unix://")):
            raise Fault(".url", "expected a redis://, rediss:// or unix:// URL")


class State(Section, frozen=True):
    redis: Redis | None = None


# --- the walk of a request --------------------------------------------------------------------------------------------


class Timeouts(Section, frozen=True):
    """One bound per phase of an attempt, ``request`` over all of them; 0 is no bound (infinity here)."""

    connect: Limit = Limit(5)
    first_token: Limit = Limit(600)
    between_tokens: Limit = Limit(180)
    request: Limit = Limit(math.inf)
    client_write: Limit = Limit(60)


class Retry(Section, frozen=True):
    """``attempts``: endpoints tried at most, the first included; ``budget``: retries as a share of all requests."""

    attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    budget: Annotated[float, Meta(ge=0, le=1)] = 0.2


class Ejection(Section, frozen=True):
    """When an endpoint that does answer is set aside for being much worse than its pool.

    ``failure_share`` of the last 50 requests, ``min_requests`` at least, and twice the others' share; or the time to
    the first token over what was expected ``latency_ratio`` times the others', and ``latency_excess`` seconds late.
    ``max_share``: of a pool's usable endpoints, at once.
    """

    max_share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    failure_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    min_requests: Annotated[int, Meta(ge=2, le=50)] = 10
    latency_ratio: Annotated[float, Meta(gt=1)] = 5.0
    latency_excess: Duration = Duration(2)


class HealthSettings(Section, frozen=True):
    """When endpoints are set aside, and how they come back.

    ``consecutive_failures`` open the circuit; silence of ``hung_after``, though polled, means hung; ``slow_start``
    is how long it takes to get a full share. Infinity (0 in the file): never hung, no slow start.
    """

    consecutive_failures: Count = 3
    hung_after: Limit = Limit(5)
    slow_start: Limit = Limit(10)
    ejection: Ejection = Ejection()


class Streaming(Section, frozen=True):
    """``keep_alive``: a comment goes to a client that has waited this long for the next event; 0: never."""

    keep_alive: Limit = Limit(15)


class Scraping(Section, frozen=True):
    """Every ``interval`` each engine is asked for its load; one that takes longer than ``timeout`` is asked again."""

    interval: Duration = Duration(0.2)
    timeout: Duration = Duration(1)

    def __post_init__(self) -> None:
        if not 0.02 <= self.interval <= 60:
            raise Fault(".interval", "expected 20ms to 1m")
        if self.timeout <= 0:
            raise Fault(".timeout", "expected more than 0")


class Settings(Section, frozen=True):
    listeners: Listeners = Listeners()
    scheduler: Scheduler = Scheduler()
    scraping: Scraping = Scraping()
    auth: Auth = Auth()
    fairness: Fairness = Fairness()
    limits: tuple[RateLimits, ...] = ()
    state: State = State()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    streaming: Streaming = Streaming()
    health: HealthSettings = HealthSettings()
    trusted_fields: tuple[str, ...] = ()
    drain_timeout: Limit = Limit(30)
