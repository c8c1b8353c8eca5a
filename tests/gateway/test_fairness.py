"""Whoever waits is served once, in its flow's order, and nobody runs ahead of others by more than the stated bound."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from gateway.fairness import Flow, Order, Terms, Waiter

PLAIN = Terms()
Key = tuple[str, str]

seeds = st.integers(0, 2**32)
keys = st.tuples(st.sampled_from("xyz"), st.sampled_from("abc"))
costs = st.floats(0, 1000) | st.sampled_from([0.0, 1.0, 1e9])
amounts = st.floats(-500, 500) | st.sampled_from([math.nan, math.inf, -math.inf])


def waiter(order: Order, key: Key, cost: float = 1.0, terms: Terms = PLAIN, now: float = 0.0, size: int = 1) -> Waiter:
    """Pushed already."""
    pushed = Waiter(order.flow(key, now), terms, cost, size, now)
    order.push(pushed, now)
    return pushed


def fill(order: Order, key: Key, count: int, cost: float = 1.0, terms: Terms = PLAIN, now: float = 0.0) -> None:
    for _ in range(count):
        waiter(order, key, cost, terms, now)


def popped(order: Order, count: int, now: float = 0.0) -> list[Key]:
    """Whose the next ones are."""
    return [found.flow.key for found in pops(order, count, now)]


def pops(order: Order, count: int, now: float = 0.0) -> Iterator[Waiter]:
    for _ in range(count):
        found = order.pop(now)
        assert found is not None
        yield found


def tenants(order: Order, count: int, now: float = 0.0) -> str:
    return "".join(key[0] for key in popped(order, count, now))


def excesses(order: Order, now: float = 0.0) -> dict[str, float]:
    """By tenant, each with one caller."""
    return {flow.tenant: flow.tenant_excess for flow in order.flows(now)}


class Queue(RuleBasedStateMachine):
    """Anything may happen in any sequence, at times that step back, too."""

    waiting = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.order = Order(window=160, quantum=50, ageing=20, max_flows=5)
        self.now = 1000.0
        self.queues: dict[tuple[Key, int], list[Waiter]] = defaultdict(list)
        self.queued: set[Waiter] = set()
        self.serial = 0

    @rule(target=waiting, key=keys, cost=costs | st.just(math.nan), weight=st.sampled_from([0.25, 1, 4]),
          band=st.sampled_from([0, 0, 1, 5]))  # fmt: skip
    def push(self, key: Key, cost: float, weight: float, band: int) -> Waiter:
        self.serial += 1
        pushed = Waiter(self.order.flow(key, self.now), Terms(weight, band), cost, self.serial, self.now, self.serial)
        self.order.push(pushed, self.now)
        self.queues[key, band].append(pushed)
        self.queued.add(pushed)
        return pushed

    @rule(gone=consumes(waiting))
    def remove(self, gone: Waiter) -> None:
        self.order.remove(gone)
        if gone in self.queued:
            self._gone(gone)

    def _gone(self, gone: Waiter) -> None:
        self.queued.remove(gone)
        self.queues[gone.flow.key, gone.terms.band].remove(gone)

    @rule(hits=st.none() | st.integers(0, 2**16), only=st.none() | st.sets(keys))
    def pop(self, hits: int | None, only: set[Key] | None) -> None:
        rng = random.Random(hits)
        found = self.order.pop(
            self.now,
            None if only is None else lambda flow: flow.key in only,
            None if hits is None else lambda waiter: rng.random(),
        )
        able = [queued for queued in self.queued if only is None or queued.flow.key in only]
        assert (found is None) == (not able)
        if found is not None:
            assert found in able
            assert hits is not None or self.queues[found.flow.key, found.terms.band][0] is found
            self._gone(found)
            found.flow.inflight += found.owner % 2  # type: ignore[operator]

    @rule(key=keys, cost=costs, band=st.sampled_from([0, 1]))
    def pass_by(self, key: Key, cost: float, band: int) -> None:
        self.order.pass_by(self.order.flow(key, self.now), Terms(1, band), cost, self.now)

    @rule(key=keys, amount=amounts, band=st.sampled_from([0, 1]))
    def charge(self, key: Key, amount: float, band: int) -> None:
        flow = self.order.flow(key, self.now)
        self.order.charge(flow, Terms(2, band), amount, self.now)
        flow.inflight = 0

    @rule(step=st.floats(-100, 400))
    def sleep(self, step: float) -> None:
        self.now += step

    @rule(window=st.sampled_from([80.0, 160.0, 1600.0]))
    def retune(self, window: float) -> None:
        self.order.retune(window=window, quantum=window, ageing=20)

    @invariant()
    def counted(self) -> None:
        order = self.order
        assert len(order) == len(self.queued)
        assert order.size == sum(queued.size for queued in self.queued)
        assert set(order.waiters()) == self.queued
        statistics = {(flow.tenant, flow.caller): flow for flow in order.flows(self.now)}
        by_key = Counter(queued.flow.key for queued in self.queued)
        assert {key: flow.queued for key, flow in statistics.items() if flow.queued} == by_key
        assert all(math.isfinite(flow.excess + flow.tenant_excess + flow.served) for flow in statistics.values())
        longest = order.longest()
        assert (longest is None) == (not self.queued)
        if longest is not None:
            key = longest.flow.key
            assert by_key[key] == max(by_key.values())
            assert longest in [queue[-1] for (of, _), queue in self.queues.items() if of == key and queue]

    @invariant()
    def estimated(self) -> None:
        assert all(
            0 <= self.order.ahead(self.order.flow(key, self.now), PLAIN) <= len(self.order) for key in self.queues_of
        )

    @property
    def queues_of(self) -> set[Key]:
        return {queued.flow.key for queued in self.queued}

    def teardown(self) -> None:
        found = [self.order.pop(self.now) for _ in range(len(self.queued))]
        assert set(found) == self.queued
        assert self.order.pop(self.now) is None
        assert (len(self.order), self.order.size) == (0, 0)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


class TestTurns:
    @given(seed=seeds)
    @settings(max_examples=60, deadline=None)
    def test_the_least_counter_of_the_highest_band_is_next(self, seed: int) -> None:
        rng, order, now = random.Random(seed), Order(window=160), 0.0
        queued: list[Waiter] = []
        known = [(tenant, caller) for tenant in "xyz" for caller in "abc"]
        for _ in range(300):
            act, key, terms = rng.random(), rng.choice(known), Terms(rng.choice([0.5, 1.0, 3.0]), rng.choice([0, 0, 1]))
            if act < 0.4:
                queued.append(waiter(order, key, rng.uniform(0, 50), terms, now))
            elif act < 0.5 and queued:
                order.remove(queued.pop(rng.randrange(len(queued))))
            elif act < 0.7:
                order.charge(order.flow(key, now), terms, rng.uniform(-50, 60), now)
            elif act < 0.75:
                order.pass_by(order.flow(key, now), terms, rng.uniform(0, 50), now)
            elif act < 0.8:
                now += rng.expovariate(0.05)
                for _ in range(50):
                    order.flows(now)  # whatever is due to be forgotten is
            elif queued:
                expected = self._least(queued)
                found = order.pop(now)
                assert found in expected
                queued.remove(found)

    def _least(self, queued: list[Waiter]) -> list[Waiter]:
        """Those that may be next, straight from the definition."""
        places = [(one.flow.shares[one.terms.band], one) for one in queued]
        highest = max(one.terms.band for one in queued)
        places = [(own, one) for own, one in places if one.terms.band == highest]
        least = min(own.common.counter for own, _ in places)
        places = [(own, one) for own, one in places if own.common.counter == least]
        lowest = {
            own.common: min(other.counter for other, _ in places if other.common is own.common) for own, _ in places
        }
        return [one for own, one in places if own.counter == lowest[own.common]]


class Backlog:
    """Callers that always have two waiting, on engines that run ``slots`` requests; their cost is told bit by bit."""

    def __init__(self, order: Order, callers: dict[Key, float], seed: int, slots: int = 6, lies: float = 1.0) -> None:
        self.order = order
        self.terms = {key: Terms(weight) for key, weight in callers.items()}
        self.rng = random.Random(seed)
        self.slots = slots
        self.lies = lies
        self.running: list[tuple[Flow, list[float]]] = []
        self.served: dict[Key, float] = dict.fromkeys(callers, 0.0)
        self.greatest = 0.0
        self.scale = {key: self.rng.choice([1.0, 1.0, 20.0]) for key in callers}
        self.favourite = self.rng.choice([None, *callers])

    def play(self, steps: int) -> Iterator[None]:
        for key in self.terms:
            self._push(key)
            self._push(key)
        for step in range(steps):
            self._step(step * 0.001)
            yield

    def _push(self, key: Key) -> None:
        waiter(self.order, key, self.rng.uniform(1, 50) * self.scale[key], self.terms[key])

    def _step(self, now: float) -> None:
        if len(self.running) < self.slots:
            found = self.order.pop(now, None, self._hit)
            assert found is not None
            self._charged(found.flow, found.cost)
            self.greatest = max(self.greatest, found.cost / found.terms.weight)
            correction = self.lies * self.rng.choice([0.0, -0.9, self.rng.uniform(-1, 3)]) * found.cost
            self.running.append((found.flow, [correction * share for share in (0.25, 0.5, 0.25)]))
            self._push(found.flow.key)
            return
        flow, corrections = self.rng.choice(self.running)
        amount = corrections.pop()
        self.order.charge(flow, self.terms[flow.key], amount, now)
        self._charged(flow, amount)
        if not corrections:
            self.running.remove((flow, corrections))

    def _charged(self, flow: Flow, amount: float) -> None:
        self.served[flow.key] += amount / self.terms[flow.key].weight

    def _hit(self, waiter: Waiter) -> float:
        return float(waiter.flow.key == self.favourite) if self.favourite else self.rng.random()

    def under_way(self, groups: Sequence[Sequence[Key]]) -> float:
        """By how much corrections can raise one of the groups and lower another."""
        up, down = dict.fromkeys(range(len(groups)), 0.0), dict.fromkeys(range(len(groups)), 0.0)
        group_of = {key: number for number, group in enumerate(groups) for key in group}
        for flow, corrections in self.running:
            amount = sum(corrections) / self.terms[flow.key].weight
            if flow.key in group_of:
                up[group_of[flow.key]] += max(0.0, amount)
                down[group_of[flow.key]] -= min(0.0, amount)
        return max(up.values()) + max(down.values())

    def difference(self, groups: Sequence[Sequence[Key]]) -> float:
        totals = [sum(self.served[key] for key in group) for group in groups]
        return max(totals) - min(totals)


TENANTS = [[("x", "a"), ("x", "b"), ("x", "c")], [("y", "a")], [("z", "a"), ("z", "b")]]


class TestBound:
    @pytest.mark.parametrize("quantum", [0.0, 300.0, 5000.0])
    @given(seed=seeds)
    @settings(max_examples=25, deadline=None)
    def test_service_of_those_who_wait_differs_by_no_more(self, quantum: float, seed: int) -> None:
        weights = random.Random(seed)
        callers = {key: weights.choice([0.5, 1.0, 4.0]) for group in TENANTS for key in group}
        backlog = Backlog(Order(quantum=quantum), callers, seed)
        levels = [TENANTS, *([[key] for key in group] for group in TENANTS if len(group) > 1)]
        under_way = [0.0] * len(levels)
        widest = [0.0] * len(levels)
        for _ in backlog.play(400):
            for number, groups in enumerate(levels):
                under_way[number] = max(under_way[number], backlog.under_way(groups))
                widest[number] = max(widest[number], backlog.difference(groups))
        for most, difference in zip(under_way, widest, strict=True):
            assert difference <= quantum + backlog.greatest + most + 1e-6

    def test_is_nearly_reached(self) -> None:
        """Locality is worth the whole quantum: the bound says no more than what can happen."""
        order = Order(quantum=1000.0)
        fill(order, ("x", "a"), 100, 100.0)
        fill(order, ("y", "a"), 100, 100.0)
        first = [
            found.flow.key[0] for _ in range(10) if (found := order.pop(0, None, lambda one: one.flow.key[0] == "x"))
        ]
        assert first == ["x"] * 10
        then = [
            found.flow.key[0] for _ in range(20) if (found := order.pop(0, None, lambda one: one.flow.key[0] == "y"))
        ]
        assert then == ["x"] + ["y"] * 19 or then == ["y"] * 20

    @given(seed=seeds)
    @settings(max_examples=10, deadline=None)
    def test_is_of_the_window_s_length(self, seed: int) -> None:
        """Forgetting leaves it as it is."""
        order = Order(window=16)
        backlog = Backlog(order, {("x", "a"): 1.0, ("y", "a"): 1.0}, seed, lies=0.0)
        for _ in backlog.play(2000):
            assert backlog.difference([[("x", "a")], [("y", "a")]]) <= backlog.greatest + 1e-6


class TestShares:
    def test_equal_ones_take_turns(self) -> None:
        order = Order()
        for tenant in "xyz":
            fill(order, (tenant, "a"), 4)
        assert tenants(order, 12) == "xyz" * 4

    def test_four_to_one(self) -> None:
        order = Order()
        fill(order, ("x", "a"), 400, 10.0, Terms(4.0))
        fill(order, ("y", "a"), 400, 10.0, Terms(1.0))
        assert Counter(tenants(order, 400)) == {"x": 320, "y": 80}

    def test_by_tokens_and_not_by_requests(self) -> None:
        order = Order()
        fill(order, ("x", "a"), 400, 300.0)
        fill(order, ("y", "a"), 400, 100.0)
        assert Counter(tenants(order, 400)) == {"x": 100, "y": 300}

    def test_tenants_first_and_then_their_callers(self) -> None:
        order = Order()
        for caller in "abc":
            fill(order, ("x", caller), 100)
        fill(order, ("y", "a"), 100)
        shares = Counter(popped(order, 120))
        assert shares == {("x", "a"): 20, ("x", "b"): 20, ("x", "c"): 20, ("y", "a"): 60}

    def test_weight_counts_within_a_tenant(self) -> None:
        order = Order()
        fill(order, ("x", "a"), 100, terms=Terms(3.0))
        fill(order, ("x", "b"), 100, terms=Terms(1.0))
        assert Counter(popped(order, 80)) == {("x", "a"): 60, ("x", "b"): 20}

    def test_what_is_refunded_is_served_later(self) -> None:
        order = Order()
        for tenant in "xy":
            fill(order, (tenant, "a"), 100, 100.0)
        served = 0
        for found in pops(order, 60):
            if found.flow.key[0] == "x":
                served += 1
                order.charge(found.flow, found.terms, -50.0, 0)
        assert 39 <= served <= 41
        assert excesses(order)["x"] <= 100

    def test_corrections_make_up_for_wrong_estimates(self) -> None:
        """x says 100 and takes 300, y says 100 and takes 50: six times as many of y's are served."""
        order, counts = Order(), Counter[str]()
        for tenant in "xy":
            fill(order, (tenant, "a"), 800, 100.0)
        for found in pops(order, 700):
            tenant = found.flow.key[0]
            counts[tenant] += 1
            order.charge(found.flow, found.terms, 200.0 if tenant == "x" else -50.0, 0)
        assert counts == {"x": pytest.approx(100, abs=2), "y": pytest.approx(600, abs=2)}

    def test_what_was_served_elsewhere_counts(self) -> None:
        order = Order()
        for tenant in "xy":
            fill(order, (tenant, "a"), 20, 10.0)
        order.charge(order.flow(("x", "a"), 0), PLAIN, 100.0, 0)
        assert tenants(order, 11).count("x") <= 1

    def test_one_who_is_served_elsewhere_all_the_time_has_no_credit_here(self) -> None:
        order = Order()
        order.pass_by(order.flow(("x", "a"), 0), PLAIN, 1.0, 0)
        fill(order, ("y", "a"), 1000, 10.0)
        tenants(order, 500)
        order.charge(order.flow(("x", "a"), 0), PLAIN, 100.0, 0)
        tenants(order, 5)
        fill(order, ("x", "a"), 10, 10.0)
        assert "x" not in tenants(order, 4)

    def test_what_is_under_way_counts_in_a_band_that_is_new_to_it(self) -> None:
        order = Order()
        fill(order, ("y", "a"), 100, 10.0)
        tenants(order, 50)
        flow = order.flow(("x", "a"), 0)
        flow.inflight = 1
        order.charge(flow, PLAIN, 30.0, 0)
        assert excesses(order)["x"] == 30


