"""GatewayConfiguration: how the program itself behaves, every field with its default. (P)

Invariant: a `Settings` has been checked as far as one process can without touching anything outside.
"""

from __future__ import annotations

import ipaddress
import math
from typing import Annotated, Literal

from msgspec import Meta, field

from gateway.config.access import Auth
from gateway.config.address import Network
from gateway.config.decode import Duration, Fault, Limit, Section
from gateway.config.observing import AccessLog, Tracing
from gateway.config.scheduler import Scheduler
from gateway.config.sharing import Fairness, RateLimits, State, Tokenizer, UsageEvents
from gateway.config.url import is_loopback

Count = Annotated[int, Meta(ge=1)]
OFF = "off"
"""The address of a listener that is not wanted."""


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
    """PEM files; both or neither. ``cert_file``: the certificate and its chain. ``key_file``: its private key."""

    cert_file: str
    key_file: str


def _checked(address: str, member: str) -> None:
    try:
        split_address(address)
    except ValueError as error:
        raise Fault(member, str(error)) from None


class _Listener(Section, frozen=True):
    address: str

    def __post_init__(self) -> None:
        _checked(self.address, ".address")

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
    """The OpenAI API. Sizes in bytes. ``address``: "host:port"; port 0 picks one. ``tls``: certificate and key; plain
    without. ``client_ca_file``: clients may show a certificate that these authorities vouch for. ``max_body_bytes``:
    larger requests get 413. ``max_header_bytes``: larger ones get 431. ``header_timeout``: from a request's first byte
    to the end of its header. ``idle_timeout``: between requests of a connection. ``max_connections``: at once.
    """

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
    """inference.v1 over gRPC. Sizes in bytes. ``address``: "host:port", "off" for none. ``tls``: certificate and key;
    plain without. ``client_ca_file``: clients need a certificate that these authorities vouch for.
    ``max_message_bytes``: larger requests get RESOURCE_EXHAUSTED. ``max_connections``: at once. ``max_streams``: calls
    of one connection at once. ``max_connection_age``: after which clients are asked to connect anew, give or take a
    tenth, so that they spread over replicas; 0 is no limit.
    """

    address: str = "127.0.0.1:50051"
    tls: TLS | None = None
    client_ca_file: str | None = field(default=None, name="clientCAFile")
    max_message_bytes: Count = 32 * 1024 * 1024
    max_connections: Count = 16_384
    max_streams: Count = 1000
    max_connection_age: Limit = Limit(math.inf)

    def __post_init__(self) -> None:
        if self.address != OFF:
            super().__post_init__()
        if self.client_ca_file and self.tls is None:
            raise Fault(".clientCAFile", "needs tls: certificates are shown in its handshake")


class AdminListener(_Listener, frozen=True):
    """Metrics, health, dashboard. ``address``: "host:port". ``tls``: certificate and key; plain without.
    ``token_file``: holds the token that is demanded; beyond loopback one is needed for all but health.
    ``anonymous_metrics``: /metrics is for everybody who can connect.
    """

    address: str = "127.0.0.1:9090"
    tls: TLS | None = None
    token_file: str = ""
    anonymous_metrics: bool = False


class PickerTimeouts(Section, frozen=True):
    """How long Envoy may keep a request; 0 is no bound. ``body``: for its body. ``pick``: for its endpoint, identity
    and queue included. ``response``: for its answer's start. ``silence``: for the answer's next piece.
    """

    body: Limit = Limit(60)
    pick: Limit = Limit(60)
    response: Limit = Limit(600)
    silence: Limit = Limit(300)


class ExtProcListener(_Listener, frozen=True):
    """Envoy's external processor. ``address``: "host:port". ``health_address``: where grpc.health.v1 is served as well,
    by default one port above. ``pool``: the pool it picks from, "namespace/name" or a name in "default"; without one a
    request goes where its model's route says. ``tls``: certificate and key; plain without. ``self_signed``: TLS with a
    certificate of its own making. ``response``: of answers, nothing is seen (skip), all (usage), or all and a model's
    name that was rewritten is put back (full). ``fallbacks``: endpoints named beside the best one. ``steering``: heed
    the header by which conformance suites choose an endpoint. ``linger``: how long a picker that is told to stop still
    answers proxies that have not noticed. ``timeouts``: how long Envoy may keep a request.
    """

    address: str = "127.0.0.1:9002"
    health_address: str | None = None
    pool: str | None = None
    tls: TLS | None = None
    self_signed: bool = False
    response: Literal["skip", "usage", "full"] = "full"
    fallbacks: Annotated[int, Meta(ge=0, le=16)] = 2
    steering: bool = False
    linger: Duration = Duration(5)
    timeouts: PickerTimeouts = PickerTimeouts()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.health_address is not None:
            _checked(self.health_address, ".healthAddress")
        if self.tls is not None and self.self_signed:
            raise Fault(".selfSigned", "there is a certificate already, in tls")

    @property
    def health(self) -> tuple[str, int]:
        """Host and port."""
        if self.health_address is not None:
            return split_address(self.health_address)
        return self.host, self.port and self.port + 1


