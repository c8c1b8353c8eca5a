import math
from bisect import bisect_left

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import meter
from gateway.labels import label
from gateway.meter import Histogram, Record, Totals
from gateway.tally import Exemplar

CHAT = "/v1/chat/completions"


def test_a_request_is_counted_under_its_labels() -> None:
    totals = Totals()
    record = Record(
        model="llama",
        pool="main",
        operation=CHAT,
        status=200,
        stream=True,
        started=10.0,
        ended=13.0,
        ttft_s=1.0,
        tokens_in=100,
        tokens_out=5,
        tokens_cached=64,
    )
    totals.finished(record)
    totals.finished(record)
    flow = totals.flows["llama", "main", CHAT, "http"]
    assert flow.outcomes == {(200, ""): 2}
    assert (flow.tokens_in, flow.tokens_out, flow.tokens_cached) == (200, 10, 128)
    assert flow.duration.sum == 6.0
    assert flow.ttft.sum == 2.0
    assert flow.tpot.sum == 1.0  # two seconds over the four tokens after the first, twice
    assert (record.duration_s, record.tpot_s) == (3.0, 0.5)


def test_what_was_not_seen_is_not_observed() -> None:
    totals = Totals()
    totals.finished(Record(model="m", status=503, reason="no_endpoints", ended=0.1))
    totals.finished(Record(model="m", ttft_s=0.5, ended=1.0, tokens_out=9))  # not streamed: no time between tokens
    totals.finished(Record(model="m", ttft_s=0.5, ended=1.0, tokens_out=1, stream=True))
    flow = totals.flows["m", "", "", "http"]
    assert sum(flow.duration.counts) == 3
    assert sum(flow.ttft.counts) == 2
    assert sum(flow.tpot.counts) == 0
    assert math.isnan(Record(tokens_out=9).tpot_s)


def test_what_a_tenant_used_is_counted_and_nobodys_is_not() -> None:
    totals = Totals()
    for _ in range(2):
        totals.finished(Record(tenant="acme", tier="gold", tokens_in=10, tokens_out=5))
    totals.finished(Record(tenant="acme", tokens_in=1))
    totals.finished(Record(tokens_in=100, user="ann"))
    assert {owner: (s.tokens_in, s.tokens_out) for owner, s in totals.tenants.items()} == {
        ("acme", "gold"): (20, 10),
        ("acme", ""): (1, 0),
    }


def test_waits_are_counted_where_somebody_might_wait() -> None:
    totals = Totals()
    for waited in (0.0, 2.0, math.nan):
        totals.finished(Record(pool="main", queue_s=waited))
    totals.finished(Record(pool="open"))
    assert list(totals.queues) == [("main", "")]
    waits = totals.queues["main", ""]
    assert (waits.count, waits.sum) == (2, 2.0)


def test_no_model_is_counted_as_unknown() -> None:
    totals = Totals()
    for _ in range(2):
        totals.finished(Record(status=404, reason="model_not_found", operation=CHAT))
    assert totals.flows["unknown", "", CHAT, "http"].outcomes == {(404, "model_not_found"): 2}