class TestLift:
    def test_being_idle_earns_no_credit(self) -> None:
        order = Order()
        waiter(order, ("x", "a"))
        fill(order, ("y", "a"), 1000)
        tenants(order, 501)
        fill(order, ("x", "a"), 100)
        assert 49 <= tenants(order, 100).count("x") <= 51

    def test_nor_being_new(self) -> None:
        order = Order()
        fill(order, ("y", "a"), 1000)
        tenants(order, 500)
        fill(order, ("x", "a"), 100)
        assert 49 <= tenants(order, 100).count("x") <= 51

    def test_what_was_used_while_nobody_waited_is_free(self) -> None:
        order = Order()
        hog = order.flow(("x", "a"), 0)
        for _ in range(100):
            order.pass_by(hog, PLAIN, 10.0, 0)
        for tenant in "xy":
            fill(order, (tenant, "a"), 50, 10.0)
        assert 4 <= tenants(order, 10).count("x") <= 5

    def test_passing_by_those_who_may_not_go_is_not(self) -> None:
        order = Order()
        fill(order, ("y", "a"), 50, 10.0)
        small = order.flow(("x", "a"), 0)
        for _ in range(10):
            order.pass_by(small, PLAIN, 10.0, 0)
        fill(order, ("x", "a"), 50, 10.0)
        assert tenants(order, 10) == "y" * 10

    def test_passing_by_does_not_lift_others_above_those_who_wait(self) -> None:
        order = Order()
        fill(order, ("y", "a"), 50, 10.0)
        for _ in range(10):
            order.pass_by(order.flow(("x", "a"), 0), PLAIN, 10.0, 0)
        fill(order, ("z", "a"), 50, 10.0)
        assert tenants(order, 6) == "yzyzyz"

    def test_debt_lasts_as_long_as_the_window(self) -> None:
        def served(later: float) -> int:
            order = Order(window=160)
            fill(order, ("y", "a"), 100, 10.0)
            order.charge(order.flow(("x", "a"), 0), PLAIN, 300.0, 0)
            order.charge(order.flow(("x", "a"), 100), PLAIN, 1.0, 100)  # it is still known afterwards
            fill(order, ("x", "a"), 50, 10.0, now=later)
            return tenants(order, 20, later).count("x")

        assert served(140) == 0
        assert 9 <= served(165) <= 11

    def test_debt_of_one_who_waits_fades_too(self) -> None:
        order = Order(window=160)
        for tenant in "xy":
            fill(order, (tenant, "a"), 100, 10.0)
        order.charge(order.flow(("x", "a"), 0), PLAIN, 1e6, 0)
        assert tenants(order, 5, 10) == "y" * 5
        assert 9 <= tenants(order, 20, 171).count("x") <= 11

    @given(seed=seeds)
    @settings(max_examples=30, deadline=None)
    def test_excess_is_no_more_than_the_window_holds(self, seed: int) -> None:
        rng, order, now = random.Random(seed), Order(window=160), 0.0
        history: list[tuple[float, float]] = []
        fill(order, ("y", "a"), 500, 10.0)
        flow = order.flow(("x", "a"), 0)
        flow.inflight = 1
        for _ in range(200):
            now += rng.expovariate(0.1)
            amount = rng.expovariate(0.01)
            if rng.random() < 0.3:
                order.charge(flow, PLAIN, amount, now)
                history.append((now, amount))
            else:
                order.pop(now)
            within = sum(amount for at, amount in history if now - at <= 160)
            assert flow.served(now) <= within + 1e-6
            assert flow.served(now) >= sum(amount for at, amount in history if now - at < 150) - 1e-6
            assert excesses(order, now)["x"] <= within + 1e-6