class Listeners(Section, frozen=True):
    """Where the gateway listens. ``http``: the OpenAI API. ``grpc``: the same as inference.v1. ``admin``: metrics,
    health, dashboard. ``ext_proc``: the endpoint picker for Envoy; none without this section. ``max_buffered_bytes``:
    held for requests of all listeners together, bodies and answers that are not taken; beyond it requests get 503.
    ``max_lateness``: where requests have to wait longer, again and again, before anything is done for them, because the
    processor is what is short, new ones get 503; 0: never.
    """

    http: HttpListener = HttpListener()
    grpc: GrpcListener = GrpcListener()
    admin: AdminListener = AdminListener()
    ext_proc: ExtProcListener | None = None
    max_buffered_bytes: Annotated[int, Meta(ge=1024 * 1024)] = 512 * 1024 * 1024
    max_lateness: Limit = Limit(1)

    @property
    def hosts(self) -> list[str]:
        """Where those that are wanted listen, but for the admin plane, which has a token of its own."""
        given = (self.http, self.grpc, self.ext_proc)
        hosts = [each.host for each in given if each is not None and each.address != OFF]
        return hosts if self.ext_proc is None else [*hosts, self.ext_proc.health[0]]

    @property
    def listening(self) -> dict[str, tuple[str, int]]:
        """Host and port by listener, of those that are wanted."""
        given = {"http": self.http, "grpc": self.grpc, "admin": self.admin, "extProc": self.ext_proc}
        return {name: (at.host, at.port) for name, at in given.items() if at is not None and at.address != OFF}

    def __post_init__(self) -> None:
        taken: dict[tuple[str, int], str] = {}
        for name, listener in (
            ("http", self.http),
            ("grpc", self.grpc),
            ("admin", self.admin),
            ("extProc", self.ext_proc),
        ):
            if listener is not None and listener.address != OFF:
                _take(taken, name, f".{name}.address", (listener.host, listener.port))
        if self.ext_proc is not None:
            _take(taken, "extProc health", ".extProc.healthAddress", self.ext_proc.health)


def _take(taken: dict[tuple[str, int], str], name: str, path: str, address: tuple[str, int]) -> None:
    """Raises Fault where another listener has the address; port 0 is nobody's."""
    host, port = address
    if port and taken.setdefault(address, name) != name:
        raise Fault(path, f"{host}:{port} is the {taken[address]} listener's already")


# --- the walk of a request --------------------------------------------------------------------------------------------


class Timeouts(Section, frozen=True):
    """One bound per phase of an attempt; 0 is no bound. ``connect``: until the connection to the engine stands.
    ``first_token``: until the first token, or the whole answer where it is not streamed. ``between_tokens``: silence
    within a stream. ``request``: over all of them, retries and queue included. ``client_write``: a client that does not
    read.
    """

    connect: Limit = Limit(5)
    first_token: Limit = Limit(600)
    between_tokens: Limit = Limit(180)
    request: Limit = Limit(math.inf)
    client_write: Limit = Limit(60)


class Retry(Section, frozen=True):
    """How often another endpoint is tried before the first byte has gone out. ``attempts``: endpoints tried at most,
    the first included. ``budget``: retries as a share of all requests.
    """

    attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    budget: Annotated[float, Meta(ge=0, le=1)] = 0.2


class Hedging(Section, frozen=True):
    """When a route's requests (`hedging` of a ModelRoute) ask a second endpoint beside the first. ``quantile``: of the
    times to the first token of requests that take alike; who is not answered by then asks another. ``budget``: tokens
    computed in vain by hedges, as a share of those of all requests that might be; 0: none. ``min_delay``: how long is
    waited in any case. ``max_delay``: how long at most.
    """

    quantile: Annotated[float, Meta(ge=0.5, le=0.99)] = 0.95
    budget: Annotated[float, Meta(ge=0, le=1)] = 0.05
    min_delay: Duration = Duration(0.05)
    max_delay: Duration = Duration(30)

    def __post_init__(self) -> None:
        if self.max_delay < self.min_delay:
            raise Fault(".maxDelay", "less than minDelay")


