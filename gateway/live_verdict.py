"""What is wrong with the fleet, as everybody who watches is told it: the page and the terminal say the same. (P)

Invariant: as much is said as there are kinds of trouble, however many pools and endpoints have it. An endpoint that is
out is a warning as long as others of its pool serve; what keeps requests from being answered is bad.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

Row = Mapping[str, Any]
TROUBLE: Final = {"hung": "hung", "down": "down", "open": "set aside", "half-open": "on trial"}
"""States of an endpoint that are told of, the worst first, in words."""
REASONS: Final = {
    "failing": "several failures in a row",
    "erring": "far more failures than the others have",
    "slow": "far slower than the others",
    "stuck": "no first token, and nothing there moves",
    "hung": "no answer to anything",
    "down": "no answer",
}
"""Why an endpoint is as it is, in words."""
_NAMES: Final = 3
_NAME: Final = 60
_TEXT: Final = 300
_ERRORS_WARN, _ERRORS_BAD = 0.01, 0.1
_LONG_S: Final = 5.0
_FEW: Final = 10
_GROWTH: Final = 1.3


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """``pool`` and ``endpoint``: the first one that has it, "" where it is about none."""

    level: Literal["bad", "warn"]
    about: Literal["gateway", "configuration", "pool", "endpoint", "requests"]
    text: str
    pool: str = ""
    endpoint: str = ""


class Seen(msgspec.Struct, frozen=True):
    """Of a state, as the feed has it: its ``head``, ``totals`` and rows. ``out``: endpoints in a state of `TROUBLE`.
    ``queued_before``: how many waited half a minute ago, None if nobody knows.
    """

    head: Row
    totals: Row
    pools: Sequence[Row] = ()
    out: Sequence[Row] = ()
    flows: Sequence[Row] = ()
    queued_before: float | None = None


def judge(seen: Seen) -> list[Problem]:
    """The worst first; nothing if all is well."""
    found = [*_gateway(seen), *_pools(seen.pools), *_requests(seen), *_endpoints(seen.out)]
    return sorted(found, key=lambda problem: problem.level != "bad")


def _gateway(seen: Seen) -> Iterable[Problem]:
    head = seen.head
    if head["draining"]:
        yield Problem("warn", "gateway", "The gateway is stopping: it finishes what it has and takes nothing new")
    elif not head["ready"]:
        some = any(pool["members"] for pool in seen.pools)
        yield Problem("bad", "gateway", "No endpoint can be used" if some else "No endpoint yet")
    if problems := head["problems"]:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        said = f"The last change of the configuration was refused: {_cut(problems[0], _TEXT)}{more}"
        yield Problem("warn", "configuration", said)


def _pools(pools: Sequence[Row]) -> Iterable[Problem]:
    lost = [pool["name"] for pool in pools if pool["members"] and not pool["ready"]]
    empty = [pool["name"] for pool in pools if not pool["members"]]
    full = [pool["name"] for pool in pools if pool["ready"] and (pool["saturation"] or 0.0) >= 1.0]
    yield from _of_pools("bad", lost, "has no endpoint that serves", "have no endpoint that serves")
    yield from _of_pools("warn", empty, "has no endpoints", "have no endpoints")
    yield from _of_pools("warn", full, "is saturated", "are saturated")


def _of_pools(level: Literal["bad", "warn"], names: Sequence[str], one: str, many: str) -> Iterable[Problem]:
    if names:
        said = f"Pool {_listed(names)} {one}" if len(names) == 1 else f"Pools {_listed(names)} {many}"
        yield Problem(level, "pool", said, names[0])


def _endpoints(out: Sequence[Row]) -> Iterable[Problem]:
    states: dict[str, dict[str, list[Row]]] = {}
    for endpoint in out:
        states.setdefault(endpoint["state"], {}).setdefault(endpoint["why"], []).append(endpoint)
    for state, words in TROUBLE.items():
        groups = states.get(state, {})
        if len(groups) > _NAMES:  # too many to tell apart
            yield _of_endpoints([each for group in groups.values() for each in group], words, "")
        else:
            for why, group in groups.items():
                yield _of_endpoints(group, words, REASONS.get(why or state, why))


def _of_endpoints(group: Sequence[Row], words: str, why: str) -> Problem:
    is_so = f"{'is' if len(group) == 1 else 'are'} {words}{': ' if why else ''}{_cut(why, _TEXT)}"
    said = f"{_listed([endpoint['id'] for endpoint in group])} {is_so}"
    return Problem("warn", "endpoint", said, group[0]["pool"], group[0]["id"])


def _requests(seen: Seen) -> Iterable[Problem]:
    rate, errors = seen.totals["rps"], seen.totals["errors"]
    part = errors / rate if rate > 0.0 else 0.0
    if part >= _ERRORS_WARN:
        yield Problem("bad" if part >= _ERRORS_BAD else "warn", "requests", f"{round(part * 100)} % of requests fail")
    longest = max((flow["wait"] or 0.0 for flow in seen.flows), default=0.0)
    queued, before = seen.totals["queued"], seen.queued_before
    if longest > _LONG_S:
        yield Problem("warn", "requests", f"{queued} requests wait for room, up to {longest:.0f} s")
    elif before is not None and queued >= _FEW and queued > before * _GROWTH + _FEW / 2:
        yield Problem("warn", "requests", f"The queue grows: {queued} wait, {before:.0f} half a minute ago")


def _listed(names: Sequence[str]) -> str:
    """Such as: a, b, c and 3 more."""
    shown = [_cut(name, _NAME) for name in names[:_NAMES]]
    if len(names) > _NAMES:
        return f"{', '.join(shown)} and {len(names) - _NAMES} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
