"""The experiments that fairness is judged by, each with the figures to reach. (P)

Invariant: a figure compares runs that differ in one thing only; what it is to be is told beside it and enforced by
nobody. Times are virtual seconds, service is in weighted tokens.
"""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from conformance.fairness.orders import FIFO, ORDERS, OURS, Ours, bound
from conformance.fairness.stage import Run, Stage
from conformance.fairness.workload import (
    LIGHT,
    SLOTS,
    Workload,
    at_once,
    backlogged,
    clients,
    flood,
    skewed,
    talks,
    weights,
)
from conformance.replay.outcome import spread_of
from conformance.replay.suite import Verdict
from conformance.replay.traces import Trace

Row = dict[str, Any]
OVERLOAD = 1.5
_SETTLED_S = 5.0


class Extent(msgspec.Struct, frozen=True):
    """``seeds``: how often what is random is drawn anew; ``trace``: of clients, where a recorded one is at hand."""

    seeds: int = 12
    flood: int = 200
    talks: int = 1500
    trace: Trace | None = None


class Part(msgspec.Struct, frozen=True):
    """What one experiment came to: a table, and figures with their bounds."""

    title: str
    rows: list[Row]
    verdicts: list[Verdict]


# --- two flows -------------------------------------------------------------------------------------------------------


def two_flows(extent: Extent) -> Part:
    """One client's flood before another's light requests, alone and together, in every order."""
    made = [flood(seed, extent.flood) for seed in range(extent.seeds)]
    share = 1.0 / SLOTS
    alone = _ttft([Stage(each.only(LIGHT)).run() for each in made])
    runs = {name: [Stage(each, order).run() for each in made] for name, order in ORDERS.items()}
    runs[f"{OURS}, one slot of {SLOTS} kept"] = kept = [Stage(each.under(headroom=share)).run() for each in made]
    cold = [flood(seed, extent.flood, known=False) for seed in range(extent.seeds)]
    runs[f"{OURS}, engine never full before"] = [Stage(each).run() for each in cold]
    slot = spread_of([wait for run in runs[OURS] for wait in _slot_waits(run)])
    base = _rate(runs[FIFO])
    rows: list[Row] = [{"order": "light alone", **_seconds(alone)}]
    rows += [
        {"order": n, **_seconds(_ttft(r)), "tokens/s": _rate(r), "of FIFO": _rate(r) / base} for n, r in runs.items()
    ]
    rows.append({"order": "time in which a slot comes free", **_seconds(slot)})
    ours = runs[OURS]
    verdicts = [
        Verdict(
            "flood: light p99 TTFT, of alone + a slot's time", _ttft(ours)["p99"] / (alone["p99"] + slot["p99"]), 1.0
        ),
        Verdict("flood, a slot kept: light p99 TTFT, of alone", _ttft(kept)["p99"] / alone["p99"], 1.3),
        Verdict("flood: throughput, of FIFO", _rate(ours) / base, 0.97, least=True),
    ]
    return Part(f"{extent.flood} long requests at once, and a light flow: its TTFT", rows, verdicts)


def _ttft(runs: Sequence[Run]) -> dict[str, float]:
    """The light client's, all runs together."""
    return spread_of([ttft for run in runs for ttft in run.ttft(LIGHT)])


def _seconds(spread: Mapping[str, float]) -> Row:
    return {f"{name}, s": spread[name] for name in ("mean", "p50", "p99", "max")}


def _rate(runs: Sequence[Run]) -> float:
    """Weighted tokens a second until the last request came."""
    return sum(run.service.total(0.0, run.last_arrival) for run in runs) / sum(run.last_arrival for run in runs)


def _slot_waits(run: Run) -> list[float]:
    """From each light request's coming until one could begin in the place of the next that ends."""
    moments = [request.at for request in run.workload.trace.requests if request.client == LIGHT]
    return [run.freed[bisect_right(run.freed, (at, math.inf))][1] - at for at in moments]


# --- backlogged flows ------------------------------------------------------------------------------------------------