class Ejection(Section, frozen=True):
    """When an endpoint that does answer is set aside for being much worse than its pool.

    ``max_share``: of a pool's usable endpoints, at once, also for answers of 500 in a row; 0: none. ``failure_share``:
    of the last 50 requests that failed, which also has to be twice the others' share. ``min_requests``: how many of
    those there have to be. ``latency_ratio``: the time to the first token over what was expected, relative to the
    others'. ``latency_excess``: how much later than expected it has to be, too.
    """

    max_share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    failure_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    min_requests: Annotated[int, Meta(ge=2, le=50)] = 10
    latency_ratio: Annotated[float, Meta(gt=1)] = 5.0
    latency_excess: Duration = Duration(2)


class HealthSettings(Section, frozen=True):
    """When endpoints are set aside, and how they come back.

    ``consecutive_failures``: so many in a row open the circuit. ``hung_after``: silence, though it is polled, after
    which an endpoint counts as hung; 0: never. ``slow_start``: how long it takes to get a full share; 0: none.
    ``ejection``: when one is set aside for being worse than the others.
    """

    consecutive_failures: Count = 3
    hung_after: Limit = Limit(5)
    slow_start: Limit = Limit(10)
    ejection: Ejection = Ejection()


class Streaming(Section, frozen=True):
    """How streams are sent on. ``keep_alive``: a comment goes to a client that has waited this long for the next event;
    0: never.
    """

    keep_alive: Limit = Limit(15)


class Scraping(Section, frozen=True):
    """How engines are asked for their load. ``interval``: how often each is asked, 20ms to 1m; a load is not believed
    for longer than five intervals, 2 s at least. ``timeout``: one that takes longer is asked again.
    """

    interval: Duration = Duration(0.2)
    timeout: Duration = Duration(1)

    def __post_init__(self) -> None:
        if not 0.02 <= self.interval <= 60:
            raise Fault(".interval", "expected 20ms to 1m")
        if self.timeout <= 0:
            raise Fault(".timeout", "expected more than 0")


class Kubernetes(Section, frozen=True):
    """What objects of a cluster may do. ``allow_loopback``: URLs in them may lead to this machine."""

    allow_loopback: bool = False


class Egress(Section, frozen=True):
    """Where connections may lead. ``allow``: networks, such as 169.254.10.0/24, of addresses that are refused
    otherwise: link-local ones and those at which clouds give credentials to machines.
    """

    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for index, network in enumerate(self.allow):
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise Fault(f".allow[{index}]", f"expected a network such as 169.254.10.0/24: {error}") from None

    @property
    def networks(self) -> tuple[Network, ...]:
        return tuple(ipaddress.ip_network(network) for network in self.allow)


class Settings(Section, frozen=True):
    """``listeners``: where the gateway listens. ``scheduler``: how endpoints are chosen. ``scraping``: how engines are
    asked for their load. ``auth``: who callers are. ``fairness``: who is next when engines are full. ``limits``: what
    callers may use; every one that fits a request has to leave room for it. ``state``: what replicas share.
    ``tokenizers``: how prompts are counted exactly; the first whose pattern fits the model counts. ``usage``: where
    events for accounts go. ``access_log``: what is said of each request. ``tracing``: spans for a collector.
    ``timeouts``: how long each phase of a request may take. ``retry``: how often another endpoint is tried.
    ``hedging``: when a second one is asked beside the first, on routes that allow it.
    ``streaming``: how streams are sent on. ``health``: when endpoints are set aside. ``kubernetes``: what objects of a
    cluster may do. ``egress``: where connections may lead. ``trusted_fields``: body members that steer an engine's
    internals and may pass; without being named here they are refused. ``drain_timeout``: for requests in flight when
    stopping; 0: as long as they take. ``settle_time``: of that, how long listeners go on at SIGTERM, until nobody sends
    clients here any more; half of it at most; 0: not at all.
    """

    listeners: Listeners = Listeners()
    scheduler: Scheduler = Scheduler()
    scraping: Scraping = Scraping()
    auth: Auth = Auth()
    fairness: Fairness = Fairness()
    limits: tuple[RateLimits, ...] = ()
    state: State = State()
    tokenizers: tuple[Tokenizer, ...] = ()
    usage: UsageEvents = UsageEvents()
    access_log: AccessLog = AccessLog()
    tracing: Tracing = Tracing()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    hedging: Hedging = Hedging()
    streaming: Streaming = Streaming()
    health: HealthSettings = HealthSettings()
    kubernetes: Kubernetes = Kubernetes()
    egress: Egress = Egress()
    trusted_fields: tuple[str, ...] = ()
    drain_timeout: Limit = Limit(30)
    settle_time: Duration = Duration(1)