@given(names=st.lists(st.text(max_size=3), max_size=60), statuses=st.lists(st.integers(100, 599), max_size=60))
@settings(max_examples=50)
def test_label_sets_are_bounded_and_nothing_is_lost(names: list[str], statuses: list[int]) -> None:
    totals = Totals(max_flows=5, max_outcomes=4, max_attempts=6, max_tenants=3, max_names=2, max_ways=4)
    for name in names:
        pool, tier = f"at {name}", f"of {name}"
        totals.tiers = {*totals.tiers, tier}
        totals.finished(
            Record(model=name, operation=CHAT, tier=tier, tokens_in=1, pool=pool, queue_s=0.0, route=name, target=name)
        )
        totals.turned_away(pool, tier, name)
        totals.failed_over(pool, name)
        totals.decided(pool, 0.0, 1.0, 0.5)
        totals.gaps(pool).observe(0.01)
        totals.limited(name)
        totals.rewrote(name, "m", "n")
        totals.attempted("pool", name, "ok")
    for status in statuses:
        totals.finished(Record(model="m", operation=CHAT, status=status))
    assert len(totals.flows) <= 6
    assert all(len(flow.outcomes) <= 5 for flow in totals.flows.values())
    assert len(totals.attempts) <= 7
    counted = sum(sum(flow.outcomes.values()) for flow in totals.flows.values())
    assert counted == len(names) + len(statuses)
    assert sum(totals.attempts.values()) == len(names)
    assert len(totals.tenants) <= 4
    assert sum(share.tokens_in for share in totals.tenants.values()) == len(names)
    assert len(totals.queues) <= 3
    assert sum(sum(waits.counts) for waits in totals.queues.values()) == len(names)
    assert len(totals.routes) <= 5
    assert sum(traffic.requests for traffic in totals.routes.values()) == len(names)
    for counts in (totals.limits, totals.rewrites, totals.refusals, totals.failovers):
        assert len(counts) <= 3
        assert sum(counts.values()) == len(names)
    assert max(len(totals.placed), len(totals.between)) <= 3
    assert sum(placed.hits for placed in totals.placed.values()) == len(names) / 2
    assert sum(gaps.count for gaps in totals.between.values()) == len(names)


def test_a_series_once_open_keeps_counting_past_the_cap() -> None:
    totals = Totals(max_flows=1)
    for model in ("a", "b", "a", "c"):
        totals.finished(Record(model=model, operation=CHAT))
    assert totals.flows["a", "", CHAT, "http"].outcomes == {(200, ""): 2}
    assert totals.flows["other", "other", "other", "http"].outcomes == {(200, ""): 2}


def test_forgetting_an_endpoint_frees_its_series_and_no_others() -> None:
    totals = Totals(max_attempts=4)
    totals.attempted("p", "a", "ok")
    totals.attempted("p", "a", "upstream_timeout")
    totals.attempted("p", "c", "ok")
    totals.attempted("q", "a", "ok")
    totals.forget("p", "a")
    totals.attempted("p", "b", "ok")
    assert dict(totals.attempts) == {("p", "c", "ok"): 1, ("q", "a", "ok"): 1, ("p", "b", "ok"): 1}


def test_reloads_keep_their_last_result() -> None:
    totals = Totals()
    totals.reloaded(True)
    totals.reloaded(False)
    assert totals.reloads == {"success": 1, "failure": 1}
    assert not totals.last_reload_successful


@given(st.lists(st.floats(0, 4000), min_size=1, max_size=40))
@settings(max_examples=50)
def test_a_bucket_holds_what_is_at_most_its_bound(values: list[float]) -> None:
    histogram = Histogram(meter.DURATION_BOUNDS)
    for value in values:
        histogram.observe(value)
    for index, bound in enumerate(histogram.bounds):
        assert sum(histogram.counts[: index + 1]) == sum(value <= bound for value in values)
    assert sum(histogram.counts) == len(values)
    assert math.isclose(histogram.sum, sum(values))  # sum() compensates from Python 3.12 on


def test_bounds_are_ordered() -> None:
    for bounds in (meter.DURATION_BOUNDS, meter.TTFT_BOUNDS, meter.QUEUE_BOUNDS, meter.TPOT_BOUNDS):
        assert list(bounds) == sorted(set(bounds))
        assert bisect_left(bounds, bounds[0]) == 0


