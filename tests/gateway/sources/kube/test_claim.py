import heapq
import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sources.kube.claim import Claim, micro_time

RETRY, TIMEOUT = 2.0, 4.0


def claim(identity: str = "a") -> Claim:
    return Claim("ns", "gateway", identity)


def lease(holder: str = "other", version: str = "1", **spec: object) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": holder, **spec}}


def test_a_new_lease_is_one_that_client_go_reads() -> None:
    mine = claim()
    mine.see(None, 0.0)
    assert mine.free(0.0)
    assert mine.wish(1_700_000_000.25) == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "gateway", "namespace": "ns"},
        "spec": {
            "holderIdentity": "a",
            "leaseDurationSeconds": 15,
            "acquireTime": "2023-11-14T22:13:20.250000Z",
            "renewTime": "2023-11-14T22:13:20.250000Z",
            "leaseTransitions": 0,
        },
    }


def test_micro_times_have_six_digits() -> None:
    assert micro_time(0.0) == "1970-01-01T00:00:00.000000Z"


def test_a_lease_of_another_is_free_when_it_has_not_changed_for_as_long_as_it_says() -> None:
    mine = claim()
    renewed_in_the_future = lease(leaseDurationSeconds=20, renewTime="2099-01-01T00:00:00.000000Z")
    mine.see(renewed_in_the_future, 100.0)
    mine.see({**renewed_in_the_future, "metadata": {"resourceVersion": "2"}}, 110.0)
    assert not mine.free(119.9)
    assert mine.free(120.0)
    mine.see(lease(leaseDurationSeconds=20, renewTime="1999-01-01T00:00:00.000000Z"), 121.0)
    assert not mine.free(140.9)


def test_taking_it_counts_and_renewing_it_does_not() -> None:
    mine = claim()
    mine.see(lease(leaseTransitions=4, acquireTime="then", strategy="OldestEmulationVersion"), 0.0)
    taken = mine.wish(0.0)
    assert taken["spec"]["leaseTransitions"] == 5
    assert taken["spec"]["acquireTime"] == "1970-01-01T00:00:00.000000Z"
    assert taken["spec"]["strategy"] == "OldestEmulationVersion"
    assert taken["metadata"] == {"resourceVersion": "1"}
    mine.taken(taken, asked=20.0, now=23.0)
    assert mine.leads(29.9)
    assert not mine.leads(30.0)
    renewed = mine.wish(5.0)
    assert renewed["spec"]["leaseTransitions"] == 5
    assert renewed["spec"]["acquireTime"] == taken["spec"]["acquireTime"]
    assert renewed["spec"]["renewTime"] == "1970-01-01T00:00:05.000000Z"


def test_who_sees_another_in_its_place_leads_no_more() -> None:
    mine = claim()
    mine.see(None, 0.0)
    mine.taken(mine.wish(0.0), 0.0, 0.0)
    assert mine.leads(1.0)
    mine.see(lease("other"), 1.0)
    assert not mine.leads(1.0)


def test_who_gives_it_back_does_not_lead_and_leaves_it_free() -> None:
    mine, other = claim("a"), claim("b")
    mine.see(None, 0.0)
    mine.taken(mine.wish(0.0), 0.0, 0.0)
    mine.stop()
    released = mine.release(1.0)
    assert not mine.leads(0.0)
    assert released["spec"]["holderIdentity"] == ""
    other.see(released, 0.0)
    assert other.free(0.0)


def test_a_deleted_lease_holds_for_who_does_not_know_yet() -> None:
    mine = claim()
    mine.see(lease(), 10.0)
    mine.see(None, 11.0)
    assert not mine.free(24.9)
    assert mine.free(25.0)


@settings(max_examples=300)
@given(
    rates=st.lists(st.floats(1.0, 1.45), min_size=2, max_size=3),
    fates=st.lists(
        st.tuples(
            st.sampled_from(["ok", "ok", "ok", "ok", "lost", "unanswered", "release"]),
            st.one_of(st.floats(0.0, 0.5), st.floats(0.0, 30.0)),  # until the server takes it
            st.floats(0.0, 3.9),  # until the answer is read
        ),
        min_size=30,
        max_size=120,
    ),
)
def test_never_do_two_lead(rates: list[float], fates: list[tuple[str, float, float]]) -> None:
    """Whatever is lost or late, as long as no clock is faster than another by half; times of day are nonsense."""
    replicas = [claim(str(index)) for index in range(len(rates))]
    stored: list[dict[str, Any]] = []
    order = itertools.count()
    steps: list[tuple[float, int, Any]] = []

    def at(time: float, step: Any) -> None:
        heapq.heappush(steps, (time, next(order), step))

    def local(index: int, time: float) -> float:
        return 1000.0 * index + rates[index] * time

    def store(wish: dict[str, Any]) -> dict[str, Any] | None:
        version = wish["metadata"].get("resourceVersion")
        if version != (stored[-1]["metadata"]["resourceVersion"] if stored else None):
            return None
        stored.append({**wish, "metadata": {**wish["metadata"], "resourceVersion": str(len(stored))}})
        return stored[-1]

    remaining = iter(fates)

    def turn(index: int, time: float) -> None:
        fate = next(remaining, None)
        if fate is None:
            return
        what, there, back = fate
        mine, now = replicas[index], local(index, time)
        if not mine.leads(now):
            mine.see(stored[-1] if stored else None, now)
        if what == "release" and mine.leads(now):
            mine.stop()
            store(mine.release(time * 7 % 50))
        elif mine.free(now):
            wish = mine.wish(time * 7 % 50)
            heard = there + back < TIMEOUT and what == "ok"
            if what != "lost":
                at(time + there, lambda t: arrive(index, now, wish, t, back if heard else None))
            at(time + (there + back if heard else TIMEOUT) + RETRY, lambda t: turn(index, t))
            return
        at(time + RETRY, lambda t: turn(index, t))

    def arrive(index: int, asked: float, wish: dict[str, Any], time: float, back: float | None) -> None:
        kept = store(wish)
        if back is not None:
            at(time + back, lambda t: answer(index, asked, kept, t))

    def answer(index: int, asked: float, kept: dict[str, Any] | None, time: float) -> None:
        now = local(index, time)
        if kept is None:
            replicas[index].see(stored[-1], now)
        else:
            replicas[index].taken(kept, asked, now)

    for index in range(len(replicas)):
        at(float(index), lambda t, index=index: turn(index, t))
    while steps:
        time, _, step = heapq.heappop(steps)
        step(time)
        leaders = [mine.identity for index, mine in enumerate(replicas) if mine.leads(local(index, time))]
        assert len(leaders) <= 1
