"""Which limits a request falls under, what it reserves of each, and how a refusal reads. (P)

Invariant: an account's key says whose it is, of what and for which requests, never how much is allowed: it outlives
every change of amounts, and two limits share an account only if they count the same requests.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from gateway.buckets import wait
from gateway.config.sharing import UNITS, LimitMatch, RateLimits
from gateway.errors import RateLimited
from gateway.types import Demand, Headers, Identity, Taken

if TYPE_CHECKING:
    from gateway.config.snapshot import RouteLimit, Snapshot

REMEMBERED: Final = 4096
"""Combinations of caller, model and route whose limits need not be looked for again."""

_LONGEST: Final = 128
"""Longer values stand in a key as their digest."""
_CLAIM: Final = "claims."
_REQUESTS, _INPUT, _OUTPUT, _TOTAL, _PLACES = range(5)
_WHATS: Final = {"requests": _REQUESTS, "input_tokens": _INPUT, "output_tokens": _OUTPUT, "total_tokens": _TOTAL}


class _Limit(msgspec.Struct, frozen=True):
    """``burst`` of ``what`` (one of the numbers above) for each ``unit``; a place has none. ``name``: of the key."""

    what: int
    unit: str
    burst: int
    name: str

    @property
    def rate(self) -> float:
        return self.burst / UNITS[self.unit] if self.unit else 0.0

    @property
    def words(self) -> str:
        return f"{self.name.replace('_', ' ')} per {self.unit}" if self.unit else "concurrent requests"


class _Rule(msgspec.Struct, frozen=True):
    """``dimensions`` are sorted. ``scope`` ends the keys: which requests count."""

    patterns: tuple[tuple[str, re.Pattern[str]], ...]
    dimensions: tuple[str, ...]
    limits: tuple[_Limit, ...]
    scope: str

    def fits(self, values: Mapping[str, str]) -> bool:
        return all(name in values and pattern.match(values[name]) for name, pattern in self.patterns)


class _Line(msgspec.Struct, frozen=True):
    """One account of a request's: the demand but for its amount, and ``words`` for "requests per minute of …: 60",
    the beginning of which, ``kind``, names nobody.
    """

    what: int
    demand: Demand
    words: str
    kind: str


class Ledger:
    """Limits, ready to be asked. ``routes`` are those that model routes bring along."""

    def __init__(self, limits: Sequence[RateLimits] = (), routes: Sequence[RouteLimit] = ()) -> None:
        self._rules = tuple(map(_rule, limits))
        of_routes = {limit.route: limit for limit in routes}
        self._lines = lru_cache(REMEMBERED)(
            partial(_matching, self._rules, of_routes)
        )  # refers to what it needs, not us

    @classmethod
    def of(cls, snapshot: Snapshot) -> Ledger | None:
        """None where nothing is limited."""
        limits, routes = snapshot.settings.limits, snapshot.route_limits
        return cls(limits, routes) if limits or routes else None

    def reservation(
        self, identity: Identity, model: str, route: str, tokens_in: float, tokens_out: float
    ) -> Reservation | None:
        """What such a request, estimated to take so many tokens, needs. None if nothing limits it."""
        lines = self._lines(identity, model, route)
        return Reservation(lines, tokens_in, tokens_out) if lines else None


def _matching(
    rules: tuple[_Rule, ...], routes: Mapping[str, RouteLimit], identity: Identity, model: str, route: str
) -> tuple[_Line, ...]:
    """Of several limits on one account the lowest holds."""
    values = _values(identity, model, route)
    limit = routes.get(route)
    found = {} if limit is None else {line.demand.key: line for line in _route_lines(limit)}
    for rule in rules:
        if rule.fits(values):
            for line in _lines(rule.limits, _whose(rule.dimensions, values, identity), rule.scope):
                known = found.get(line.demand.key)
                if known is None or line.demand.burst < known.demand.burst:
                    found[line.demand.key] = line
    return tuple(found.values())


class Reservation:
    """What one request takes of its accounts: ``demands``, in the order of everything that is said about them here."""

    __slots__ = ("_lines", "_taken", "_tokens_in", "_tokens_out", "demands")

    def __init__(self, lines: tuple[_Line, ...], tokens_in: float, tokens_out: float) -> None:
        self._lines = lines
        self._tokens_in = tokens_in
        self._tokens_out = tokens_out
        self._taken: Taken | None = None
        amounts = (1.0, tokens_in, tokens_out, tokens_in + tokens_out)
        self.demands = tuple(
            [
                line.demand
                if line.what in (_REQUESTS, _PLACES)
                else Demand(line.demand.key, amounts[line.what], line.demand.rate, line.demand.burst)
                for line in lines
            ]
        )

    def granted(self, taken: Taken) -> None:
        self._taken = taken

    def given_back(self, tokens_in: int, tokens_out: int, *, served: bool = True) -> tuple[float, ...]:
        """For each demand what was not used, below 0 what ran over; cached tokens of a prompt count as any other.

        What was not ``served`` (no engine did any work for it) costs nothing, not even the request.
        """
        if not served:
            return tuple([demand.amount for demand in self.demands])
        less_in, less_out = self._tokens_in - tokens_in, self._tokens_out - tokens_out
        back = (0.0, less_in, less_out, less_in + less_out, 1.0)
        return tuple([back[line.what] for line in self._lines])

    def refusal(self, taken: Taken) -> RateLimited:
        """Names the limit that makes the request wait longest."""
        waits = [wait(demand, used) for demand, used in zip(self.demands, taken.used, strict=True)]
        worst = waits.index(max(waits))
        line = self._lines[worst]
        return RateLimited(
            f"Rate limit reached: {line.words}. Try again in {elapse(taken.wait)}.",
            retry_after=taken.wait,
            fields=_fields(self._lines, taken.used, worst),
            limit=line.kind,
        )

    def headers(self) -> Headers:
        """x-ratelimit-{limit,remaining,reset}-{requests,tokens} after `granted`."""
        return () if self._taken is None else _fields(self._lines, self._taken.used)


# --- header fields ----------------------------------------------------------------------------------------------------


def _fields(lines: Sequence[_Line], used: Sequence[float], refusing: int = -1) -> Headers:
    """Of requests and of tokens the limit that refuses or has least remaining. Places have no such fields."""
    tightest: dict[bytes, tuple[float, int]] = {}
    for index, line in enumerate(lines):
        if line.what == _PLACES:
            continue
        kind = b"requests" if line.what == _REQUESTS else b"tokens"
        remaining = -math.inf if index == refusing else line.demand.burst - used[index]
        if kind not in tightest or remaining < tightest[kind][0]:
            tightest[kind] = remaining, index
    found: list[tuple[bytes, bytes]] = []
    for kind, (_, index) in tightest.items():
        demand = lines[index].demand
        found += (
            (b"x-ratelimit-limit-%b" % kind, b"%d" % demand.burst),
            (b"x-ratelimit-remaining-%b" % kind, b"%d" % max(0, math.floor(demand.burst - used[index] + 1e-6))),
            (b"x-ratelimit-reset-%b" % kind, elapse(used[index] / demand.rate).encode()),
        )
    return found


def elapse(seconds: float) -> str:
    """As OpenAI writes durations ("20ms", "1.5s", "6m0s", "1h0m0s"), rounded up to milliseconds."""
    # what rounding adds to an exact number of milliseconds must not make it one more
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds > 0 else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    large = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{large}{rest / 1000:g}s"


# --- from settings ----------------------------------------------------------------------------------------------------


def _rule(limits: RateLimits) -> _Rule:
    given = [_Limit(_WHATS[what], unit, amount, what) for what, unit, amount in limits.rates()]
    if limits.concurrent_requests is not None:
        given.append(_Limit(_PLACES, "", limits.concurrent_requests, "places"))
    patterns = sorted(_patterns(limits.match))
    return _Rule(
        patterns=tuple((name, re.compile(fnmatch.translate(pattern))) for name, pattern in patterns),
        dimensions=tuple(sorted(set(limits.dimensions()))),
        limits=tuple(given),
        scope=_joined(patterns),
    )


def _patterns(match: LimitMatch) -> Iterable[tuple[str, str]]:
    """Names as in `_values`. A pattern for routes without a slash is for their names in whatever namespace."""
    for name in ("user", "tenant", "tier", "model", "route"):
        pattern: str | None = getattr(match, name)
        if pattern is not None:
            yield ("route name" if name == "route" and "/" not in pattern else name), pattern
    for name, pattern in match.claims.items():
        yield f"{_CLAIM}{name}", pattern


def _route_lines(limit: RouteLimit) -> tuple[_Line, ...]:
    """Its account is the model name's, whichever LoRA of it is asked for; that of a route with only LoRAs its own."""
    given = (("input_tokens", limit.input_tokens), ("output_tokens", limit.output_tokens))
    limits = [_Limit(_WHATS[what], limit.unit, amount, what) for what, amount in given if amount is not None]
    whose = (("model", limit.model),) if limit.model else (("route", limit.route),)
    return tuple(_lines(limits, whose, "rateLimit"))