class TestBands:
    def test_higher_first(self) -> None:
        order = Order()
        fill(order, ("x", "a"), 2)
        fill(order, ("y", "a"), 2, terms=Terms(1.0, 5))
        fill(order, ("z", "a"), 2, terms=Terms(1.0, -3))
        assert tenants(order, 6) == "yyxxzz"

    def test_nobody_below_waits_for_ever(self) -> None:
        order = Order(ageing=10)
        low = waiter(order, ("x", "a"), terms=Terms(1.0, -1))
        fill(order, ("y", "a"), 1, terms=Terms(1.0, 0))
        fill(order, ("z", "a"), 5, terms=Terms(1.0, 9))
        for now in range(100):
            waiter(order, ("z", "a"), terms=Terms(1.0, 9), now=now)
            waiter(order, ("y", "a"), terms=Terms(1.0, 0), now=now)
            found = order.pop(now)
            if found is low:
                assert 20 <= now <= 24
                return
        pytest.fail("starved")

    def test_who_moves_up_keeps_its_flow_s_order_and_is_charged(self) -> None:
        order = Order(ageing=10)
        first, second, _ = (waiter(order, ("x", "a")) for _ in range(3))
        fill(order, ("y", "a"), 100, terms=Terms(1.0, 9))
        found = [order.pop(11 + step) for step in range(6)]
        assert [one for one in found if one is not None and one.flow.key[0] == "x"][:2] == [first, second]
        assert sum(one is not None and one.flow.key[0] == "x" for one in found) == 3
        assert order.flow(("x", "a"), 20).served(20) == 3
        fill(order, ("x", "a"), 1)
        assert excesses(order)["x"] >= 3

    def test_without_ageing_they_wait(self) -> None:
        order = Order()
        fill(order, ("x", "a"), 1)
        fill(order, ("y", "a"), 100, terms=Terms(1.0, 9))
        assert tenants(order, 100, 1e6) == "y" * 100