def test_what_a_route_sent_where_is_counted_by_what_came_of_it() -> None:
    totals = Totals()
    for status, reason in ((200, ""), (200, "upstream_error"), (502, "upstream_error"), (429, "rate_limited")):
        totals.finished(Record(route="r", pool="new", target="llama-2", status=status, reason=reason))
    totals.finished(Record(route="r", pool="old"))
    totals.finished(Record(status=404, reason="model_not_found"))
    shown = {way: (traffic.ok, traffic.refused, traffic.failed) for way, traffic in totals.routes.items()}
    assert shown == {("r", "new", "llama-2"): (1, 1, 2), ("r", "old", ""): (1, 0, 0)}
    assert totals.routes["r", "new", "llama-2"].requests == 4


def test_configurations_in_force_are_numbered() -> None:
    totals = Totals()
    totals.in_force(1.0)
    totals.in_force(5.0)
    assert (totals.generation, totals.in_force_since) == (2, 5.0)


def test_tiers_that_the_configuration_does_not_know_are_many_in_one() -> None:
    totals = Totals()
    totals.tiers = {"gold"}
    for tier in ("", "gold", "made up", "so is this"):
        totals.finished(Record(pool="main", tier=tier, queue_s=1.0))
        totals.turned_away("main", tier, "queue_full")
    assert {line: waits.count for line, waits in totals.queues.items()} == {
        ("main", ""): 1,
        ("main", "gold"): 1,
        ("main", "other"): 2,
    }
    assert totals.refusals["main", "other", "queue_full"] == 2


def test_what_can_be_looked_up_stands_beside_its_bucket() -> None:
    totals = Totals()
    for trace_id, ended in (("a" * 32, 3.0), ("b" * 32, 4.0), ("c" * 32, 0.004)):
        totals.finished(Record(ended=ended, ttft_s=0.001, trace_id=trace_id, sampled=True))
    totals.finished(Record(ended=4.5, trace_id="d" * 32))  # nobody has it
    (flow,) = totals.flows.values()
    assert flow.duration.exemplars == {
        7: Exemplar(4.0, "b" * 32, 4.0),
        0: Exemplar(0.004, "c" * 32, 0.004),
    }
    assert flow.ttft.exemplars == {0: Exemplar(0.001, "c" * 32, 0.004)}


def test_durations_of_failures_are_kept_apart_and_counted_in() -> None:
    totals = Totals()
    for reason in ("", "overloaded", "overloaded"):
        totals.finished(Record(reason=reason, ended=2.0))
    (flow,) = totals.flows.values()
    assert (flow.duration.count, flow.failed["overloaded"].count, list(flow.failed)) == (3, 2, ["overloaded"])
    flow.duration.add(flow.failed["overloaded"], -1)
    assert (flow.duration.count, flow.duration.sum) == (1, 2.0)


HOSTILE = st.text(max_size=600) | st.sampled_from(["\ud800", "x" * 100_000, 'a"b', "a\nb", "\x1b[2J", "\u2028"])


@given(HOSTILE)
def test_a_label_is_short_printable_and_its_own_label(text: str) -> None:
    shown = label(text)
    assert len(shown) <= 256
    assert shown.isprintable()
    assert label(shown) == shown
    shown.encode()  # no lone surrogates


@given(HOSTILE, HOSTILE)
def test_two_texts_are_two_labels(one: str, other: str) -> None:
    assert (label(one) == label(other)) == (one == other)


def test_thousands_of_hostile_names_are_a_few_short_ones() -> None:
    totals = Totals()
    for index in range(2_000):
        name = f'{index}\n"' * 100
        totals.finished(Record(model=name, pool=name, route=name, tenant=name, tier=name, reason=name, queue_s=0.0))
        totals.attempted(name, name, name)
        totals.turned_away(name, name, name)
        totals.decided(name, 0.0, 0.0, 0.0)
    assert len(totals.flows) == 501
    keys = [*totals.flows, *totals.routes, *totals.tenants, *totals.queues, *totals.attempts, *totals.refusals]
    assert all(len(part) <= 256 and part.isprintable() for key in keys for part in key)
    assert max(map(len, totals.placed)) <= 256
    assert totals.flows["other", "other", "other", "http"].duration.count == 1_500
