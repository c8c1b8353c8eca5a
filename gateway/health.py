"""Whether an endpoint may be given requests, and how many: circuit, outliers, hung engines, slow start. (P)

Invariants: no more of a pool than its settings allow is set aside for being worse than the others, or for answers that
say nothing but that a request went wrong; whoever is set aside is tried again, by one request at a time; times are
arguments, in seconds on one clock.

A circuit opens for one of several reasons, is half open when its time is up, and closes when a request that was let
through then (a probe) gives a first token or ends well. What was under way when it opened says nothing new. Answers to
polls (metrics, model listings) show that an endpoint is there, not that it generates: they half-open the circuit of one
that was hung or down, and close none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from gateway.config.settings import HealthSettings
from gateway.outliers import ERRING, SLOW, STUCK, Figures, Finding, Peers, ratio_of
from gateway.types import Ration

FAILING: Final = "failing"
"""Failed several times in a row."""
HUNG: Final = "hung"
"""Answers nothing at all, polls included."""
RECOVERED, UP, DOWN = "recovered", "up", "down"
"""Other changes than being set aside."""

_OUTLYING: Final = frozenset({ERRING, SLOW, STUCK})
_OPEN_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_OUTLYING_SKIPS: Final = 2  # asking again one that does answer, only badly, is dear and not urgent
_FORGIVEN_S: Final = 60.0
_MAX_COOL_S: Final = 60.0
_FULL_S: Final = 0.5
_GAP_S: Final = 2.0
_RECENT: Final = 0.2
_POLLS: Final = 3.0
_PAUSE_S: Final = 1.0
_FIRST_SHARE: Final = 0.1
_DEFAULTS: Final = HealthSettings()


class Health:
    """One endpoint of one pool. ``up`` is None until somebody has asked it; it may be used before.

    ``heard`` is for the readers of answers to write: when something last showed that it generates. ``why`` is empty
    while the circuit is closed; ``gone`` is why it is down, "" while it is not. ``blocked_until`` is all that
    `usable` looks at: infinity where only an event ends it. Until ``aside_until`` it is full, eased in, to be
    tried, or has few tokens left of its provider's ration.
    ``changes`` counts, for a whole pool if it is so shared, how often it was set aside, by why, RECOVERED, UP, DOWN.
    """

    __slots__ = (
        "_awake_since", "_bar", "_closed_at", "_gap", "_opened_at", "_polled", "_ramp_until", "_stranded", "_watched",
        "aside_until", "blocked_until", "changes", "consecutive", "cool_until", "draining", "figures", "full_until",
        "gone", "heard", "open_until", "openings", "probes", "requests_left", "requests_until", "settings",
        "tokens_left", "tokens_until", "up", "why",
    )  # fmt: skip

    def __init__(self, settings: HealthSettings = _DEFAULTS, *, joins: bool = False) -> None:
        """``joins``: the pool is at work already, so it gets little until it has been reached, and is then eased in."""
        self.settings = settings
        self.figures = Figures()
        self.up: bool | None = None
        self.changes: dict[str, int] = {}
        self.draining = False
        self.why = self.gone = ""
        self.consecutive = self.openings = self.probes = 0
        self.heard = self.open_until = self.cool_until = self.full_until = self.blocked_until = -math.inf
        self._opened_at = self._closed_at = self._polled = self._watched = self._awake_since = -math.inf
        self._ramp_until = self.aside_until = -math.inf
        self.requests_until = self.tokens_until = -math.inf
        self.requests_left = self.tokens_left = self._gap = self._bar = math.inf
        self._stranded = False
        if joins:
            self._ramp(math.inf)

    # -- what decisions ask -------------------------------------------------------------------------------------------

    def usable(self, now: float) -> bool:
        """Whether a new request may be placed here."""
        return now >= self.blocked_until

    def share(self, now: float) -> float:
        """What part of its usual requests it should get, above 0 and at most 1; 0.1 while the next one is a probe."""
        if self.why:
            return _FIRST_SHARE
        if now >= self._ramp_until:
            return 1.0
        return 1.0 - (1.0 - _FIRST_SHARE) * min(1.0, (self._ramp_until - now) / self.settings.slow_start)

    def hung(self, now: float) -> bool:
        """It gives no sign of life: requests there that have no token yet are better off with another endpoint."""
        return self._stranded and now < self.open_until

    def reluctance(self, now: float) -> float:
        """Where nobody is usable, the one with the least is the best to ask; infinity: not at all."""
        if self.up is False or self.draining or (self.why == FAILING and now < self.open_until):
            return math.inf
        rank = 2e3 if self._stranded else 1e3 if now < self.open_until else 0.0
        return rank + max(0.0, self.cool_until - now)

    def wait(self, now: float) -> float:
        """Seconds until it is usable, infinity where nobody knows."""
        return max(0.0, self.blocked_until - now)

    def state(self, now: float) -> str:
        """For operators: draining, down, hung, open, half-open, slow-start, unknown or ready."""
        if self.draining:
            return "draining"
        if self.up is False:
            return "down"
        if self.hung(now):
            return "hung"
        if now < self.open_until or now < self.cool_until:
            return "open"
        if self.why:
            return "half-open"
        if now < self._ramp_until:
            return "slow-start"
        return "unknown" if self.up is None else "ready"

    # -- what requests tell -------------------------------------------------------------------------------------------

    def place(self) -> bool:
        """A request goes here. True if it is a probe; `leave` and the outcome want to know."""
        probe = bool(self.why)
        if probe:
            self.probes += 1
            self._settle()
        return probe

    def leave(self, probe: bool) -> None:
        if probe:
            self.probes -= 1
            self._settle()

    def answered(self, now: float, observed: float, expected: float, probe: bool = False) -> float:
        """A first token came ``observed`` seconds after dispatch, ``expected`` were predicted then.

        Seconds for which a probe that was too slow sets the endpoint aside again, or 0.
        """
        self.heard = now
        if self.why and not probe:
            return 0.0
        if self.why:
            late = observed - expected >= self.settings.ejection.latency_excess
            if self.why in (SLOW, STUCK) and late and ratio_of(observed, expected) >= self._bar:
                return self._open(now, self.why)
            self._close(now)
        self.figures.answered(now, observed, expected)
        return 0.0

    def succeeded(self, now: float, probe: bool = False) -> None:
        """A request ended well, or by its caller's mistake."""
        if self.why and not probe:
            return
        self.consecutive = 0
        if self.why:
            self._close(now)
        self.figures.outcome(now, False)

    def failed(self, now: float, probe: bool = False, spare: Callable[[], bool] | None = None) -> float:
        """A request failed by the endpoint's own fault. Seconds for which that sets it aside, or 0.

        ``spare``: where it may have been the request's fault, too; whether others are left if this one is set aside.
        """
        self.consecutive += 1
        if not self.why:
            self.figures.outcome(now, True)
        if now < self.open_until:
            return 0.0
        if self.consecutive >= self.settings.consecutive_failures:
            return 0.0 if not self.why and spare is not None and not spare() else self._open(now, FAILING)
        if not self.why or not probe:
            return 0.0
        return self._open(now, FAILING if self.why in (SLOW, STUCK) else self.why)  # what it was before is over

    def cool(self, now: float, retry_after: float) -> None:
        """The endpoint asked not to be called for ``retry_after`` seconds."""
        self.cool_until = now + min(retry_after, _MAX_COOL_S)
        self._settle()

    def rationed(self, now: float, ration: Ration) -> None:
        """Its provider told what it will still take. Where that is nothing it is left alone until there is more."""
        self.requests_left, self.tokens_left = ration.requests, ration.tokens
        self.requests_until = now + min(ration.requests_reset, _MAX_COOL_S)
        self.tokens_until = now + min(ration.tokens_reset, _MAX_COOL_S)
        self._spare(now)

    def spend(self, now: float, tokens: float) -> None:
        """A request with a prompt of so many tokens goes there: so much less is left, until the provider tells anew."""
        self.requests_left -= 1.0
        self.tokens_left -= tokens
        self._spare(now)

    def affords(self, now: float, tokens: float) -> bool:
        """Whether a prompt of so many tokens is within what its provider will still take."""
        return tokens <= self.tokens_left or now >= self.tokens_until

    def _spare(self, now: float) -> None:
        if self.requests_left < 1.0:
            self.cool_until = max(self.cool_until, self.requests_until)
        if self.tokens_left < 1.0:
            self.cool_until = max(self.cool_until, self.tokens_until)
        self._settle()

    def refused(self, now: float) -> None:
        """The endpoint is full: others come first for a moment."""
        self.full_until = now + _FULL_S
        self._settle()

    def due(self, waited: float, expected: float) -> None:
        """A streamed request waits for its first token; told of each one before every `watch`.

        Not told where something unstreamed is under way, whose progress nobody sees.
        """
        self.figures.due(waited, expected)

    # -- what others tell ---------------------------------------------------------------------------------------------

    def polled(self, now: float, period: float = 0.0) -> None:
        """The endpoint answered a poll, whatever it said. From now on silence means something, but not before the next
        poll, ``period`` seconds from now.
        """
        gap = now - self._polled
        if self._gap == math.inf:
            self._gap = min(gap, _GAP_S)
        elif not self._stranded:
            self._gap = max(gap, self._gap + _RECENT * (gap - self._gap))
        self._gap = max(self._gap, period)
        self._polled = now

    def unpolled(self) -> None:
        """Nobody polls it any more: its silence proves nothing."""
        self._polled, self._gap = -math.inf, math.inf

    def reached(self, now: float, up: bool | None, gone: str = "") -> None:
        """Whether it is there, and if not, what says so. One that comes back was started anew: it may be tried at once,
        and is eased in.
        """
        back = self.up is False and up is not False
        if back:
            self.open_until = min(self.open_until, now)
        if back or (up and self._ramp_until == math.inf):
            self._ramp(now)
        if up is not None and up is not self.up:
            self._changed(UP if up else DOWN)
        self.up, self.gone = up, gone
        self._settle()

    def drain(self, draining: bool = True) -> None:
        """Whether it is left alone because somebody said so."""
        self.draining = draining
        self._settle()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Everything that forbids a request, as one time."""
        if self.up is False or self.draining or (self.why and self.probes):
            self.blocked_until = math.inf
        else:
            self.blocked_until = max(self.open_until, self.cool_until)
        self.aside_until = math.inf if self.why else max(self.full_until, self._ramp_until, self.tokens_until)

    def _open(self, now: float, why: str, stranded: bool = False) -> float:
        """Seconds until it is half open."""
        if not self.why and now - self._closed_at >= _FORGIVEN_S:
            self.openings = 0
        step = self.openings + (_OUTLYING_SKIPS if why in _OUTLYING else 0)
        rest = math.inf if why == HUNG else _OPEN_S[min(step, len(_OPEN_S) - 1)]
        self.openings += 1
        self._changed(why)
        self.why = why
        self._stranded = stranded
        self._opened_at = now
        self.open_until = now + rest
        self.figures.forget()
        self._settle()
        return rest

    def _half_open(self, now: float) -> None:
        self.open_until = min(self.open_until, now)
        self._settle()

    def _close(self, now: float) -> None:
        self._changed(RECOVERED)
        self.why = ""
        self._stranded = False
        self._bar = math.inf
        self._closed_at = now
        self._ramp(now)
        self._half_open(now)

    def _changed(self, what: str) -> None:
        self.changes[what] = self.changes.get(what, 0) + 1

    def _ramp(self, now: float) -> None:
        if self.settings.slow_start < math.inf:
            self._ramp_until = now + self.settings.slow_start
            self._settle()

    # -- what only time or comparison shows ---------------------------------------------------------------------------

    def _listen(self, now: float) -> str:
        """What sound or silence has changed, "" for nothing."""
        if now - self._watched > _PAUSE_S:
            self._awake_since = now  # the gateway itself was away, and heard nobody
        self._watched = now
        heard = max(self.heard, self._polled)
        if now - heard < self.settings.hung_after and not self.why:
            return ""  # as nearly always
        if self.why == HUNG and self.open_until == math.inf:
            again = heard > self._opened_at
            if not again and self._gap < math.inf:
                return ""
            self._half_open(now)
            return "is heard again and may be tried" if again else "is not polled any more, so a request has to try it"
        silence = now - max(heard, self._awake_since)
        away = self.up is False or self.draining or now < self.open_until
        if away or silence < max(self.settings.hung_after, _POLLS * self._gap):
            return ""
        self._open(now, HUNG, stranded=True)
        return f"is set aside until it is heard again: silent for {silence:.1f} s"

    def _compare(self, now: float, pool: Peers) -> Finding | None:
        """What sets it apart from its pool; of one that is being tried, only that the probe stands still."""
        figures, rules, patience = self.figures, self.settings.ejection, self.settings.hung_after
        if now < self.open_until or (self.why and not self.probes):
            return None
        silence = now - max(self.heard, self._awake_since)
        stuck = figures.stuck(pool, rules, patience) if silence >= patience else None
        return stuck or (None if self.why else figures.erring(pool, rules) or figures.slow(pool, rules))

    def _eject(self, now: float, finding: Finding) -> str:
        why = FAILING if self.why in (FAILING, HUNG) else finding.why
        self._bar = min(self._bar, finding.bar)
        return f"is set aside for {self._open(now, why, finding.why == STUCK):g} s: {finding.what}"


def watch(pool: Sequence[Health], now: float) -> list[tuple[int, str]]:
    """Everything that only time or comparison shows; about four times a second. Who changed, by position, and how.

    The silent are set aside, all of them; those that are worse than the others only as far as there is room for it,
    the worst first.
    """
    changes = [(index, what) for index, health in enumerate(pool) if (what := health._listen(now))]
    if not any(health.figures.known for health in pool):
        return changes  # nothing to compare
    there = _there(pool)
    peers = Peers([health.figures for health in there])
    found = [(finding, index) for index, health in enumerate(pool) if (finding := health._compare(now, peers))]
    for health in pool:
        health.figures.settle()
    room = _room([health for health in there if health.why not in (FAILING, HUNG)])
    for finding, index in sorted(found, key=lambda pair: -pair[0].badness):
        if not pool[index].why:
            room -= 1
            if room < 0:
                continue
        changes.append((index, pool[index]._eject(now, finding)))
    return changes


def spare(pool: Sequence[Health]) -> bool:
    """Whether one more may be set aside for how it answers, beside all that are."""
    there = _there(pool)
    return sum(1 for health in there if health.why) < _most(there)


def _room(there: Sequence[Health]) -> int:
    """How many more may be set aside for being worse than the others."""
    return _most(there) - sum(health.why in _OUTLYING for health in there)


def _there(pool: Sequence[Health]) -> list[Health]:
    return [health for health in pool if health.up is not False and not health.draining]


def _most(there: Sequence[Health]) -> int:
    """How many of these may be set aside for how they answer, as far as the share goes."""
    share = there[0].settings.ejection.max_share if there else 0.0
    return int(share * len(there) + 1e-9)