class TestStarvation:
    @given(seed=seeds)
    @settings(max_examples=20, deadline=None)
    def test_a_turn_comes_within_so_many(self, seed: int) -> None:
        """Others always have something waiting: they get their excess at most, once each."""
        rng = random.Random(seed)
        order = Order(quantum=rng.choice([0.0, 200.0]))
        others = [(f"t{number}", "a") for number in range(6)]
        for key in others:
            fill(order, key, 2, rng.uniform(10, 100))
        for _ in range(rng.randrange(50)):
            self._next(order, rng)
        mine = waiter(order, ("me", "a"), 10)
        # each of six may be served until it is the quantum and one request above: 300 of at least 10 tokens
        for _ in range(6 * 31):
            if self._next(order, rng) is mine:
                return
        pytest.fail("starved")

    def _next(self, order: Order, rng: random.Random) -> Waiter | None:
        found = order.pop(0, None, lambda one: rng.random() if one.flow.key[0] != "me" else -1)
        if found is not None and found.flow.key[0] != "me":
            waiter(order, found.flow.key, rng.uniform(10, 100))
        return found

    def test_not_by_ever_new_callers_with_a_hit(self) -> None:
        """Those overtake by the quantum, all together."""
        order = Order(quantum=1000.0)
        mine = waiter(order, ("me", "a"), 100.0)
        for number in range(11):
            waiter(order, (f"t{number}", "a"), 100.0)
            found = order.pop(0, None, lambda one: one is not mine)
            if found is mine:
                break
        assert found is mine
        assert number == 10

    def test_not_by_ever_new_callers_who_come_after_the_window(self) -> None:
        order = Order(window=160)
        order.charge(order.flow(("me", "a"), 0), PLAIN, 1e6, 0)
        mine = waiter(order, ("me", "a"))
        waiter(order, ("t", "a"))
        for now in range(200):
            waiter(order, (f"t{now}", "a"), now=now)
            if order.pop(now) is mine:
                assert 150 <= now <= 165
                return
        pytest.fail("starved")

    def test_not_by_requests_that_cost_nothing(self) -> None:
        """Even where a counter is so large that so little is lost in it."""
        order = Order()
        for tenant in "xy":
            for _ in range(100):
                order.charge(order.flow((tenant, "a"), 0), PLAIN, 1e9, 0)
        fill(order, ("y", "a"), 10, 0.0)
        fill(order, ("x", "a"), 1)
        assert "x" in tenants(order, 2)


