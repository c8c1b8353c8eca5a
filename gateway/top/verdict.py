"""Whether the fleet is well, and what is wrong, in one line. (P)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec

from gateway.top.feed import Node, Picture, holds, node, nodes, number, word, words
from gateway.top.panels import reason
from gateway.top.plain import count, percent, seconds

WELL, WARN, BAD = 0, 1, 2
_OUT: Final = ("down", "hung", "open")
_LONG_WAIT_S: Final = 5.0
_ERRORS_WARN, _ERRORS_BAD = 0.01, 0.1


class Verdict(msgspec.Struct, frozen=True):
    """``level`` is `WELL`, `WARN` or `BAD`, the worst of all reasons; ``text`` has the worst first."""

    level: int
    text: str


def judge(picture: Picture) -> Verdict:
    state = picture.state
    if picture.away:
        return Verdict(BAD, f"no news since {picture.away_since} ({seconds(picture.away_s)}): {picture.away}")
    found = sorted(_reasons(state), key=lambda reason: -reason[0])
    if not found:
        return Verdict(WELL, _well(state))
    return Verdict(found[0][0], "; ".join(text for _, text in found))


def _well(state: Node) -> str:
    endpoints = len(nodes(state, "endpoints"))
    pools = len(nodes(state, "pools"))
    return f"all is well: {endpoints} endpoint{'s'[: endpoints != 1]} in {pools} pool{'s'[: pools != 1]}"


def _reasons(state: Node) -> Iterator[tuple[int, str]]:
    if holds(state, "draining"):
        yield WARN, "the gateway drains: it takes nothing new"
    elif not holds(state, "ready"):
        yield BAD, "no endpoint is usable"
    for problem in words(state, "problems")[:1]:
        yield WARN, f"the last reload failed: {problem}"
    yield from _of_pools(state)
    yield from _of_endpoints(state)
    yield from _of_requests(state)


def _of_pools(state: Node) -> Iterator[tuple[int, str]]:
    for pool in nodes(state, "pools"):
        if number(pool, "ready") == 0 and (number(pool, "members") or 0) > 0:
            yield BAD, f"pool {word(pool, 'name')} has no endpoint that is ready"
        full = number(pool, "saturation")
        if full is not None and full >= 1:
            yield WARN, f"pool {word(pool, 'name')} is saturated ({percent(full)})"


def _of_endpoints(state: Node) -> Iterator[tuple[int, str]]:
    endpoints = nodes(state, "endpoints")
    states = Counter(word(endpoint, "state") for endpoint in endpoints)
    out = [f"{states[name]} {name}" for name in _OUT if states[name]]
    if out:
        first = next(endpoint for endpoint in endpoints if word(endpoint, "state") in _OUT)
        why = ": ".join(filter(None, (word(first, "id"), reason(first))))
        yield WARN, f"of {len(endpoints)} endpoints {', '.join(out)} ({why})"
    if states["unknown"]:
        yield WARN, f"{states['unknown']} not heard of yet"


def _of_requests(state: Node) -> Iterator[tuple[int, str]]:
    totals = node(state, "totals")
    errors, rate = number(totals, "errors") or 0.0, number(totals, "rps") or 0.0
    part = errors / rate if rate > 0 else float(errors > 0)
    if part > _ERRORS_WARN:
        yield BAD if part > _ERRORS_BAD else WARN, f"{percent(min(part, 1.0))} of requests fail ({count(errors)}/s)"
    longest = max((number(flow, "wait") or 0.0 for flow in nodes(state, "flows")), default=0.0)
    if longest > _LONG_WAIT_S:
        yield WARN, f"requests wait for up to {seconds(longest)}"
