"""The runs that a scheduler's quality is judged by, and what they come to beside the figures to reach. (P)

Invariant: every figure is a plain ratio of two runs that differ in one thing only (a wait is in seconds); what it is to
be is told beside it and enforced by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from conformance.replay.policies import ORACLE
from conformance.replay.scenario import Scenario
from conformance.replay.traces import Trace

OURS = "ours"
DEFAULTS = ("kthena", "epp")
AS_RUN = ("kthena-published", "epp-published")
GRID = ("random", "round-robin", "least-request", *AS_RUN, *DEFAULTS, OURS, ORACLE)
FEW = (*AS_RUN, *DEFAULTS, OURS, ORACLE)
FRESH = ("least-inflight", "least-request", OURS)
TIMEOUT_S = 30.0
SHARING_S = 0.2
GAINS = {2.0: 1.1, 3.0: 1.25}
"""By how much goodput is to be better than the published defaults', at speeds where it is not near 1 for all."""

Row = Mapping[str, Any]


class Key(NamedTuple):
    """A run by its kind, arrival speed, cache capacity and policy."""

    kind: str
    speed: float
    capacity: float
    policy: str = OURS


class Run(NamedTuple):
    """With or without the trace's reuse."""

    reuse: bool
    scenario: Scenario


class Verdict(msgspec.Struct, frozen=True):
    """A figure, and the bound it is to keep: not above it, or not below where ``least``."""

    measure: str
    figure: float
    bound: float
    least: bool = False

    @property
    def met(self) -> bool:
        return self.figure >= self.bound if self.least else self.figure <= self.bound

    def values(self) -> dict[str, Any]:
        """As JSON-able values."""
        target = f"{'>=' if self.least else '<='} {self.bound:g}"
        return {"measure": self.measure, "figure": self.figure, "target": target, "met": self.met}


class Suite(msgspec.Struct, frozen=True):
    """``base`` says how large the fleet is and how it is scraped."""

    base: Scenario
    speeds: tuple[float, ...] = (1.0, 2.0, 3.0)
    capacities: tuple[float, ...] = (0.4, 1.2)
    grid: tuple[str, ...] = GRID

    def runs(self, trace: Trace) -> Iterator[tuple[Key, Run]]:
        """All of them; those that go into one table one after the other."""
        for capacity in self.capacities:
            for speed in self.speeds:
                for policy in self.grid:
                    yield Key("reuse", speed, capacity, policy), Run(True, self._scenario(speed, capacity))
        capacity = self.capacities[0]
        for speed in self.speeds:
            for policy in FRESH:  # without reuse the cache makes no difference
                yield Key("fresh", speed, capacity, policy), Run(False, self._scenario(speed, capacity))
        for speed in self.speeds:
            for kind, changes in self._changes(trace, speed).items():
                yield Key(kind, speed, capacity), Run(True, self._scenario(speed, capacity, **changes))

    def _scenario(self, speed: float, capacity: float, **changes: Any) -> Scenario:
        return msgspec.structs.replace(self.base, speed=speed, capacity=capacity, **changes)

    def _changes(self, trace: Trace, speed: float) -> dict[str, dict[str, Any]]:
        """What else is tried at a speed: one engine at half speed, all at as much less together; a third of the way
        through an engine hangs; several gateways, which know nothing of each other or tell each other."""
        engines = self.base.engines
        third = trace.requests[-1].at / speed / 3
        return {
            "slow": {"slow": {engines // 2: 2.0}},
            "even": {"slow": dict.fromkeys(range(engines), engines / (engines - 0.5))},
            "hung": {"hang": {engines // 2: third}, "timeout": TIMEOUT_S},
            "shared": {"gateways": 3},
            "told": {"gateways": 3, "sharing": SHARING_S},
        }

    def verdicts(self, rows: Mapping[Key, Row], reuse: bool = True) -> Iterator[Verdict]:
        """``reuse``: whether the trace has any; without, nobody can gain by it, and no gain is asked for."""
        for capacity in self.capacities:
            for speed in self.speeds:
                yield from self._reuse(rows, speed, capacity, reuse)
        for speed in self.speeds:
            yield from self._fresh(rows, speed)
        for speed in self.speeds:
            yield from self._faults(rows, speed)

    def _reuse(self, rows: Mapping[Key, Row], speed: float, capacity: float, reuse: bool) -> Iterator[Verdict]:
        found = {policy: rows[Key("reuse", speed, capacity, policy)] for policy in self.grid}
        ours, where = found[OURS], f"capacity {capacity:g}, {speed:g}×"
        yield Verdict(f"{where}: TTFT, of the oracle's", _mean(ours) / _mean(found[ORACLE]), 1.2)
        gain = GAINS.get(speed) if reuse else None
        for names, which in ((AS_RUN, "as it runs"), (DEFAULTS, "mended")) if gain else ():
            better = min((found[name] for name in names), key=_mean)
            of = f"of the better published default's, {which}"
            yield Verdict(f"{where}: TTFT, {of}", _mean(ours) / _mean(better), 0.65)
            yield Verdict(f"{where}: goodput, {of}", ours["good"] / max(better["good"], 1e-9), gain or 1.0, least=True)

    def _fresh(self, rows: Mapping[Key, Row], speed: float) -> Iterator[Verdict]:
        capacity = self.capacities[0]
        ours, least = (rows[Key("fresh", speed, capacity, policy)] for policy in (OURS, "least-request"))
        for name, field, bound in (("TTFT", "ttft_s", 1.03), ("ITL", "itl_s", 1.08)):
            figure = ours[field]["mean"] / least[field]["mean"]
            yield Verdict(f"no reuse, {speed:g}×: {name}, of least-request's", figure, bound)

    def _faults(self, rows: Mapping[Key, Row], speed: float) -> Iterator[Verdict]:
        kinds = ("reuse", "slow", "even", "hung", "shared", "told")
        one, slow, even, hung, shared, told = (rows[Key(kind, speed, self.capacities[0], OURS)] for kind in kinds)
        of = f"{speed:g}×: TTFT, of"
        half = f"one engine at half speed, {of} a healthy fleet's of the same capacity"
        yield Verdict(half, _mean(slow) / _mean(even), 1.25)
        yield Verdict(f"three gateways, {of} one gateway's", _mean(shared) / _mean(one), 1.3)
        yield Verdict(f"three that share their state, {of} one gateway's", _mean(told) / _mean(one), 1.3)
        yield Verdict(f"one engine hung, {speed:g}×: longest wait for it, seconds", round(hung["lost_s"], 6), TIMEOUT_S)


def quick(base: Scenario) -> Suite:
    """One speed, one capacity, and only those policies that figures are ratios of."""
    return Suite(base, speeds=(2.0,), capacities=(0.4,), grid=FEW)


def _mean(row: Row) -> float:
    mean: float = row["ttft_s"]["mean"]
    return mean


def text(verdicts: list[Verdict]) -> str:
    """Figures, bounds, and which are kept, as a table."""
    width = max(len(each.measure) for each in verdicts)
    lines = [f"{'figure':<{width}}   reached     target"]
    for each in verdicts:
        bound = f"{'≥' if each.least else '≤'} {each.bound:g}"
        lines.append(f"{each.measure:<{width}}  {each.figure:8.3f}   {bound:>8}  {'met' if each.met else 'NOT MET'}")
    return "\n".join(lines) + "\n"