class TestLocality:
    def test_the_greatest_hit_within_the_quantum_goes_first(self) -> None:
        order = Order(quantum=100.0)
        hits = {("x", "a"): 1.0, ("y", "a"): 5.0, ("z", "a"): 3.0}
        for key in hits:
            waiter(order, key, 10.0)
        found = [order.pop(0, None, lambda one: hits[one.flow.key]) for _ in hits]
        assert [one.flow.key[0] for one in found if one] == ["y", "z", "x"]

    def test_equal_hits_change_nothing(self) -> None:
        order = Order(quantum=100.0)
        for tenant in "xyz":
            fill(order, (tenant, "a"), 3, 10.0)
        found = [order.pop(0, None, lambda one: 1.0) for _ in range(9)]
        assert "".join(one.flow.key[0] for one in found if one) == "xyz" * 3

    def test_beyond_the_quantum_nothing_is_asked(self) -> None:
        order = Order(quantum=100.0)
        for tenant, ahead in (("x", 0.0), ("y", 99.0), ("z", 101.0)):
            fill(order, (tenant, "a"), 2, 10.0)
            order.charge(order.flow((tenant, "a"), 0), PLAIN, ahead, 0)
        asked: list[str] = []
        order.pop(0, None, lambda one: asked.append(one.flow.key[0]) or 0.0)  # type: ignore[func-returns-value]
        assert set(asked) == {"x", "y"}

    def test_nor_within_a_tenant(self) -> None:
        order = Order(quantum=100.0)
        for caller, ahead in (("a", 0.0), ("b", 99.0), ("c", 101.0)):
            fill(order, ("x", caller), 2, 10.0)
            order.charge(order.flow(("x", caller), 0), PLAIN, ahead, 0)
        asked: list[str] = []
        order.pop(0, None, lambda one: asked.append(one.flow.key[1]) or 0.0)  # type: ignore[func-returns-value]
        assert set(asked) == {"a", "b"}

    def test_a_callers_own_requests_overtake_too_until_the_first_was_by_the_quantum(self) -> None:
        order = Order(quantum=25.0)
        first, *others = [waiter(order, ("x", "a"), 10.0) for _ in range(6)]
        found = [order.pop(0, None, lambda one: float(one is not first)) for _ in range(4)]
        assert found == [*others[:3], first]

    def test_without_a_quantum_of_its_own_it_is_eight_times_what_waits(self) -> None:
        order = Order(quantum=None)
        for tenant, ahead in (("x", 0.0), ("y", 79.0), ("z", 81.0)):
            fill(order, (tenant, "a"), 2, 10.0)
            order.charge(order.flow((tenant, "a"), 0), PLAIN, ahead, 0)
        asked: list[str] = []
        order.pop(0, None, lambda one: asked.append(one.flow.key[0]) or 0.0)  # type: ignore[func-returns-value]
        assert set(asked) == {"x", "y"}

    def test_the_first_of_eight_callers_are_asked(self) -> None:
        order = Order(quantum=100.0)
        for number in range(30):
            waiter(order, (f"t{number % 3}", f"c{number}"))
        asked: list[Waiter] = []
        order.pop(0, None, lambda one: asked.append(one) or 0.0)  # type: ignore[func-returns-value]
        assert len(asked) == len(set(asked)) == 8

    def test_without_a_quantum_nobody_is(self) -> None:
        order = Order()
        fill(order, ("x", "a"), 2)
        fill(order, ("y", "a"), 2)
        assert order.pop(0, None, lambda one: pytest.fail("asked")) is not None

    def test_each_turn_has_a_quantum_of_its_own(self) -> None:
        order = Order(quantum=50.0)
        for tenant in "xy":
            fill(order, (tenant, "a"), 20, 10.0)
        found = [order.pop(0, None, lambda one: one.flow.key[0] == "y") for _ in range(12)]
        assert "".join(one.flow.key[0] for one in found if one) == "yyyyyxyyxyxy"

    @given(seed=seeds)
    @settings(max_examples=30, deadline=None)
    def test_whose_turn_it_is_is_overtaken_by_no_more(self, seed: int) -> None:
        """By whom it may ever be, and however the others' counters change."""
        rng, order = random.Random(seed), Order(quantum=300.0)
        mine = waiter(order, ("me", "a"), 1000.0)
        overtaken = 0.0
        for number in range(100):
            waiter(order, (f"t{number}", "a"), rng.uniform(10, 80))
            found = order.pop(0, None, lambda one: rng.random() if one is not mine else -1.0)
            assert found is not None
            if found is mine:
                assert 300 <= overtaken < 380
                return
            overtaken += found.cost
        pytest.fail("overtaken for ever")


