"""Circuits, outliers, hung engines and slow start: examples by the second, and what holds whatever happens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.config.decode import Limit
from gateway.config.settings import Ejection, HealthSettings
from gateway.health import FAILING, HUNG, Health, spare, watch
from gateway.outliers import ERRING, SLOW, STUCK

TICK = 0.25


def pool_of(count: int, **given: object) -> list[Health]:
    pool = [Health(HealthSettings(**given)) for _ in range(count)]
    for health in pool:
        health.reached(0.0, True)
    return pool


def tripped(now: float = 0.0) -> Health:
    health = pool_of(1)[0]
    for _ in range(3):
        health.failed(now)
    return health


def listen(pool: Sequence[Health], start: float, end: float, *, polled: Sequence[Health] = ()) -> list[tuple[int, str]]:
    """Watch from ``start`` to ``end``; some answer polls all the while."""
    changes = []
    for tick in range(round((end - start) / TICK) + 1):
        for health in polled:
            health.polled(start + tick * TICK)
        changes += watch(pool, start + tick * TICK)
    return changes


def serve(health: Health, count: int, *, failing: int = 0, observed: float = 0.1, now: float = 1.0) -> None:
    """``count`` requests, of every two of which ``failing`` out of two fail."""
    for index in range(count):
        health.answered(now, observed, 0.1)
        if index % 2 < failing:
            health.failed(now)
        else:
            health.succeeded(now)


# --- the circuit ------------------------------------------------------------------------------------------------------


def test_failures_in_a_row_open_the_circuit_for_longer_and_longer() -> None:
    health, now, rests = Health(), 0.0, []
    for _ in range(2):
        assert health.failed(now) == 0.0
    for _ in range(7):
        rests.append(health.failed(now))
        assert not health.usable(now + rests[-1] - 0.01)
        now += rests[-1]
        assert health.usable(now)
    assert rests == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_what_was_under_way_when_it_was_set_aside_says_nothing_new() -> None:
    health = tripped()
    assert [health.failed(0.5) for _ in range(5)] == [0.0] * 5
    assert health.open_until == 1.0
    health.answered(0.5, 0.2, 0.1)
    health.succeeded(0.5)
    assert not health.usable(0.9)
    assert health.state(1.0) == "half-open"


def test_one_probe_at_a_time_decides() -> None:
    health = tripped()
    assert (health.usable(0.99), health.usable(1.0)) == (False, True)
    assert health.place()
    assert not health.usable(1.0)
    health.leave(True)  # its client left: nothing was learned
    assert health.usable(1.0)
    assert health.place()
    assert health.failed(1.5, probe=True) == 2.0
    health.leave(True)
    assert not health.usable(3.0)
    assert health.place()
    health.succeeded(4.0, probe=True)
    health.leave(True)
    assert health.usable(4.0)
    assert not health.place()


def test_a_probes_first_token_closes_the_circuit_though_its_answer_goes_on() -> None:
    health = tripped()
    assert health.place()
    health.answered(1.5, 0.2, 0.1, probe=True)
    assert health.usable(1.5)
    assert health.state(1.5) == "slow-start"
    assert health.failed(1.6, probe=True) == 2.0


def test_a_request_that_went_there_for_want_of_others_closes_the_circuit_too() -> None:
    health = Health()
    health._open(0.0, SLOW)
    assert health.place()
    health.succeeded(0.5, probe=True)
    health.leave(True)
    assert health.usable(0.5)


def test_one_that_was_slow_and_now_fails_is_said_to_fail() -> None:
    for before, after in ((SLOW, FAILING), (STUCK, FAILING), (ERRING, ERRING)):
        health = Health()
        rest = health._open(0.0, before)
        assert health.failed(rest - 0.1) == 0.0
        assert health.why == before
        assert health.place()
        assert health.failed(rest, probe=True) > 0.0
        assert health.why == after


def test_only_a_minute_of_health_makes_the_next_rest_short_again() -> None:
    for later, rest in ((30.0, 2.0), (61.5, 1.0)):
        health = tripped()
        health.place()
        health.succeeded(1.0, probe=True)
        health.leave(True)
        assert [health.failed(later) for _ in range(3)] == [0.0, 0.0, rest]


def test_retry_after_is_obeyed_for_a_minute_at_most() -> None:
    health = Health()
    health.cool(0.0, 10.0)
    assert (health.usable(9.9), health.wait(9.0), health.usable(10.0)) == (False, 1.0, True)
    assert health.state(5.0) == "open"
    health.cool(20.0, 1e6)
    assert (health.usable(79.9), health.usable(80.0)) == (False, True)


def test_one_that_is_full_stays_usable_but_says_so() -> None:
    health = Health()
    health.refused(3.0)
    assert (health.usable(3.0), health.full_until) == (True, 3.5)


def test_an_endpoint_that_comes_back_is_tried_at_once_and_eased_in() -> None:
    health = tripped()
    health.failed(1.0)
    health.failed(3.0)
    health.reached(3.5, False)
    assert (health.usable(100.0), health.state(3.5), health.wait(3.5)) == (False, "down", math.inf)
    health.reached(4.0, True)
    assert health.usable(4.0)
    assert health.place()
    assert not health.usable(4.0)
    health.succeeded(4.5, probe=True)
    health.leave(True)
    assert health.share(4.5) == pytest.approx(0.1)


@pytest.mark.parametrize(("count", "aside"), [(1, 0), (2, 1), (5, 2)])
def test_for_what_may_be_the_requests_fault_no_more_than_a_share_is_set_aside(count: int, aside: int) -> None:
    pool = pool_of(count)
    for health in pool * 3:
        health.failed(0.0, spare=lambda: spare(pool))
    assert [health.why for health in pool] == [FAILING] * aside + [""] * (count - aside)
    assert pool[-1].failed(0.0) == 1.0  # that was no request's fault
    assert pool[-1].why == FAILING


def test_who_is_gone_is_no_part_of_what_is_left() -> None:
    pool = pool_of(4)
    pool[0].reached(0.0, False)
    pool[1].drain()
    for health in pool[2:] * 3:
        health.failed(0.0, spare=lambda: spare(pool))
    assert [health.why for health in pool] == ["", "", FAILING, ""]


def test_a_draining_one_gets_nothing_whatever_else_it_is() -> None:
    health = tripped()
    health.drain()
    health.reached(5.0, True)
    assert (health.usable(50.0), health.state(50.0), health.reluctance(50.0)) == (False, "draining", math.inf)
    health.drain(False)
    assert health.usable(50.0)


def test_where_nobody_is_usable_the_least_unlikely_is_asked() -> None:
    cooling, slow, hung, failing, down = (Health() for _ in range(5))
    cooling.cool(0.0, 30.0)
    slow._open(0.0, SLOW)
    hung._open(0.0, HUNG, stranded=True)
    failing._open(0.0, FAILING)
    down.reached(0.0, False)
    assert [health.reluctance(0.5) for health in (cooling, slow, hung, failing, down)] == [
        29.5, 1000.0, 2000.0, math.inf, math.inf,
    ]  # fmt: skip


# --- slow start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "share"), [(0.0, 0.1), (5.0, 0.55), (9.0, 0.91), (10.0, 1.0), (99.0, 1.0)])
def test_the_share_of_one_that_joins_grows_evenly(after: float, share: float) -> None:
    health = Health(joins=True)
    assert health.share(1.0) == pytest.approx(0.1)
    health.reached(100.0, True)
    health.reached(103.0, True)
    assert health.share(100.0 + after) == pytest.approx(share)


def test_those_that_were_there_at_start_have_their_full_share_and_slow_start_can_be_off() -> None:
    health = Health()
    health.reached(0.0, True)
    assert (health.share(0.0), health.state(0.0)) == (1.0, "ready")
    assert Health(HealthSettings(slow_start=Limit(math.inf)), joins=True).share(0.0) == 1.0


# --- those that fail often --------------------------------------------------------------------------------------------


def test_one_that_fails_every_other_request_is_set_aside() -> None:
    pool = pool_of(4)
    for health in pool[1:]:
        serve(health, 20)
    serve(pool[0], 20, failing=1)
    assert watch(pool, 1.0) == [(0, "is set aside for 4 s: 50% of its last 20 requests failed, 0% elsewhere")]
    assert (pool[0].why, pool[0].state(1.0), pool[0].usable(5.0)) == (ERRING, "open", True)
    assert pool[0].place()
    pool[0].succeeded(5.0, probe=True)
    pool[0].leave(True)
    assert watch(pool, 5.0) == []


def test_nine_outcomes_are_too_few_and_old_ones_do_not_count() -> None:
    pool = pool_of(2)
    serve(pool[0], 9, failing=1)
    assert watch(pool, 1.0) == []
    serve(pool[0], 2, failing=1, now=62.0)
    assert watch(pool, 62.0) == []


def test_where_all_fail_nobody_stands_out() -> None:
    pool = pool_of(4)
    for health in pool:
        serve(health, 20, failing=1)
    assert watch(pool, 1.0) == []


def test_of_many_that_fail_often_no_more_than_half_are_set_aside_the_worst_first() -> None:
    pool = pool_of(5)
    for health, good in zip(pool[:3], (9, 0, 4), strict=True):
        for index in range(20):
            health.failed(1.0)
            health.consecutive = 0  # each between successes that the window has lost
            if index < good:
                health.succeeded(1.0)
    for health in pool[3:]:
        serve(health, 20)
    pool = [*pool[:3], *pool[3:], *pool_of(2)]
    for health in pool[5:]:
        serve(health, 20)
    pool[6].drain()
    pool[5].reached(1.0, False)
    assert [index for index, _ in watch(pool, 1.0)] == [1, 2]
    assert watch(pool, 1.25) == []


def test_more_failures_than_others_by_chance_alone_are_no_reason() -> None:
    pool = pool_of(3)
    for health, failures in zip(pool, (6, 3, 3), strict=True):
        for index in range(10):
            health.failed(1.0) if index % 10 < failures else health.succeeded(1.0)
            health.consecutive = 0
    assert watch(pool, 1.0) == []


def test_those_that_are_dead_anyway_make_no_room_for_setting_aside_others() -> None:
    pool = pool_of(5)
    serve(pool[4], 50)
    for health in pool[2:4]:
        health._open(1.0, FAILING)
    for health in pool[:2]:
        for _ in range(50):
            health.failed(1.0)
            health.consecutive = 0
    assert len(watch(pool, 1.0)) == 1


def test_alone_in_its_pool_nobody_is_worse_than_the_others() -> None:
    pool = pool_of(1)
    serve(pool[0], 40, failing=1, observed=60.0)
    listen(pool, 90.0, 99.75)
    pool[0].due(100.0, 0.1)
    assert watch(pool, 100.0) == []


# --- those that are slow ----------------------------------------------------------------------------------------------


def test_one_whose_first_tokens_take_much_longer_than_expected_is_set_aside_and_a_probe_decides() -> None:
    pool = pool_of(3)
    for health in pool[1:]:
        serve(health, 5)
    serve(pool[0], 4, observed=3.0)
    assert watch(pool, 1.0) == []
    serve(pool[0], 1, observed=3.0)
    ((index, what),) = watch(pool, 1.0)
    assert (index, what) == (
        0,
        "is set aside for 4 s: first tokens take 20.3 times as long as expected, 1.0 times elsewhere",
    )
    assert pool[0].place()
    assert pool[0].answered(6.0, 3.0, 0.1, probe=True) == 8.0
    pool[0].leave(True)
    assert not pool[0].usable(13.9)
    assert pool[0].place()
    assert pool[0].answered(14.5, 0.5, 0.1, probe=True) == 0.0
    assert pool[0].why == ""


@pytest.mark.parametrize(
    ("others", "own", "expected"),
    [
        (0.1, 1.5, 0.1),  # 15 times as long, yet not two seconds
        (0.1, 30.0, 10.0),  # three times as long
        (2.0, 4.0, 0.1),  # twice as long as elsewhere: the prediction is bad
    ],
)
def test_a_latency_that_is_no_outlier(others: float, own: float, expected: float) -> None:
    pool = pool_of(3)
    for _ in range(8):
        for health in pool[1:]:
            health.answered(1.0, others, 0.1)
        pool[0].answered(1.0, own, expected)
    assert watch(pool, 1.0) == []


def test_one_late_answer_among_good_ones_is_forgiven() -> None:
    pool = pool_of(2)
    for health in pool:
        serve(health, 8)
    serve(pool[0], 1, observed=60.0)
    assert watch(pool, 1.0) == []


def test_nobody_is_slow_where_no_other_has_been_measured() -> None:
    pool = pool_of(2)
    serve(pool[0], 8, observed=30.0)
    listen(pool, 50.0, 60.0)
    pool[0].due(60.0, 0.1)
    pool[1].due(60.0, 0.1)
    assert watch(pool, 60.25) == []


def test_at_first_nobody_knows_what_is_late() -> None:
    pool = pool_of(3)
    listen(pool, 50.0, 59.75)
    for health in pool:
        health.due(60.0, 0.1)
    assert watch(pool, 60.0) == []


# --- those that answer nothing ----------------------------------------------------------------------------------------


def test_one_that_falls_silent_is_hung_until_it_is_heard_and_then_one_request_tries_it() -> None:
    pool = pool_of(2)
    assert listen(pool, 0.0, 10.0, polled=pool) == []
    assert listen(pool, 10.25, 14.75, polled=pool[1:]) == []
    assert listen(pool, 15.0, 60.0, polled=pool[1:]) == [(0, "is set aside until it is heard again: silent for 5.0 s")]
    assert (pool[0].state(60.0), pool[0].hung(60.0), pool[0].usable(1e9)) == ("hung", True, False)
    assert listen(pool, 60.25, 60.25, polled=pool) == [(0, "is heard again and may be tried")]
    assert (pool[0].hung(60.25), pool[0].usable(60.25), pool[0].state(60.25)) == (False, True, "half-open")
    assert pool[0].place()
    assert not pool[0].usable(60.25)
    pool[0].answered(61.0, 0.2, 0.1, probe=True)
    assert pool[0].state(61.0) == "slow-start"


def test_bytes_of_an_answer_are_as_good_as_an_answered_poll() -> None:
    pool = pool_of(1)
    listen(pool, 0.0, 2.0, polled=pool)
    for tick in range(200):
        pool[0].heard = 2.0 + tick * TICK
        assert watch(pool, 2.0 + tick * TICK) == []


def test_whom_nobody_polls_may_be_silent_for_ever() -> None:
    pool = pool_of(1)
    pool[0].heard = 1.0
    assert listen(pool, 0.0, 1000.0) == []
    listen(pool, 1000.0, 1001.0, polled=pool)
    pool[0].unpolled()
    assert listen(pool, 1001.0, 1020.0) == []


def test_one_that_nobody_polls_any_more_does_not_stay_hung() -> None:
    pool = pool_of(1)
    listen(pool, 0.0, 2.0, polled=pool)
    listen(pool, 2.0, 9.0)
    pool[0].unpolled()
    assert listen(pool, 9.0, 9.0) == [(0, "is not polled any more, so a request has to try it")]


def test_the_usual_gap_between_polls_is_part_of_patience() -> None:
    pool = pool_of(1)
    changes = []
    for tick in range(240):
        if tick % 20 == 0 and tick < 200:
            pool[0].polled(tick * TICK)  # every 5 s, the last at 45
        changes += [(tick * TICK, index) for index, _ in watch(pool, tick * TICK)]
    assert changes == []
    assert listen(pool, 60.0, 60.0) == [(0, "is set aside until it is heard again: silent for 15.0 s")]


def test_who_is_asked_again_in_a_while_may_be_silent_until_then() -> None:
    pool = pool_of(2)
    for health in pool:
        health.polled(0.0)
        health.polled(1.0)
    pool[0].polled(2.0, period=8.0)
    pool[1].polled(2.0)
    changes = [(tick * TICK, index) for tick in range(120) for index, _ in watch(pool, tick * TICK)]
    assert [index for _, index in changes] == [1, 0]
    assert [at for at, _ in changes] == [7.0, 26.0]


def test_patience_grows_at_once_when_polls_become_rare_and_an_outage_does_not_make_it_grow() -> None:
    pool = pool_of(1)
    listen(pool, 0.0, 2.0, polled=pool)
    for now in (6.0, 14.0):
        assert listen(pool, now - (4.0 if now == 6.0 else 8.0) + TICK, now - TICK) == []
        pool[0].polled(now)
    listen(pool, 14.0, 20.0, polled=pool)
    assert len(listen(pool, 20.25, 80.0)) == 1
    listen(pool, 80.25, 80.75, polled=pool)
    assert len(listen(pool, 81.0, 86.0)) == 1


def test_a_gateway_that_was_stopped_blames_nobody() -> None:
    pool = pool_of(2)
    listen(pool, 0.0, 5.0, polled=pool)
    assert listen(pool, 500.0, 504.75) == []
    assert len(listen(pool, 505.0, 505.0)) == 2


def test_zero_means_never_hung() -> None:
    pool = pool_of(2, hung_after=Limit(math.inf))
    listen(pool, 0.0, 2.0, polled=pool)
    pool[0].due(100.0, 0.1)
    assert listen(pool, 2.25, 100.0) == []


# --- those that are there, and generate nothing -----------------------------------------------------------------------


def stuck(pool: Sequence[Health], now: float, waited: float) -> list[tuple[int, str]]:
    assert listen(pool, now - 6.0, now - TICK, polled=pool) == []
    for health in pool:
        health.polled(now)
    pool[0].due(waited, 0.3)
    return watch(pool, now)


def test_an_engine_that_answers_polls_and_no_request_is_set_aside() -> None:
    pool = pool_of(3)
    for health in pool:
        serve(health, 5)
    assert [stuck(pool, 2.0 + waited, waited) for waited in (0.0, 2.0, 4.9)] == [[], [], []]
    assert stuck(pool, 7.0, 5.0) == [(0, "is set aside for 4 s: no first token for 5.0 s, and nothing else moves")]
    assert (pool[0].why, pool[0].hung(7.0), pool[0].state(7.0)) == (STUCK, True, "hung")
    assert pool[0].usable(11.0)
    assert not pool[0].hung(11.0)


def test_a_probe_that_stands_still_does_not_keep_its_endpoint_half_open() -> None:
    for why, reopened in ((STUCK, STUCK), (HUNG, FAILING), (FAILING, FAILING)):
        pool = pool_of(3)
        for health in pool:
            serve(health, 5)
        pool[0]._open(1.0, why)
        pool[0].open_until = 5.0
        assert pool[0].place()
        pool[0]._bar = 5.0
        pool[0]._settle()
        assert stuck(pool, 10.0, 5.0)[0][0] == 0
        assert (pool[0].why, pool[0].hung(10.0)) == (reopened, True)


@pytest.mark.parametrize(
    ("heard", "expected", "own", "others"),
    [
        (6.5, 0.3, 0.1, 0.1),  # other answers move
        (1.0, 3.0, 0.1, 0.1),  # the prompt is long
        (1.0, 0.3, 0.9, 0.1),  # it always takes as long, here
        (1.0, 0.3, 0.1, 0.9),  # or elsewhere
    ],
)
def test_a_late_token_that_does_not_mean_stuck(heard: float, expected: float, own: float, others: float) -> None:
    pool = pool_of(3)
    serve(pool[0], 5, observed=own)
    for health in pool[1:]:
        serve(health, 5, observed=others)
    pool[0].heard = heard
    listen(pool, 0.0, 6.75)
    pool[0].due(6.0, expected)
    assert watch(pool, 7.0) == []
    assert listen(pool, 7.25, 12.0) == []  # its token has come meanwhile


def test_a_token_that_was_late_while_the_gateway_was_stopped_means_nothing() -> None:
    pool = pool_of(3)
    for health in pool:
        serve(health, 5)
    listen(pool, 0.0, 2.0, polled=pool)
    assert listen(pool, 60.0, 60.0, polled=pool) == []
    for health in pool:
        health.due(59.0, 0.3)
    assert watch(pool, 60.25) == []
    listen(pool, 60.5, 65.0, polled=pool)
    pool[0].due(64.0, 0.3)
    assert [index for index, _ in watch(pool, 65.25)] == [0]


# --- whatever happens -------------------------------------------------------------------------------------------------


class Fleet(RuleBasedStateMachine):
    """A pool under random treatment. Member 0 is always well: it answers polls and requests, in time."""

    @initialize(count=st.integers(1, 6), share=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
    def begin(self, count: int, share: float) -> None:
        self.now = 0.0
        self.share = share
        self.pool = pool_of(count, ejection=Ejection(max_share=share))
        self.probes = [0] * count
        self.placed: list[tuple[int, bool]] = []

    def outlying(self) -> int:
        return sum(health.why in (ERRING, SLOW, STUCK) for health in self.pool)

    def bad(self, index: int) -> int:
        return 1 + index % (len(self.pool) - 1)

    @rule(ticks=st.integers(1, 40), talks=st.sets(st.integers(1, 5)))
    def time_passes(self, ticks: int, talks: set[int]) -> None:
        for _ in range(ticks):
            self.now += TICK
            for index, health in enumerate(self.pool):
                if index == 0 or index in talks:
                    health.polled(self.now)
            before = self.outlying()
            watch(self.pool, self.now)
            assert self.outlying() <= max(before, int(self.share * len(self.pool) + 1e-9))

    @rule(times=st.integers(1, 12))
    def the_good_one_works(self, times: int) -> None:
        for _ in range(times):
            probe = self.pool[0].place()
            self.pool[0].answered(self.now, 0.2, 0.1, probe)
            self.pool[0].succeeded(self.now, probe)
            self.pool[0].leave(probe)

    @precondition(lambda self: len(self.pool) > 1)
    @rule(
        index=st.integers(0, 9), ttft=st.sampled_from([0.1, 3.0, 60.0]), outcomes=st.lists(st.booleans(), max_size=30)
    )
    def requests(self, index: int, ttft: float, outcomes: list[bool]) -> None:
        health = self.pool[self.bad(index)]
        for good in outcomes:
            if not health.usable(self.now):
                return
            probe = health.place()
            if probe:
                assert health.probes == 1
                assert not health.usable(self.now)
            if ttft < 60.0:
                health.answered(self.now, ttft, 0.1, probe)
            if good:
                health.succeeded(self.now, probe)
            else:
                health.failed(self.now, probe)
            health.leave(probe)

    @precondition(lambda self: len(self.pool) > 1)
    @rule(index=st.integers(0, 9))
    def a_request_begins(self, index: int) -> None:
        at = self.bad(index)
        if self.pool[at].usable(self.now):
            self.placed.append((at, self.pool[at].place()))

    @precondition(lambda self: self.placed)
    @rule(end=st.sampled_from(["left", "failed", "succeeded", "answered"]))
    def a_request_ends(self, end: str) -> None:
        index, probe = self.placed.pop()
        health = self.pool[index]
        if end == "failed":
            health.failed(self.now, probe)
        elif end == "succeeded":
            health.succeeded(self.now, probe)
        elif end == "answered":
            health.answered(self.now, 0.1, 0.1, probe)
        health.leave(probe)

    @precondition(lambda self: len(self.pool) > 1)
    @rule(index=st.integers(0, 9), what=st.sampled_from(["down", "up", "cool", "due", "unpolled"]))
    def something_is_told(self, index: int, what: str) -> None:
        health = self.pool[self.bad(index)]
        if what in ("down", "up"):
            health.reached(self.now, what == "up")
        elif what == "cool":
            health.cool(self.now, 5.0)
        elif what == "due":
            health.due(20.0, 0.1)
        else:
            health.unpolled()

    @invariant()
    def the_good_one_is_never_set_aside(self) -> None:
        if hasattr(self, "pool"):
            assert self.pool[0].usable(self.now)
            assert self.pool[0].state(self.now) == "ready"

    @invariant()
    def shares_are_shares(self) -> None:
        if hasattr(self, "pool"):
            assert all(0.0 < health.share(self.now) <= 1.0 for health in self.pool)

    @invariant()
    def states_say_who_is_usable(self) -> None:
        if hasattr(self, "pool"):
            for health in self.pool:
                closed = health.state(self.now) in ("ready", "slow-start", "unknown")
                trying = health.state(self.now) == "half-open" and not health.probes
                assert health.usable(self.now) == (closed or trying)

    def teardown(self) -> None:
        """When everybody answers again, everybody is tried again and comes back, for good."""
        if not hasattr(self, "pool"):
            return
        for index, probe in self.placed:
            self.pool[index].leave(probe)
        for health in self.pool:
            health.reached(self.now, True)
        listen(self.pool, self.now, self.now + 61.0, polled=self.pool)
        self.now += 61.0
        for health in self.pool:
            assert health.usable(self.now)
            probe = health.place()
            health.answered(self.now, 0.1, 0.1, probe)
            health.succeeded(self.now, probe)
            health.leave(probe)
            assert (health.why, health.consecutive, health.probes) == ("", 0, 0)
        assert listen(self.pool, self.now, self.now + 20.0, polled=self.pool) == []
        assert {health.state(self.now + 20.0) for health in self.pool} == {"ready"}


Fleet.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestFleet = Fleet.TestCase
