"""What is wrong with the fleet, as everybody who watches is told it: the page and the terminal say the same. (P)

Invariant: as much is said as there are kinds of trouble, however many pools and endpoints have it. An endpoint that is
out is a warning as long as others of its pool serve; what keeps requests from being answered is bad.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from gateway.live_attempts import FAILED, Tried

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
_ERRORS: Final = 3
"""One request that fails, or two, say nothing about the fleet."""
_MANY: Final = 20
"""So many requests have a share of failures that means something."""
_AT_ONE, _MOSTLY = 5, 0.5
"""Failed attempts at an endpoint that are told of, and what part of all there."""
_AT_ALL, _OFTEN = 10, 0.2
"""The same of a pool, wherever in it they fail."""
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


class Ended(msgspec.Struct, frozen=True):
    """Requests that ended within some time, and those of them that failed."""

    requests: int = 0
    errors: int = 0


class Around(msgspec.Struct, frozen=True):
    """What goes on beside requests, so far. ``away``: why the shared store is, "" while it is there or there is none;
    ``went``: how often it went. ``lost``: by what, how many. ``restarts``: by background task.
    """

    away: str = ""
    went: int = 0
    lost: Mapping[str, int] = {}
    restarts: Mapping[str, int] = {}


class Seen(msgspec.Struct, frozen=True):
    """Of a state, as the feed has it: its ``head``, ``totals`` and rows. ``out``: endpoints in a state of `TROUBLE`.
    ``queued_before``: how many waited half a minute ago, None if nobody knows. ``seconds``: what ended within the last
    ten of them, ``minute``: within that. ``tried``: attempts of the last ten or twenty seconds. ``full``: for how many
    seconds pools have been full without a break. ``around``: as it is, and as it was a minute ago.
    """

    head: Row
    totals: Row
    pools: Sequence[Row] = ()
    out: Sequence[Row] = ()
    flows: Sequence[Row] = ()
    queued_before: float | None = None
    seconds: Ended = Ended()
    minute: Ended = Ended()
    tried: Sequence[Tried] = ()
    full: Mapping[str, float] = {}
    around: tuple[Around, Around] = (Around(), Around())


def judge(seen: Seen) -> list[Problem]:
    """The worst first; nothing if all is well."""
    found = [*_gateway(seen), *_pools(seen), *_requests(seen), *_endpoints(seen.out), *_attempts(seen)]
    found += _around(*seen.around)
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


def _pools(seen: Seen) -> Iterable[Problem]:
    pools = seen.pools
    lost = [pool["name"] for pool in pools if pool["members"] and not pool["ready"]]
    empty = [pool["name"] for pool in pools if not pool["members"]]
    full = [pool["name"] for pool in pools if pool["ready"] and _saturated(seen, pool)]
    yield from _of_pools("bad", lost, "has no endpoint that serves", "have no endpoint that serves")
    yield from _of_pools("warn", empty, "has no endpoints", "have no endpoints")
    yield from _of_pools("warn", full, "is saturated", "are saturated")


def _saturated(seen: Seen, pool: Row) -> bool:
    """Whether it is full for long. Where fairness hands out what room there is, engines are full as they should be: it
    is none until somebody waits long for it.
    """
    name = pool["name"]
    if seen.full.get(name, 0.0) < _LONG_S:
        return False
    return not pool["fairness"] or any(flow["pool"] == name and (flow["wait"] or 0.0) > _LONG_S for flow in seen.flows)


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


def _attempts(seen: Seen) -> Iterable[Problem]:
    """Endpoints, and then pools, where attempts fail, if nothing else is said of them: clients notice nothing as long
    as another endpoint answers.
    """
    out = {(endpoint["pool"], endpoint["id"]) for endpoint in seen.out}
    failing: list[Tried] = []
    pools: dict[str, list[Tried]] = {}
    for tried in seen.tried:
        if _fails([tried], _AT_ONE, _MOSTLY) and (tried.pool, tried.endpoint) not in out:
            failing.append(tried)
        elif (tried.pool, tried.endpoint) not in out:
            pools.setdefault(tried.pool, []).append(tried)
    if failing:
        names = _listed([tried.endpoint for tried in failing])
        said = f"Attempts at {names} fail: {_of_all(failing)}"
        yield Problem("warn", "endpoint", said, failing[0].pool, failing[0].endpoint)
    often = {pool: each for pool, each in pools.items() if _fails(each, _AT_ALL, _OFTEN)}
    if often:
        first, *others = often
        said = f"Attempts in {'pools' if others else 'pool'} {_listed(list(often))} fail often: "
        yield Problem("warn", "pool", said + _of_all([tried for each in often.values() for tried in each]), first)


def _fails(group: Sequence[Tried], least: int, part: float) -> bool:
    failed = sum(sum(tried.failed.values()) for tried in group)
    return failed >= least and failed >= part * sum(tried.attempts for tried in group)


def _of_all(group: Sequence[Tried]) -> str:
    """Such as: 28 of 30 (no answer in time)."""
    by = {words: sum(tried.failed.get(outcome, 0) for tried in group) for outcome, words in FAILED.items()}
    return f"{sum(by.values())} of {sum(tried.attempts for tried in group)} ({max(by, key=lambda words: by[words])})"


def _requests(seen: Seen) -> Iterable[Problem]:
    ended = seen.seconds if seen.seconds.requests >= _MANY else seen.minute
    part = ended.errors / ended.requests if ended.errors >= _ERRORS and ended.requests else 0.0
    if part >= _ERRORS_WARN:
        said = f"{ended.errors} of {ended.requests} requests failed within a minute"
        if ended.requests >= _MANY:
            said = f"{round(part * 100)} % of requests fail"
        yield Problem("bad" if part >= _ERRORS_BAD else "warn", "requests", said)
    longest = max((flow["wait"] or 0.0 for flow in seen.flows), default=0.0)
    queued, before = seen.totals["queued"], seen.queued_before
    if longest > _LONG_S:
        yield Problem("warn", "requests", f"{queued} requests wait for room, up to {longest:.0f} s")
    elif before is not None and queued >= _FEW and queued > before * _GROWTH + _FEW / 2:
        yield Problem("warn", "requests", f"The queue grows: {queued} wait, {before:.0f} half a minute ago")


def _around(new: Around, old: Around) -> Iterable[Problem]:
    if new.away:
        said = f"The shared store is away, limits are kept by this process alone: {_cut(new.away, _TEXT)}"
        yield Problem("warn", "gateway", said)
    elif new.went > old.went:
        yield Problem("warn", "gateway", "The shared store was away within the last minute")
    if lost := _grown(new.lost, old.lost):
        said = _listed([f"{what}: {count}" for what, count in lost.items()])
        yield Problem("warn", "gateway", f"Lost within a minute: {said}")
    if restarts := _grown(new.restarts, old.restarts):
        said = _listed([f"{task}: {times}" for task, times in restarts.items()])
        yield Problem("warn", "gateway", f"Background tasks that failed and began anew within a minute: {said}")


def _grown(new: Mapping[str, int], old: Mapping[str, int]) -> dict[str, int]:
    return {name: more for name, count in new.items() if (more := count - old.get(name, 0)) > 0}


def _listed(names: Sequence[str]) -> str:
    """Such as: a, b, c and 3 more."""
    shown = [_cut(name, _NAME) for name in names[:_NAMES]]
    if len(names) > _NAMES:
        return f"{', '.join(shown)} and {len(names) - _NAMES} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