class TestEligible:
    def test_others_are_skipped_and_keep_their_places(self) -> None:
        order = Order()
        for tenant in "xyz":
            fill(order, (tenant, "a"), 2)
        found = order.pop(0, lambda flow: flow.key[0] == "z")
        assert found is not None
        assert found.flow.key[0] == "z"
        assert tenants(order, 5) == "xyxyz"

    def test_they_are_told_by_flow(self) -> None:
        order = Order()
        fill(order, ("x", "a"), 1)
        fill(order, ("x", "b"), 1)
        found = order.pop(0, lambda flow: flow.key[1] == "b", lambda one: 1.0)
        assert found is not None
        assert found.flow.key[1] == "b"
        assert order.pop(0, lambda flow: flow.key[1] == "b") is None
        assert len(order) == 1

    def test_in_a_lower_band_too(self) -> None:
        order = Order()
        fill(order, ("x", "a"), 1, terms=Terms(1.0, 3))
        fill(order, ("y", "a"), 1)
        found = order.pop(0, lambda flow: flow.key[0] == "y")
        assert found is not None
        assert found.flow.key[0] == "y"

    def test_when_none_is_only_so_many_are_asked(self) -> None:
        order = Order()
        for number in range(300):
            waiter(order, (f"t{number % 10}", f"c{number}"))
        asked: list[Key] = []
        assert order.pop(0, lambda flow: bool(asked.append(flow.key))) is None  # type: ignore[func-returns-value]
        assert len(asked) == len(set(asked)) == 64

    def test_an_error_there_loses_nobody(self) -> None:
        order = Order(quantum=10.0)
        for tenant in "xyz":
            fill(order, (tenant, "a"), 2)
        with pytest.raises(ZeroDivisionError):
            order.pop(0, lambda flow: bool(1 / 0))
        with pytest.raises(ZeroDivisionError):
            order.pop(0, None, lambda one: 1 / 0)
        assert sorted(tenants(order, 6)) == list("xxyyzz")

    def test_served_while_others_may_not_it_waits_for_them_afterwards(self) -> None:
        order = Order()
        for tenant in "xy":
            fill(order, (tenant, "a"), 20)
        for _ in range(5):
            order.pop(0, lambda flow: flow.key[0] == "x")
        assert tenants(order, 5) == "yyyyy"


