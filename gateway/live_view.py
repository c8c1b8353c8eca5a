"""What an operator watches, row by row: endpoints, flows, routes as plain values. (P)

Invariant: names of rows' members are those of docs/admin.md; text that comes from clients or engines is text, as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.config.sharing import Tier
from gateway.flows import FlowStatistics
from gateway.httproute import HttpMatch, HttpRoute, HttpRule
from gateway.live_figures import rate, share
from gateway.member import Member
from gateway.route import Match, Route, Rule, TextMatch
from gateway.tally import Traffic

MODELS: Final = 8
"""As many are listed of an endpoint's."""
FLOWS: Final = 50
ROUTES: Final = 200
Row = dict[str, Any]
RouteRow = tuple[str, Row]
"""A route's name, and a row for one of its rules."""
Ways = dict[tuple[str, str], dict[str, tuple[int, int]]]
"""By route and pool, then by target: requests, and those of them that failed."""


class Meter(msgspec.Struct, frozen=True, gc=False):
    """What one endpoint had counted at one moment: requests placed here; by the engine itself, or None: tokens made,
    prompt tokens looked up in its prefix cache, and those found.
    """

    requests: int
    made: float | None = None
    queried: float = 0.0
    found: float = 0.0


def metered(member: Member) -> Meter:
    load = member.load
    if load is None:
        return Meter(member.requests)
    return Meter(member.requests, load.generated_tokens, load.queried_tokens, load.hit_tokens)


def endpoint(member: Member, now: float, meter: Meter, before: Meter | None, seconds: float) -> Row:
    """``before`` is what was counted so many ``seconds`` ago, None if nobody looked."""
    load, health = member.load, member.health
    told = before is not None and meter.made is not None and before.made is not None
    return {
        "id": member.id,
        "pool": member.pool,
        "engine": member.endpoint.engine,
        "state": health.state(now),
        "why": health.gone or health.why,
        "inflight": member.inflight,
        "running": None if load is None else load.running,
        "waiting": None if load is None else load.waiting,
        "kv": None if load is None else load.kv_usage,
        "hit": share(meter.found - before.found, meter.queried - before.queried) if told and before else None,
        "age": None if load is None else now - load.at,
        "rps": None if before is None else rate(meter.requests, before.requests, seconds),
        "tokens_out": rate(meter.made or 0.0, before.made or 0.0, seconds) if told and before else None,
        "models": [card.id for card in member.cards[:MODELS]],
    }


# --- flows ------------------------------------------------------------------------------------------------------------


def flows(pool: str, active: Sequence[FlowStatistics], tiers: Mapping[str, Tier]) -> list[Row]:
    """One pool's callers, of those who wait, have something under way or were served within the window.

    ``fair``: tenants share alike, and each one's callers by weight.
    """
    callers = Counter(flow.tenant for flow in active)
    claims = [flow.weight / callers[flow.tenant] for flow in active]
    claimed, served = sum(claims), sum(flow.served for flow in active)
    names = _named(tiers)
    return [
        {
            "pool": pool,
            "tenant": flow.tenant,
            "caller": flow.caller,
            "tier": names.get((flow.weight, flow.priority), ""),
            "queued": flow.queued,
            "inflight": flow.inflight,
            "served": flow.served,
            "share": flow.served / served if served else 0.0,
            "fair": claim / claimed if claimed else 0.0,
            "wait": flow.oldest_wait if flow.queued else None,
        }
        for flow, claim in zip(active, claims, strict=True)
    ]


def _named(tiers: Mapping[str, Tier]) -> dict[tuple[float, int], str]:
    """Tiers by their terms, as far as these tell them apart."""
    terms = [(tier.weight, tier.priority) for tier in tiers.values()]
    return {key: name for key, name in zip(terms, tiers, strict=True) if terms.count(key) == 1}