def weighted(extent: Extent) -> Part:
    """Two flows of weights 4 and 1 that both wait all the time."""
    rows: list[Row] = []
    for seed in range(max(1, extent.seeds // 3)):
        run = Stage(weights(seed)).run()
        until = min(run.service.backlogs(client)[-1].end for client in run.service.weights)
        four, one = (run.service.served[client].until(until) for client in ("four", "one"))
        rows.append({"seed": seed, "seconds": until, "weight 4": four, "weight 1": one, "ratio": four / one})
    off = max(abs(row["ratio"] / 4.0 - 1.0) for row in rows)
    return Part(
        "Weights 4 and 1, both backlogged: weighted tokens served", rows, [Verdict("weights 4:1: off by", off, 0.05)]
    )


def bounded(extent: Extent) -> Part:
    """Five flows of random weights and lengths: how far apart any two that wait are served, beside the stated bound."""
    rows = [_apart(seed, quantum) for seed in range(max(1, extent.seeds // 3)) for quantum in (None, 0.0)]
    worst = max(max(row["charged apart"], row["made apart"]) / row["bound"] for row in rows)
    verdict = Verdict("service difference of backlogged flows, of the bound", worst, 1.0)
    return Part("Five backlogged flows: service difference over weight, any interval", rows, [verdict])


def _apart(seed: int, quantum: float | None) -> Row:
    workload = backlogged(seed)
    if quantum is not None:
        workload = workload.under(locality_quantum=quantum)
    run = Stage(workload).run()
    service, order = run.service, run.order
    assert isinstance(order, Ours)
    pairs = list(itertools.combinations(workload.clients(), 2))
    stated = bound(workload.fairness.locality_quantum, run.placed)
    first_come = Stage(workload, ORDERS[FIFO]).run().service
    return {
        "seed": seed,
        "quantum": stated.quantum,
        "U": stated.dispatch,
        "B": stated.corrections,
        "bound": stated.apart,
        "charged apart": max(service.charged_apart(*pair, order.charged) for pair in pairs),
        "made apart": max(service.apart(*pair) for pair in pairs),
        "with FIFO": max(first_come.apart(*pair) for pair in pairs),
    }


# --- many clients ----------------------------------------------------------------------------------------------------


def many(extent: Extent) -> Part:
    """The clients of a trace before a fleet that could serve two thirds of what they ask for."""
    workload = overloaded(extent.trace or skewed(), OVERLOAD)
    isolated = {client: spread_of(Stage(workload.only(client)).run().ttft(client)) for client in workload.clients()}
    runs = {name: Stage(workload, order).run() for name, order in ORDERS.items()}
    rows = [
        {"order": name, **_shared(run, isolated), "of FIFO": _rate([run]) / _rate([runs[FIFO]])}
        for name, run in runs.items()
    ]
    title = f"{len(isolated)} clients of {workload.trace.name} at {OVERLOAD:g}× capacity"
    ours = rows[list(runs).index(OURS)]
    return Part(title, rows, [Verdict("clients: throughput, of FIFO", ours["of FIFO"], 0.97, least=True)])


def overloaded(trace: Trace, times: float) -> Workload:
    """Engines as slow as it takes for the trace's own pace to be so many times what they can do."""
    quick = clients(trace)
    run = Stage(at_once(quick), ORDERS[FIFO]).run()
    full = max(span.end for client in run.service.weights for span in run.service.backlogs(client))
    capacity = run.service.total(_SETTLED_S, full) / (full - _SETTLED_S)
    asked = sum(map(quick.weighted, quick.trace.requests)) / quick.trace.requests[-1].at
    return clients(trace, slow=times * capacity / asked)


def _shared(run: Run, isolated: Mapping[str, Mapping[str, float]]) -> Row:
    """How the service was shared out, and how many times as long clients waited as they would have alone."""
    end = run.last_arrival
    apart, index = run.service.windowed(end), run.service.jain(end) or [math.nan]
    slower = {client: _slower(spread_of(run.ttft(client)), spread) for client, spread in isolated.items()}
    within = [slower[client] for client in _within_share(run)] or [(math.nan, math.nan)]
    return {
        "difference max": max(apart),
        "avg": statistics.fmean(apart),
        "var": statistics.pvariance(apart),
        "Jain": statistics.fmean(index),
        "least": min(index),
        "slowdown p50": statistics.median(p50 for p50, _ in slower.values()),
        "p99": statistics.median(p99 for _, p99 in slower.values()),
        "within share p50": statistics.median(p50 for p50, _ in within),
        "p99 ": statistics.median(p99 for _, p99 in within),
        "worst p99": max(p99 for _, p99 in slower.values()),
        "clients": {name: {"p50": p50, "p99": p99} for name, (p50, p99) in slower.items()},
    }


def _slower(together: Mapping[str, float], alone: Mapping[str, float]) -> tuple[float, float]:
    return together["p50"] / alone["p50"], together["p99"] / alone["p99"]


def _within_share(run: Run) -> list[str]:
    """Those who ask for no more than an equal share of what was served."""
    share = run.service.total(0.0, run.last_arrival) / len(run.service.weights)
    return [client for client, curve in run.service.asked.items() if curve.until(math.inf) <= share]


# --- shared prefixes -------------------------------------------------------------------------------------------------


def locality(extent: Extent) -> Part:
    """Conversations before a fleet that cannot keep up: prompt tokens found in caches, with fairness and without."""
    workload = talks(requests=extent.talks)
    runs = {
        "off": Stage(workload, gated=False).run(),
        OURS: Stage(workload).run(),
        f"{OURS}, no overtaking": Stage(workload.under(locality_quantum=0.0)).run(),
        FIFO: Stage(workload, ORDERS[FIFO]).run(),
    }
    rows = [{"fairness": name, **_found(run)} for name, run in runs.items()]
    kept = rows[1]["hit"] / rows[0]["hit"]
    verdict = Verdict("conversations: hit ratio, of fairness off", kept, 0.9, least=True)
    return Part(f"{len(workload.trace.requests):,} requests of conversations, ten clients", rows, [verdict])


def _found(run: Run) -> Row:
    sums = run.outcome.summary(run.workload.trace, run.workload.scenario)
    waited = sum(wait > 0 for wait in run.waited) / len(run.waited)
    return {"hit": sums["hit"], **_seconds(sums["ttft_s"]), "ended, s": sums["ended_s"], "waited at the door": waited}


EXPERIMENTS: Mapping[str, Callable[[Extent], Part]] = {
    "flood": two_flows,
    "weights": weighted,
    "bound": bounded,
    "clients": many,
    "prefixes": locality,
}