class TestKnown:
    def test_who_was_served_within_the_window_and_nobody_else(self) -> None:
        order = Order(window=160)
        order.pass_by(order.flow(("x", "a"), 0), PLAIN, 1.0, 0)
        busy, waiting = order.flow(("y", "a"), 0), order.flow(("y", "b"), 0)
        busy.inflight = 1
        order.push(Waiter(waiting, PLAIN, 1.0, 1, 0.0), 0)
        order.flow(("z", "a"), 0)
        assert len(order.flows(150)) == 4
        for now in (170, 171):
            order.flows(now)
        assert {flow.tenant + flow.caller for flow in order.flows(172)} == {"ya", "yb"}
        busy.inflight = 0
        assert order.pop(200) is not None
        for now in range(400, 420):
            order.flows(now)
        assert not order.flows(420)
        assert not order._known._tenants

    def test_at_most_so_many(self) -> None:
        order = Order(max_flows=10)
        kept = order.flow(("busy", "a"), 0)
        kept.inflight = 1
        waiter(order, ("waits", "a"))
        for number in range(100):
            order.pass_by(order.flow((f"t{number}", "a"), 0), PLAIN, 1.0, number)
        names = [flow.tenant for flow in order.flows(100)]
        assert len(names) == 10
        assert {"busy", "waits", "t99", "t98", "t92"} < set(names)

    def test_those_with_something_waiting_are_kept_beyond_that(self) -> None:
        order = Order(max_flows=10)
        for number in range(40):
            waiter(order, (f"t{number}", "a"))
        assert len(popped(order, 40)) == 40

    def test_the_longest_idle_go_first(self) -> None:
        order = Order(window=160, max_flows=3)
        for number, tenant in enumerate("xyzx"):
            order.pass_by(order.flow((tenant, "a"), 20 * number), PLAIN, 1.0, 20 * number)
        order.flow(("w", "a"), 80)
        assert {flow.tenant for flow in order.flows(80)} == {"z", "x", "w"}

    def test_one_that_was_forgotten_is_still_served(self) -> None:
        order = Order(max_flows=1)
        held = order.flow(("x", "a"), 0)
        order.flow(("y", "a"), 0)
        assert [flow.tenant for flow in order.flows(0)] == ["y"]
        order.charge(held, PLAIN, 5.0, 300)
        order.push(Waiter(held, PLAIN, 1.0, 1, 300.0), 300)
        assert held.served(840) == 5.0
        assert tenants(order, 1, 840) == "x"

    def test_coming_and_giving_up_leaves_nothing_behind(self) -> None:
        order = Order()
        stays = waiter(order, ("x", "a"))
        for number in range(5000):
            order.charge(stays.flow, PLAIN, -1.0, 0)
            order.remove(waiter(order, (f"t{number % 500}", "a")))
        for number in range(300):
            order.remove(waiter(order, (f"new{number}", "a")))
        ring = stays.flow.shares[0].common.ring
        assert len(ring._heap) <= 200
        assert order.pop(0) is stays

    def test_another_configuration_keeps_those_who_wait(self) -> None:
        order = Order(window=160)
        order.charge(order.flow(("x", "a"), 100), PLAIN, 100.0, 100)
        for tenant in "xy":
            fill(order, (tenant, "a"), 10, 10.0, now=100)
        order.retune(window=1600, quantum=0, ageing=math.inf)
        assert order.flow(("x", "a"), 300).served(300) == 100
        assert tenants(order, 8, 300) == "y" * 8
        order.retune(window=160, quantum=0, ageing=math.inf)
        assert order.flow(("x", "a"), 440).served(440) == 100