def foremost(rows: Sequence[Row]) -> list[Row]:
    """Those to show: half by who waits, the others by what they were served."""
    waiting = sorted((row for row in rows if row["queued"]), key=lambda row: -row["queued"])[: FLOWS // 2]
    shown = {id(row) for row in waiting}
    others = sorted((row for row in rows if id(row) not in shown), key=lambda row: -row["served"])
    return sorted([*waiting, *others[: FLOWS - len(waiting)]], key=lambda row: (-row["served"], -row["queued"]))


# --- routes -----------------------------------------------------------------------------------------------------------


def ways(counted: Mapping[tuple[str, str, str], Traffic]) -> Ways:
    """What each way of a route has counted."""
    found: Ways = {}
    for (route, pool, target), traffic in counted.items():
        found.setdefault((route, pool), {})[target] = traffic.requests, traffic.failed
    return found


def routes(found: Iterable[Route]) -> list[RouteRow]:
    """A row for each rule, before anything is served by it."""
    return [(route.name, _rule(route, index)) for route in found for index in range(len(route.rules))]


def http_routes(found: Iterable[HttpRoute]) -> list[RouteRow]:
    """The same of HTTPRoutes; redirects and backends that cannot be used lead to no pool."""
    return [
        (route.name, {
            "name": route.name if len(route.rules) == 1 else f"{route.name}/{rule.name or index}",
            "match": _asked(route, rule),
            "targets": _targets(rule),
        })
        for route in found
        for index, rule in enumerate(route.rules)
    ]  # fmt: skip


def serving(found: Iterable[RouteRow], new: Ways, minutes: Ways, seconds: Ways, since: float) -> list[Row]:
    """With what was served: shares since ``minutes``, rates since ``seconds``, which was so many seconds ago, 0 if
    nobody looked. Rules of one route that lead to the same target are not told apart.
    """
    return [{**row, "targets": _carried(name, row["targets"], new, minutes, seconds, since)} for name, row in found]


def _carried(route: str, targets: list[Row], new: Ways, minutes: Ways, seconds: Ways, since: float) -> list[Row]:
    pools = Counter(target["pool"] for target in targets)
    carried = []
    for target in targets:
        name = None if pools[target["pool"]] == 1 else target["model"] or ""
        now, then, just = (_count(ways, (route, target["pool"]), name) for ways in (new, minutes, seconds))
        carried.append((now[0] - then[0], now[0] - just[0], now[1] - just[1]))
    whole = sum(lately for lately, _, _ in carried)
    return [
        {
            **target,
            "share": share(lately, whole),
            "rps": max(0, requests) / since if since else None,
            "errors": max(0, failed) / since if since else None,
        }
        for target, (lately, requests, failed) in zip(targets, carried, strict=True)
    ]


def _count(counted: Ways, key: tuple[str, str], target: str | None) -> tuple[int, int]:
    """Requests, and those that failed, by one target of a route's way to a pool, None: by all of them."""
    each = counted.get(key, {})
    found = each.values() if target is None else [each[target]] if target in each else []
    return sum(requests for requests, _ in found), sum(failed for _, failed in found)


def _rule(route: Route, index: int) -> Row:
    rule = route.rules[index]
    return {
        "name": route.name if len(route.rules) == 1 else f"{route.name}/{rule.name or index}",
        "match": _words(route, rule),
        "targets": _targets(rule),
    }


def _targets(rule: Rule | HttpRule) -> list[Row]:
    whole = sum(share.weight for share in rule.shares)
    nothing = {"share": None, "rps": None, "errors": None}
    return [
        {"pool": each.pool, "model": each.model, "weight": each.weight / whole if whole else 0.0, **nothing}
        for each in rule.shares
    ]


def _words(route: Route, rule: Rule) -> str:
    names = [name for name in (route.model, *route.loras) if name]
    more = f" and {len(names) - MODELS} more" if len(names) > MODELS else ""
    words = [f"model {', '.join(names[:MODELS])}{more}" if names else "any model"]
    return " · ".join([*words, *(_conditions(rule.match) if rule.match is not None else ())])


def _asked(route: HttpRoute, rule: HttpRule) -> str:
    hosts = [name or "any host" for name in route.hostnames]
    more = f" and {len(hosts) - MODELS} more" if len(hosts) > MODELS else ""
    matches = " or ".join(" and ".join(_parts(match)) for match in rule.matches[:MODELS])
    return f"host {', '.join(hosts[:MODELS])}{more} · {matches or 'any path'}"


def _parts(match: HttpMatch) -> list[str]:
    kind = {"exact": "is", "prefix": "begins with", "regex": "matches"}[match.path.kind]
    fields = [("header", each) for each in match.headers] + [("query", each) for each in match.query]
    named = [f"{what} {each.name} {'is' if each.regex is None else 'matches'} {each.value}" for what, each in fields]
    return [*([match.method] if match.method else ()), f"path {kind} {match.path.value}", *named]


def _conditions(match: Match) -> list[str]:
    words = [f"header {name.decode('latin-1')} {_text(wanted)}" for name, wanted in match.headers]
    if match.uri is not None:
        words.append(f"path {_text(match.uri)}")
    if match.model is not None:
        words.append(f"model name is {match.model}")
    return words


def _text(match: TextMatch) -> str:
    if match.exact is not None:
        return f"is {match.exact}"
    if match.prefix is not None:
        return f"begins with {match.prefix}"
    return "is anything" if match.regex is None else f"matches {match.regex.text}"
