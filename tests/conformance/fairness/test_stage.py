"""Workloads played through the gateway's door: repeatable, complete, and fair only with the gateway's own order."""

from __future__ import annotations

from statistics import fmean

import msgspec
import pytest

from conformance.fairness.experiments import Extent, bounded, locality, many, overloaded, two_flows, weighted
from conformance.fairness.orders import FIFO, ORDERS, OURS, Fifo, LeastUsed, MakeOrder, Ours, Turns
from conformance.fairness.stage import Run, Stage
from conformance.fairness.workload import FLOOD, LIGHT, Workload, clients, flood, made, skewed, talks, weights

SMALL = Extent(seeds=1, flood=40, talks=120)


def small() -> Workload:
    return flood(requests=40)


@pytest.mark.parametrize("order", ORDERS.values())
def test_every_request_ends_and_every_permit_comes_back(order: MakeOrder) -> None:
    stage = Stage(small(), order)
    run = stage.run()
    assert not any(fate.failed for fate in run.outcome.fates)
    assert all(fate.ttft > 0 for fate in run.outcome.fates)
    gate = stage.gate
    assert gate is not None
    assert (len(gate.order), gate.inflight, gate.coming, gate.released) == (0, 0, 0, len(run.waited))
    assert len(run.placed) == len(run.waited)


def test_all_that_was_asked_for_is_served() -> None:
    run = Stage(small()).run()
    for client in run.service.weights:
        asked, served = run.service.asked[client].until(1e9), run.service.served[client].until(1e9)
        assert served == pytest.approx(asked)


def test_the_same_workload_gives_the_same_run() -> None:
    one, other = Stage(small()).run(), Stage(small()).run()
    assert [fate.ttft for fate in one.outcome.fates] == [fate.ttft for fate in other.outcome.fates]
    assert flood(1).trace != flood(2).trace


def _light(run: Run) -> float:
    return fmean(run.ttft(LIGHT))


def test_a_flood_delays_others_by_a_slot_and_first_come_by_all_of_it() -> None:
    """The figure that the gateway is built for; with another order in its place it is missed."""
    alone = _light(Stage(small().only(LIGHT)).run())
    ours, turns = (_light(Stage(small(), order).run()) for order in (Ours, Turns))
    assert ours <= alone + 2.0
    assert ours < turns
    for worse in (Fifo, LeastUsed):
        assert _light(Stage(small(), worse).run()) > alone + 8.0


def test_least_used_charges_only_at_the_end() -> None:
    """Two clients, one of whom has had something: the other's burst goes first as a whole."""
    rows = [(1.0, 50, 400, "b")] * 16 + [(1.0, 50, 50, "a")] + [(8.0, 50, 400, "new")] * 24 + [(8.1, 50, 50, "a")]
    workload = msgspec.structs.replace(small(), trace=made("burst", rows))
    used, ours = (Stage(workload, order).run() for order in (LeastUsed, Ours))
    assert used.ttft("a")[-1] > 2 * ours.ttft("a")[-1]


def test_without_a_door_nobody_waits_there() -> None:
    run = Stage(small(), gated=False).run()
    assert not any(run.waited)
    assert max(run.ttft(LIGHT)) > 5.0


def test_weights_are_kept_and_others_do_not() -> None:
    workload = weights(requests=150)

    def ratio(order: MakeOrder) -> float:
        service = Stage(workload, order).run().service
        until = min(service.backlogs(client)[-1].end for client in service.weights)
        return service.served["four"].until(until) / service.served["one"].until(until)

    assert ratio(Ours) == pytest.approx(4.0, rel=0.12)  # of a short run
    assert ratio(Fifo) < 2.0


def test_the_made_up_clients_are_as_skewed_as_told() -> None:
    workload = clients(skewed())
    asked = dict.fromkeys(workload.clients(), 0.0)
    for request in workload.trace.requests:
        asked[request.client] += workload.weighted(request)
    rising = sorted(asked.values())
    assert len(rising) == 27
    assert sum(rising[-5:]) / sum(rising) == pytest.approx(0.68, abs=0.05)
    assert sum(rising) ** 2 / (27 * sum(value**2 for value in rising)) == pytest.approx(0.3, abs=0.03)
    assert len(workload.trace.requests) == pytest.approx(1500, abs=5)


def test_overload_is_what_it_is_called() -> None:
    trace = msgspec.structs.replace(skewed(), requests=skewed().requests[:300])
    workload = overloaded(trace, 2.0)
    asked = sum(map(workload.weighted, workload.trace.requests))
    run = Stage(workload).run()
    assert run.service.total(0.0, run.last_arrival) == pytest.approx(asked / 2.0, rel=0.15)


def test_conversations_belong_to_ten_clients() -> None:
    workload = talks(requests=300)
    assert len(workload.clients()) == 10
    whose: dict[int, set[str]] = {}
    for request in workload.trace.requests:
        whose.setdefault(request.blocks[-1], set()).add(request.client)
    assert all(len(names) == 1 for names in whose.values())


def test_experiments_tell_their_figures() -> None:
    parts = [each(SMALL) for each in (two_flows, weighted, bounded, locality)]
    figures = [verdict for part in parts for verdict in part.verdicts]
    assert len(figures) == 6
    assert all(verdict.figure == verdict.figure and verdict.figure >= 0 for verdict in figures)
    (bound,) = parts[2].verdicts
    assert bound.met


def test_clients_are_compared_with_having_all_to_themselves() -> None:
    trace = msgspec.structs.replace(skewed(), requests=skewed().requests[:250])
    part = many(Extent(trace=trace))
    rows = {row["order"]: row for row in part.rows}
    assert set(rows) == set(ORDERS)
    assert rows[OURS]["avg"] < rows[FIFO]["avg"]
    assert len(rows[OURS]["clients"]) == len({request.client for request in trace.requests})


def test_who_floods_is_not_light() -> None:
    assert small().clients()[-1] == LIGHT
    assert small().only(FLOOD).clients() == [FLOOD]