# --- accounts ---------------------------------------------------------------------------------------------------------


def _values(identity: Identity, model: str, route: str) -> dict[str, str]:
    """What patterns are held against, by dimension; a claim that is not there fits none."""
    found = {
        "user": identity.caller,
        "tenant": identity.tenant,
        "tier": identity.tier,
        "model": model,
        "route": route,
        "route name": route.rpartition("/")[2],
    }
    found.update((f"{_CLAIM}{name}", value) for name, value in identity.claims if value)
    return found


def _whose(dimensions: Iterable[str], values: Mapping[str, str], identity: Identity) -> tuple[tuple[str, str], ...]:
    """The account's owner. Callers without a tenant are one each, those without a user go by their address."""
    caller = ("user", identity.user) if identity.user else ("address", identity.address)
    owners: dict[str, str] = {}
    for name in dimensions:
        if name == "user" or (name == "tenant" and not identity.tenant):
            owners[caller[0]] = caller[1]
        else:
            owners[name] = values.get(name, "")
    return tuple(owners.items())


def _lines(limits: Iterable[_Limit], whose: tuple[tuple[str, str], ...], scope: str) -> Iterable[_Line]:
    owner, named = _joined(whose), _named(whose)
    for limit in limits:
        key = f"{limit.name}/{limit.unit}|{owner}|{scope}"
        demand = Demand(key, 1.0, limit.rate, float(limit.burst))
        yield _Line(limit.what, demand, f"{limit.words} of {named}: {limit.burst}", limit.words)


def _named(whose: tuple[tuple[str, str], ...]) -> str:
    """In words, for the caller itself."""
    parts = [name if name.startswith(_CLAIM) else f"{name} '{value[:64]}'" for name, value in whose]
    return " and ".join(parts) or "all callers together"


def _joined(pairs: Iterable[tuple[str, str]]) -> str:
    """Such as "a=1&b=2", where all that parts a key is escaped, so that no value can look like two."""
    return "&".join(f"{quote(name, safe='')}={_escaped(value)}" for name, value in pairs)


def _escaped(value: str) -> str:
    encoded = value.encode("utf-8", "surrogatepass")
    if len(encoded) > _LONGEST:
        return f"#{hashlib.blake2b(encoded, digest_size=16).hexdigest()}"
    return quote(encoded, safe="*/:@")
