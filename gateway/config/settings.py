"""GatewayConfiguration: how the program itself behaves, every field with its default. (P)

Invariant: a `Settings` has been checked as far as one process can without touching anything outside.
"""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta, field

from gateway.config.access import Auth
from gateway.config.decode import Duration, Fault, Limit, Section
from gateway.config.scheduler import Scheduler
from gateway.config.sharing import Fairness, RateLimits, State, Tokenizer, UsageEvents
from gateway.config.url import is_loopback

Count = Annotated[int, Meta(ge=1)]


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
    """The OpenAI API. Sizes in bytes. Clients may show a certificate that ``client_ca_file`` vouches for."""

    address: str = "127.0.0.1:8080"
    tls: TLS | None = None
    client_ca_file: str | None = field(default=None, name="clientCAFile")
    max_body_bytes: Count = 32 * 1024 * 1024
    max_header_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024
    header_timeout: Duration = Duration(10)
    idle_timeout: Duration = Duration(75)
    max_connections: Count = 16_384

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.client_ca_file and self.tls is None:
            raise Fault(".clientCAFile", "needs tls: certificates are shown in its handshake")


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
    tokenizers: tuple[Tokenizer, ...] = ()
    usage: UsageEvents = UsageEvents()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    streaming: Streaming = Streaming()
    health: HealthSettings = HealthSettings()
    trusted_fields: tuple[str, ...] = ()
    drain_timeout: Limit = Limit(30)
