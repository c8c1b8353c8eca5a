"""The door of a pool: no permit is lost, nobody waits where there is room, and a flood is nobody else's outage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.config.decode import Duration
from gateway.config.sharing import Fairness, Tier
from gateway.errors import Overloaded, QueueTimeout, Stopping
from gateway.fairness import Terms
from gateway.gate import Gate
from gateway.permit import Permit, Ticket
from gateway.schedule.ask import Ask
from gateway.schedule.saturation import Saturation
from gateway.types import InferenceRequest, Load, Operation, Usage


class Tokens(msgspec.Struct):
    input: float = 10.0
    output: float = 10.0


class Place:
    """An endpoint of so many slots, all of them known."""

    def __init__(self, id: str = "a", slots: float = 2.0) -> None:
        self.id = id
        self.slots = slots
        self.present = 0.0
        self.up = True

    def usable(self, now: float, /) -> bool:
        return self.up

    def more(self, now: float, /) -> float:
        return self.slots - self.present


class Pool:
    name = "pool"

    def __init__(self, *places: Place) -> None:
        self.members: Sequence[Place] = places
        self.held: dict[str, Mapping[str, float]] = {}

    def hits(self, ask: Ask, /) -> Mapping[str, float]:
        return self.held.get(ask.request.id, {})


class Guest:
    """Whoever waits, and what became of it."""

    def __init__(self) -> None:
        self.permit: Permit | None = None
        self.error: Overloaded | None = None

    def granted(self, permit: Permit, /) -> None:
        assert self.permit is None
        assert self.error is None
        self.permit = permit

    def refused(self, error: Overloaded, /) -> None:
        assert self.permit is None
        assert self.error is None
        self.error = error


class Door:
    """A gate with as many places as given, and requests that hold one while they have a permit."""

    def __init__(self, *places: Place, **given: object) -> None:
        self.pool = Pool(*(places or (Place(),)))
        self.gate = Gate(self.pool, Fairness(enabled=True, **given))  # type: ignore[arg-type]
        self.at: dict[int, Place] = {}

    def ask(self, now: float, id: str = "") -> Ask:
        return Ask(InferenceRequest(id, Operation.CHAT, "m", b"{}"), "m", now)

    def come(
        self, user: str, now: float = 0.0, *, tier: str = "", size: int = 10, deadline: float = math.inf, id: str = "",
        tokens: Tokens | None = None,
    ) -> Guest:  # fmt: skip
        guest = Guest()
        given = self.gate.enter(
            (user, user), tier, tokens or Tokens(), self.ask(now, id), size, deadline, lambda: guest
        )
        if isinstance(given, Permit):
            guest.permit = given
        self.settle()
        return guest

    def settle(self) -> None:
        """Whoever was let in takes a place, as its task would."""

    def place(self, guest: Guest) -> None:
        assert guest.permit is not None
        place = max(self.pool.members, key=lambda place: place.slots - place.present)
        place.present += 1
        guest.permit.counted(place)
        self.at[id(guest)] = place

    def leave(self, guest: Guest, now: float, usage: Usage | None = None) -> None:
        assert guest.permit is not None
        self.at.pop(id(guest)).present -= 1
        guest.permit.close(now, usage)


def test_who_finds_room_does_not_wait() -> None:
    door = Door()
    first, second, third = (door.come("x") for _ in range(3))
    assert first.permit is not None
    assert second.permit is not None
    assert third.permit is None


def test_a_place_that_comes_free_goes_to_the_one_who_waits() -> None:
    door = Door(Place(slots=1))
    first, second = door.come("x"), door.come("x")
    door.place(first)
    door.leave(first, 1.0)
    assert second.permit is not None
    assert second.permit.waited == 1.0


def test_how_full_it_is_is_told_by_who_was_let_in_or_waits_beside_the_slots_there_are() -> None:
    door = Door(Place("a", slots=1), Place("b", slots=1))
    assert door.gate.fullness(0.0) == 0.0
    guests = [door.come("x") for _ in range(3)]
    assert door.gate.fullness(0.0) == 1.5
    door.pool.members[1].up, door.pool.members[1].slots = False, math.inf  # what it could take counts for nothing now
    assert door.gate.fullness(0.0) == 3.0
    assert door.gate.statistics(0.0).slots == 1.0
    door.pool.members[1].up, door.pool.members[1].slots = True, 1.0
    door.place(guests[0])
    door.leave(guests[0], 1.0)
    assert door.gate.fullness(0.0) == 1.0
    unknown = Door(Place(slots=math.inf)).gate
    assert (unknown.fullness(0.0), unknown.statistics(0.0).slots) == (0.0, None)


def test_where_no_endpoint_can_be_used_nobody_waits() -> None:
    door = Door(Place(slots=1))
    first, second = door.come("x"), door.come("x")
    door.pool.members[0].up = False
    door.gate.watch(1.0)
    assert second.permit is not None
    assert door.come("y", 1.0).permit is not None
    assert first.permit is not None


def test_the_light_flow_goes_before_the_backlog_of_the_heavy_one() -> None:
    door = Door(Place(slots=1))
    running = door.come("heavy")
    door.place(running)
    backlog = [door.come("heavy") for _ in range(50)]
    light = door.come("light", 1.0)
    door.leave(running, 2.0, Usage(10, 10))
    assert light.permit is not None
    assert not [guest for guest in backlog if guest.permit]


def test_an_answer_longer_than_estimated_is_charged_while_it_runs() -> None:
    door = Door(Place(slots=2))
    long, short = door.come("long"), door.come("short")
    door.place(long)
    door.place(short)
    waiting = [door.come("long"), door.come("short"), door.come("short")]
    assert long.permit is not None
    long.permit.progress(500, 1.0)
    door.leave(short, 1.0, Usage(10, 10))
    assert waiting[1].permit is not None
    door.place(waiting[1])
    door.leave(waiting[1], 2.0, Usage(10, 10))
    assert waiting[2].permit is not None
    assert waiting[0].permit is None


def test_a_request_that_nothing_was_computed_for_costs_nothing() -> None:
    door = Door(Place(slots=1))
    guest = door.come("x", tokens=Tokens(1000, 1000))
    door.place(guest)
    door.leave(guest, 1.0)
    (flow,) = door.gate.flows(1.0)
    assert flow.served == 0.0


def test_prompt_tokens_from_the_cache_are_free() -> None:
    door = Door(Place(slots=1))
    guest = door.come("x", tokens=Tokens(1000, 10))
    door.place(guest)
    door.leave(guest, 1.0, Usage(prompt=1000, completion=10, cached=900))
    (flow,) = door.gate.flows(1.0)
    assert flow.served == pytest.approx(100 + 2 * 10)


def test_an_objectives_priority_counts_from_that_of_the_tier_on() -> None:
    gate = Door(tiers={"gold": Tier(weight=4, priority=10)}).gate
    assert [gate.terms("gold"), gate.terms("gold", -3), gate.terms("", 7), gate.terms("", 0)] == [
        Terms(4.0, 10), Terms(4.0, 7), Terms(1.0, 7), Terms()
    ]  # fmt: skip


def test_tiers_have_weights_and_priorities() -> None:
    door = Door(Place(slots=1), tiers={"gold": Tier(priority=10), "batch": Tier(priority=-10)})
    running = door.come("x")
    door.place(running)
    batch, plain, gold = door.come("b", tier="batch"), door.come("p"), door.come("g", tier="gold")
    for expected in (gold, plain, batch):
        door.leave(running, 1.0, Usage(1, 1))
        assert expected.permit is not None
        running = expected
        door.place(running)


def test_ceiling_on_requests_under_way() -> None:
    door = Door(Place(slots=100), max_concurrent=2)
    guests = [door.come("x") for _ in range(3)]
    assert [guest.permit is not None for guest in guests] == [True, True, False]
    door.place(guests[0])
    door.leave(guests[0], 1.0)
    assert guests[2].permit is not None


def test_ceiling_on_dispatch_is_kept_by_the_clock() -> None:
    rung: list[float] = []
    door = Door(Place(slots=100), queue_qps=10.0)
    door.gate.timer = lambda gate, at: rung.append(at)
    guests = [door.come("x") for _ in range(3)]
    assert [guest.permit is not None for guest in guests] == [True, False, False]
    assert rung[-1] == pytest.approx(0.1)
    door.gate.pump(0.1)
    assert guests[1].permit is not None
    assert guests[2].permit is None
    door.gate.pump(0.2)
    assert guests[2].permit is not None


def test_idle_time_gives_no_burst_beyond_a_moment() -> None:
    door = Door(Place(slots=1000), queue_qps=100.0)
    door.come("x", 0.0)
    guests = [door.come("x", 300.0) for _ in range(20)]
    assert sum(guest.permit is not None for guest in guests) == 5


class Busy(Place):
    """One that says how many requests wait at it."""

    load = Load()
    inflight, foreign = 0, 0.0


def test_a_saturated_pool_lets_nobody_in_though_there_are_slots() -> None:
    place = Busy(slots=8)
    door = Door(place)
    door.gate.apply(Fairness(enabled=True), Saturation(queue_depth_threshold=2))
    place.load = Load(waiting=2.0)
    waiting = door.come("x")
    assert waiting.permit is None
    place.load = Load(waiting=1.0)
    door.gate.pump(1.0, place)
    assert waiting.permit is not None


def test_who_waited_too_long_is_told_when_to_come_back() -> None:
    door = Door(Place(slots=1), queue_timeout=Duration(60))
    door.come("x", 0.0)
    waiting = door.come("x", 1.0)
    door.gate.watch(60.9)
    assert waiting.error is None
    door.gate.watch(61.0)
    assert isinstance(waiting.error, QueueTimeout)
    assert waiting.error.status == 503
    assert waiting.error.retry_after >= 1.0
    assert len(door.gate.order) == 0


def test_a_clients_own_deadline_is_kept() -> None:
    door = Door(Place(slots=1))
    door.come("x", 0.0)
    waiting = door.come("x", 1.0, deadline=3.0)
    door.gate.watch(3.0)
    assert waiting.error is not None


def test_a_wait_that_would_be_too_long_is_refused_at_once_with_the_wait_it_would_be() -> None:
    door = Door(Place(slots=1), queue_timeout=Duration(30))
    running = door.come("x", 0.0)
    door.place(running)
    queue = [door.come("x", 0.0) for _ in range(40)]
    for index in range(20):  # one a second
        door.leave(running, float(index + 1), Usage(1, 1))
        running = queue[index]
        door.place(running)
    with pytest.raises(Overloaded) as refused:
        door.come("x", 20.0)
    assert 24.0 < refused.value.retry_after < 60.0  # some 20 wait, and it may be more than a second for each
    door.come("y", 20.0)  # whose turn comes soon is not
    assert not [guest for guest in queue if guest.error]


def test_a_full_queue_refuses_whoever_fills_it() -> None:
    door = Door(Place(slots=1), max_queued=10)
    door.come("flood")
    flood = [door.come("flood") for _ in range(10)]
    with pytest.raises(Overloaded, match="full"):
        door.come("flood")
    light = door.come("light")
    assert light.error is None
    assert [guest.error is not None for guest in flood] == [False] * 9 + [True]


def test_the_queue_is_bounded_in_bytes() -> None:
    door = Door(Place(slots=1), max_queued_bytes=100)
    door.come("x")
    door.come("x", size=60)
    with pytest.raises(Overloaded, match="full"):
        door.come("x", size=60)


def test_headroom_is_kept_for_those_below_their_share() -> None:
    door = Door(Place(slots=8), headroom=0.125)
    heavy = [door.come("heavy") for _ in range(20)]
    assert sum(guest.permit is not None for guest in heavy) == 7
    light = door.come("light")
    assert light.permit is not None
    assert door.come("light").permit is None


def test_headroom_is_given_to_the_light_flow_though_the_heavy_one_waits_longer() -> None:
    door = Door(Place(slots=8), headroom=0.125)
    heavy = [door.come("heavy") for _ in range(20)]
    running = [guest for guest in heavy if guest.permit]
    for guest in running:
        door.place(guest)
    light = [door.come("light", 1.0), door.come("light", 1.0)]
    assert light[0].permit is not None
    door.place(light[0])
    door.leave(light[0], 2.0, Usage(10, 10))
    assert light[1].permit is not None


def test_a_request_whose_prefix_is_cached_where_there_is_room_may_overtake() -> None:
    door = Door(Place("a", slots=1), Place("b", slots=1), locality_quantum=1000.0)
    first, second = door.come("x"), door.come("y")
    door.place(first)
    door.place(second)
    place = door.at[id(first)].id
    other = next(member.id for member in door.pool.members if member.id != place)
    door.pool.held = {"cold": {other: 500.0}, "warm": {place: 500.0}}
    cold, warm = door.come("p", id="cold"), door.come("q", id="warm")
    door.leave(first, 1.0, Usage(10, 10))
    assert warm.permit is not None
    assert cold.permit is None


def test_nobody_is_let_in_past_those_who_wait() -> None:
    door = Door(Place(slots=1))
    running = door.come("x")
    door.place(running)
    waiting = door.come("y")
    door.pool.members[0].slots = 2.0  # nobody has been told
    late = door.come("z", 1.0)
    assert late.permit is None
    door.gate.watch(1.1)
    assert waiting.permit is not None
    assert late.permit is None


def test_a_change_of_configuration_loses_nobody() -> None:
    door = Door(Place(slots=1))
    running = door.come("x")
    door.place(running)
    waiting = [door.come("x", 0.1), door.come("y", 0.2)]
    door.gate.apply(Fairness(enabled=True, locality_quantum=0.0))
    assert len(door.gate.order) == 2
    door.leave(running, 2.0, Usage(1, 1))
    door.gate.dissolve(3.0)
    assert all(guest.permit is not None for guest in waiting)


def test_what_another_gateway_serves_counts_here_too() -> None:
    """One caller is sent to both gateways, the other one to this alone: together they are served alike."""
    door, told = Door(Place(slots=1)), []
    door.gate.spent = lambda *charged: told.append(charged)
    running = door.come("x")
    door.place(running)
    both = [door.come("both") for _ in range(3)]
    here = [door.come("here") for _ in range(3)]
    door.gate.elsewhere(("both", "both"), 70.0, 0.5)
    for now in range(4):
        door.leave(running, float(now + 1), Usage(10, 10))
        running = next(guest for guest in (*here, *both) if guest.permit is not None and id(guest) not in door.at)
        door.place(running)
        (here if running in here else both).remove(running)
    assert (len(here), len(both)) == (0, 2)
    assert told[0] == ("pool", "x", "x", 30.0)
    assert told.count(("pool", "x", "x", 0.0)) == 1  # nothing to correct
    assert {caller for _, _, caller, _ in told} == {"x", "here", "both"}  # what came from elsewhere is not told again
    assert sum(amount for _, _, caller, amount in told if caller == "here") == pytest.approx(90.0)


class Histories(RuleBasedStateMachine):
    """Any mix of arrivals, departures, withdrawals, outages and clock steps."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.door = Door(
            Place("a", 2),
            Place("b", 1),
            queue_timeout=Duration(60),
            max_queued=12,
            headroom=0.3,
            locality_quantum=50.0,
            tiers={"gold": Tier(weight=4, priority=5)},
        )
        self.waiting: list[tuple[Guest, Ticket]] = []
        self.inside: list[Guest] = []
        self.refusals = self.arrivals = self.gone = self.over = 0

    @rule(
        user=st.sampled_from("abc"), tier=st.sampled_from(["", "gold"]), tokens=st.integers(0, 1000),
        patience=st.sampled_from([1.0, 50.0, math.inf]),
    )  # fmt: skip
    def arrive(self, user: str, tier: str, tokens: int, patience: float) -> None:
        self.arrivals += 1
        guest = Guest()
        ask = self.door.ask(self.now)
        estimate = Tokens(tokens, tokens)
        try:
            given = self.door.gate.enter((user, user), tier, estimate, ask, 10, self.now + patience, lambda: guest)
        except Overloaded:
            self.refusals += 1
            return
        if isinstance(given, Permit):
            guest.permit = given
            self.admitted(guest)
        else:
            self.waiting.append((guest, given))
        self.sort()

    def admitted(self, guest: Guest) -> None:
        self.door.place(guest)
        self.inside.append(guest)

    def sort(self) -> None:
        """Who was let in goes to an endpoint; who was refused leaves."""
        for guest, ticket in list(self.waiting):
            if guest.permit is not None:
                self.waiting.remove((guest, ticket))
                self.admitted(guest)
            elif guest.error is not None:
                self.waiting.remove((guest, ticket))
                self.refusals += 1

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), used=st.one_of(st.none(), st.integers(0, 2000)))
    def depart(self, data: st.DataObject, used: int | None) -> None:
        guest = data.draw(st.sampled_from(self.inside))
        self.inside.remove(guest)
        self.over += 1
        self.door.leave(guest, self.now, None if used is None else Usage(used, used))
        self.sort()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        guest, ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove((guest, ticket))
        self.gone += 1
        self.door.gate.withdraw(ticket)
        self.door.gate.withdraw(ticket)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), tokens=st.integers(0, 5000))
    def progress(self, data: st.DataObject, tokens: int) -> None:
        guest = data.draw(st.sampled_from(self.inside))
        assert guest.permit is not None
        guest.permit.progress(tokens, self.now)

    @rule(seconds=st.sampled_from([0.01, 1.0, 30.0, 1000.0, -5.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.door.gate.watch(self.now)
        self.sort()

    @rule(up=st.booleans(), index=st.integers(0, 1))
    def outage(self, up: bool, index: int) -> None:
        self.door.pool.members[index].up = up
        self.door.gate.watch(self.now)
        self.sort()

    @invariant()
    def nothing_is_lost(self) -> None:
        gate = self.door.gate
        assert gate.inflight == len(self.inside)
        assert gate.coming == 0
        assert len(gate.order) == len(self.waiting)
        assert gate.order.size == 10 * len(self.waiting)
        tiers = gate.statistics(0.0).tiers
        assert sum(tiers.values()) == len(self.waiting)
        assert all(tiers.values())
        assert self.arrivals == self.refusals + self.gone + self.over + len(self.waiting) + len(self.inside)

    @invariant()
    def nobody_waits_where_there_is_room(self) -> None:
        if not self.waiting:
            return
        usable = [place for place in self.door.pool.members if place.up]
        assert usable
        # one slot may be kept for whoever is below its share
        assert sum(place.slots - place.present for place in usable) <= 1

    def teardown(self) -> None:
        while self.inside or self.waiting:
            for place in self.door.pool.members:
                place.up = True
            if self.inside:
                guest = self.inside.pop()
                self.over += 1
                self.door.leave(guest, self.now)
            else:
                self.door.gate.watch(self.now)
                assert self.waiting[0][0].permit or self.waiting[0][0].error
            self.sort()
        assert self.door.gate.inflight == 0


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_what_is_larger_than_the_queue_puts_nobody_out() -> None:
    door = Door(Place(slots=0), max_queued_bytes=100)
    flood = [door.come("heavy", size=30) for _ in range(3)]
    with pytest.raises(Overloaded, match="so large") as refused:
        door.come("light", size=101)
    assert refused.value.retry_after == 1.0
    assert not any(guest.error for guest in flood)
    assert door.gate.refused == 1


def test_a_door_that_closes_refuses_all_who_wait() -> None:
    door = Door(Place(slots=0))
    guests = [door.come(user) for user in ("a", "a", "b")]
    door.gate.close(Stopping)
    assert [guest.error is not None and "stopping" in str(guest.error) for guest in guests] == [True] * 3
    assert (len(door.gate.order), door.gate.refused) == (0, 3)


def test_the_room_at_an_endpoint_that_left_is_nobodys() -> None:
    stays, leaves = Place("a", slots=1), Place("b", slots=1)
    door = Door(stays, leaves)
    served = [door.come("x"), door.come("x")]
    for guest in served:
        door.place(guest)
    waiting = door.come("x")
    door.pool.members = (stays,)
    door.leave(next(guest for guest in served if door.at[id(guest)] is leaves), 1.0)
    assert waiting.permit is None
    door.leave(next(guest for guest in served if id(guest) in door.at), 2.0)
    assert waiting.permit is not None


def test_how_fast_a_queue_of_long_ago_moved_says_nothing_of_this_one() -> None:
    place = Place(slots=0)
    door = Door(place)
    for _ in range(9):
        door.come("x")
    for moment in range(9):
        place.slots += 1
        door.gate.pump(10.0 * moment)
    assert not door.gate.order
    assert door.gate.statistics(0.0).wait_s == 0.0
    door.come("y", 1000.0)
    assert door.come("y", 1000.0, deadline=1001.0).error is None  # an old rate would have it wait for twenty seconds


@pytest.mark.parametrize("huge", [0, 1, 6])
def test_one_who_lets_huge_prompts_wait_runs_no_further_ahead(huge: int) -> None:
    """What it costs on average would be theirs, and the flood of one caller's cached prompts would be all there is."""
    door, now = Door(Place(slots=1), locality_quantum=None), 0.0

    def come(user: str) -> tuple[str, Guest]:
        door.pool.held[id := f"{user}{now}"] = {"a": 1000.0} if user == "flood" else {}
        return user, door.come(user, now, id=id, tokens=Tokens(1000.0, 20.0))

    user, running = come("flood")
    door.place(running)
    waiting = [come("calm"), *(come("flood") for _ in range(40))]
    waiting += [("flood", door.come("flood", tokens=Tokens(8e6, 20.0))) for _ in range(huge)]
    for _ in range(100):
        now += 0.1
        waiting.append(come(user))
        door.leave(running, now, Usage(1000, 20, cached=1000))
        user, running = next((user, guest) for user, guest in waiting if guest.permit is not None)
        if user == "calm":
            break
        waiting.remove((user, running))
        door.place(running)
    assert user == "calm"
    assert now < 4.0