class TestStatistics:
    def test_what_operators_see(self) -> None:
        order = Order()
        order.charge(order.flow(("x", "a"), 10), Terms(2.0), 30.0, 10)
        waiter(order, ("x", "a"), 8.0, Terms(2.0), now=12.0)
        order.flow(("x", "a"), 12).inflight = 3
        (seen,) = order.flows(20)
        assert msgspec.structs.asdict(seen) == {
            "tenant": "x", "caller": "a", "queued": 1, "inflight": 3, "served": 30.0, "excess": 15.0,
            "tenant_excess": 15.0, "oldest_wait": 8.0, "weight": 2.0, "priority": 0,
        }  # fmt: skip

    @given(seed=seeds)
    @settings(max_examples=30, deadline=None)
    def test_how_many_are_ahead(self, seed: int) -> None:
        """With equal costs it is nearly so many: no more than a turn of all off."""
        rng = random.Random(seed)
        order, callers = Order(), [(f"t{number % 3}", f"c{number}") for number in range(rng.randrange(1, 9))]
        for key in callers:
            fill(order, key, rng.choice([1, 2, 10, 40]))
        popped(order, rng.randrange(len(order)))
        key = rng.choice([*callers, ("t1", "new"), ("new", "a")])
        told = order.ahead(order.flow(key, 0), PLAIN)
        mine = waiter(order, key)
        actual = next(number for number in range(1000) if order.pop(0) is mine)
        assert abs(told - actual) <= 3 * len(callers) + 0.2 * actual

    def test_those_of_higher_bands_are_ahead(self) -> None:
        order = Order()
        fill(order, ("x", "a"), 7, terms=Terms(1.0, 2))
        assert order.ahead(order.flow(("y", "a"), 0), PLAIN) == 7
        assert order.ahead(order.flow(("y", "a"), 0), Terms(1.0, 3)) == 0

    def test_the_last_one_of_whom_most_wait(self) -> None:
        order = Order()
        fill(order, ("x", "a"), 3, terms=Terms(1.0, 2))
        last = waiter(order, ("x", "a"))
        fill(order, ("x", "a"), 1, terms=Terms(1.0, 2))
        fill(order, ("y", "a"), 4)
        assert order.longest() is last
        order.remove(last)
        order.pop(0)
        longest = order.longest()
        assert longest is not None
        assert longest.flow.key == ("y", "a")


class TestNumbers:
    @pytest.mark.parametrize("weight", [math.nan, math.inf, 0.0, -1.0, 1e300])
    def test_a_weight_that_nothing_can_be_divided_by(self, weight: float) -> None:
        with pytest.raises(ValueError, match="weight"):
            Terms(weight)

    @pytest.mark.parametrize("amount", [math.nan, math.inf, -math.inf, 1e300, -5.0])
    def test_absurd_amounts_leave_counters_finite(self, amount: float) -> None:
        order = Order(window=160)
        flow = order.flow(("x", "a"), 0)
        waiter(order, ("x", "a"), amount)
        waiter(order, ("y", "a"))
        order.pass_by(flow, PLAIN, amount, 0)
        order.charge(flow, PLAIN, amount, 0)
        assert sorted(tenants(order, 2)) == ["x", "y"]
        own = flow.shares[0]
        assert math.isfinite(own.counter + own.common.counter + flow.total + own.common.party.total)
        assert all(math.isfinite(seen.served + seen.excess + seen.tenant_excess) for seen in order.flows(0))
        fill(order, ("x", "a"), 5, now=200)
        fill(order, ("y", "a"), 5, now=200)
        assert tenants(order, 4, 200) in ("xyxy", "yxyx")

    def test_nothing_is_free_of_charge(self) -> None:
        order = Order()
        fill(order, ("x", "a"), 3, -100.0)
        fill(order, ("y", "a"), 3, 0.0)
        assert tenants(order, 6) == "xyxyxy"
