"""The sections `fairness`, `limits`, `state`, `tokenizers` and `usage`: how what there is gets shared. (P)

Invariant: weights are finite and not negative, so that no configuration can make a flow free of charge for ever by NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta, field

from gateway.config import redis_url
from gateway.config.decode import Duration, Fault, Hidden, Limit, Section

Count = Annotated[int, Meta(ge=1)]
Amount = Annotated[int, Meta(ge=1, le=10**15)]
"""As large as doubles still count one by one, with room for what runs over."""
Weight = Annotated[float, Meta(ge=0, le=1e6)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Tier(Section, frozen=True):
    """How those of a tier are served. ``weight``: share of the service. ``priority``: higher is served first."""

    weight: Annotated[float, Meta(ge=1e-6, le=1e6)] = 1.0
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0


class Thresholds(Section, frozen=True):
    """When an engine takes no more. ``waiting``: so many requests wait at it. ``kv_usage``: so large a share of its KV
    blocks is in use.
    """

    waiting: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    kv_usage: Annotated[float, Meta(gt=0, le=1)] = 0.95


class Fairness(Section, frozen=True):
    """Who is next when engines are full. Token weights are per token; ``locality_quantum`` is in weighted tokens.

    ``enabled``: requests wait here, in order of fairness, instead of at the engines. ``window_size``: what a flow had
    longer ago does not count against it; 1m to 1h. ``input_token_weight``: what a token of a prompt counts.
    ``output_token_weight``: what a token of an answer counts. ``queue_qps``: requests a second that a pool is given at
    most, on top of what its engines can take; None: no such ceiling. ``max_concurrent``: requests at a time that a pool
    is given at most, likewise; 0: no such ceiling. ``queue_timeout``: who has waited so long gets 503. ``max_queued``:
    requests that wait for a pool at most. ``max_queued_bytes``: what the bodies of those may take together.
    ``headroom``: the share of a pool's slots that only flows below their fair share may take. ``locality_quantum``: by
    how much a request whose prefix is cached may run ahead of its turn; 0: never, None: eight times what those who wait
    usually cost. ``ageing``: having waited so long, a request moves up one priority; 0: never. ``saturation``: when
    an engine takes no more. ``tiers``: weights and priorities, by the tier's name.
    """

    enabled: bool = False
    window_size: Duration = Duration(600)
    input_token_weight: Weight = 1.0
    output_token_weight: Weight = 2.0
    queue_qps: Annotated[float, Meta(gt=0, le=1e6)] | None = field(default=None, name="queueQPS")
    max_concurrent: Annotated[int, Meta(ge=0)] = 0
    queue_timeout: Duration = Duration(60)
    max_queued: Count = 10_000
    max_queued_bytes: Count = 256 * 1024 * 1024
    headroom: Annotated[float, Meta(ge=0, le=0.9)] = 0.0
    locality_quantum: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    ageing: Limit = Limit(15)
    saturation: Thresholds = Thresholds()
    tiers: dict[str, Tier] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 60 <= self.window_size <= 3600:
            raise Fault(".windowSize", "expected 1m to 1h")
        if not self.input_token_weight and not self.output_token_weight:
            raise Fault(".inputTokenWeight", "0, and so is outputTokenWeight: nothing would ever be charged")


# --- limits -----------------------------------------------------------------------------------------------------------

UNITS: Final = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0, "month": 2_592_000.0}
"""Seconds; a month has 30 days, as published."""
_DIMENSIONS: Final = ("user", "tenant", "tier", "model", "route")


class LimitMatch(Section, frozen=True):
    """Glob patterns, all of which have to hold. ``user``: who asks. ``tenant``: to whom they belong. ``tier``: theirs.
    ``model``: as asked for. ``route``: "namespace/name" of the ModelRoute. ``claims``: verified claims of the caller's
    token, by name.
    """

    user: str | None = None
    tenant: str | None = None
    tier: str | None = None
    model: str | None = None
    route: str | None = None
    claims: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "" in self.claims:
            raise Fault(".claims", "a claim without a name")


class RateLimits(Section, frozen=True):
    """What callers may use; the whole amount at once, if they have not used any lately.

    ``match``: whom it is for. ``per``: every value of each of these dimensions has an account of its own: "user",
    "tenant", "tier", "model", "route" or "claims.NAME". None: every dimension that ``match`` names, and the user where
    it names neither user nor tenant. ``concurrent_requests``: at a time.
    """

    match: LimitMatch = LimitMatch()
    per: tuple[str, ...] | None = None
    requests_per_second: Amount | None = None
    requests_per_minute: Amount | None = None
    requests_per_hour: Amount | None = None
    requests_per_day: Amount | None = None
    requests_per_month: Amount | None = None
    input_tokens_per_second: Amount | None = None
    input_tokens_per_minute: Amount | None = None
    input_tokens_per_hour: Amount | None = None
    input_tokens_per_day: Amount | None = None
    input_tokens_per_month: Amount | None = None
    output_tokens_per_second: Amount | None = None
    output_tokens_per_minute: Amount | None = None
    output_tokens_per_hour: Amount | None = None
    output_tokens_per_day: Amount | None = None
    output_tokens_per_month: Amount | None = None
    total_tokens_per_second: Amount | None = None
    total_tokens_per_minute: Amount | None = None
    total_tokens_per_hour: Amount | None = None
    total_tokens_per_day: Amount | None = None
    total_tokens_per_month: Amount | None = None
    concurrent_requests: Amount | None = None

    def __post_init__(self) -> None:
        if self.concurrent_requests is None and not any(True for _ in self.rates()):
            raise ValueError("limits nothing: give at least one of requestsPerMinute, inputTokensPerMinute, …")
        for index, dimension in enumerate(self.per or ()):
            if dimension not in _DIMENSIONS and not dimension[:-1].startswith("claims."):
                raise Fault(f".per[{index}]", f"expected {', '.join(_DIMENSIONS)} or claims.NAME")

    def rates(self) -> Iterator[tuple[str, str, int]]:
        """(what, unit, amount) of each; what is "requests", "input_tokens", "output_tokens" or "total_tokens"."""
        for what in ("requests", "input_tokens", "output_tokens", "total_tokens"):
            for unit in UNITS:
                amount = getattr(self, f"{what}_per_{unit}")
                if amount is not None:
                    yield what, unit, amount

    def dimensions(self) -> tuple[str, ...]:
        """What an account is kept for each value of."""
        if self.per is not None:
            return self.per
        match = self.match
        named = [name for name in _DIMENSIONS if getattr(match, name) is not None]
        named += [f"claims.{name}" for name in match.claims]
        if match.user is None and match.tenant is None:
            named.append("user")
        return tuple(named)


# --- state, tokenizers, usage -----------------------------------------------------------------------------------------


class Redis(Section, frozen=True):
    """Where replicas meet. ``url``: redis, rediss or unix; it may hold a password, hence hidden. ``username``: of an
    ACL. ``password_file``: the better place for a password. ``ca_file``: a PEM file of authorities to trust instead of
    the system's. ``prefix``: begins every key, so that several fleets can share one server. ``timeout``: how long a
    request waits for a limit's answer before this process decides alone.
    """

    url: Hidden
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    prefix: Annotated[str, Meta(min_length=1, max_length=64)] = "infer-gateway"
    timeout: Duration = Duration(0.1)

    def __post_init__(self) -> None:
        if "{" in self.prefix or "}" in self.prefix:
            raise Fault(".prefix", "braces have a meaning in the keys of a cluster")
        try:
            address = redis_url.parse(self.url.reveal())
        except ValueError as error:
            raise Fault(".url", str(error)) from None
        if self.ca_file and not address.tls:
            raise Fault(".caFile", "needs a URL that begins with rediss: certificates are shown in TLS")


class ForeignRedis(Redis, frozen=True):
    """One that an object of a cluster names: neither its name nor what it names in turn may lead to this machine."""


class State(Section, frozen=True):
    """What replicas share. ``redis``: where they meet; none: nothing is shared."""

    redis: Redis | None = None


class Tokenizer(Section, frozen=True):
    """How prompts are counted exactly. ``model``: a glob of the models it is for. ``file``: a tokenizer.json; needs the
    extra `tokenizers`.
    """

    model: Annotated[str, Meta(min_length=1)]
    file: Annotated[str, Meta(min_length=1)]


class UsageEvents(Section, frozen=True):
    """For accounts. ``file``: one JSON line a request is appended there; "": nowhere."""

    file: str = ""
