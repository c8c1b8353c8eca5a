"""What an endpoint can take, told from loads as engines give them."""

from __future__ import annotations

import math
from itertools import pairwise

from gateway.config.sharing import Thresholds
from gateway.room import Room
from gateway.types import Load


class Endpoint:
    """As `gateway.member.Member`, with the numbers set by hand."""

    def __init__(self) -> None:
        self.inflight = self.pending = self.unstreamed = self.requests = 0
        self.foreign = self.foreign_pending = 0.0
        self.until = -math.inf
        self.load: Load | None = None
        self.room = Room(Thresholds())

    def send(self, count: int = 1) -> None:
        self.inflight += count
        self.pending += count
        self.requests += count

    def says(self, at: float, running: float, waiting: float, kv_usage: float | None = None) -> None:
        self.load = Load(at=at, running=running, waiting=waiting, kv_usage=kv_usage)
        self.foreign = max(0.0, running + waiting - self.inflight)
        self.room.loaded(self, self.load)

    def more(self, now: float) -> float:
        return self.room.left(self, now)


def full(slots: int = 8, waiting: int = 2) -> Endpoint:
    """One that has shown that it runs ``slots`` at once."""
    endpoint = Endpoint()
    endpoint.send(slots + waiting)
    endpoint.says(1.0, slots, waiting)
    endpoint.says(1.2, slots, waiting)
    return endpoint


def test_what_says_nothing_takes_everything() -> None:
    endpoint = Endpoint()
    endpoint.send(500)
    assert endpoint.more(1.0) == math.inf


def test_between_two_loads_only_a_few_are_sent_unseen() -> None:
    endpoint = Endpoint()
    endpoint.says(0.0, 0, 0)
    assert endpoint.more(0.0) == 4
    endpoint.send(4)
    assert endpoint.more(0.1) <= 0
    endpoint.pending = 0  # tokens of all of them are there: none of them waits
    assert endpoint.more(0.1) == 4
    endpoint.inflight = endpoint.requests = 40
    endpoint.says(0.2, 40, 0)
    assert endpoint.more(0.2) == 20


def test_answers_that_come_whole_do_not_count_as_waiting_for_ever() -> None:
    endpoint = Endpoint()
    endpoint.says(0.0, 0, 0)
    endpoint.inflight = endpoint.unstreamed = endpoint.requests = 4
    assert endpoint.more(0.1) <= 0
    endpoint.says(0.2, 4, 0)
    assert endpoint.more(0.2) == 8


def test_what_is_sent_unseen_doubles_while_nothing_waits_there() -> None:
    """Answers that come whole within a moment show nothing of themselves but that nothing waits."""
    endpoint = Endpoint()
    endpoint.says(0.0, 0, 0)
    room = []
    for load in range(1, 6):
        count = int(endpoint.more(load - 0.5))
        room.append(count)
        endpoint.inflight = endpoint.unstreamed = count
        endpoint.requests += count
        assert endpoint.more(load - 0.1) <= 0
        endpoint.inflight = endpoint.unstreamed = 0
        endpoint.says(float(load), 1, 0)
    assert room == [4, 8, 16, 32, 64]
    endpoint.says(6.0, 1, 1)
    endpoint.says(7.0, 2, 0)
    assert endpoint.more(7.1) == 64  # half of the 128 that it was


def test_slots_are_learned_when_requests_wait_and_nothing_is_computed() -> None:
    endpoint = full()
    assert endpoint.room.slots == 8
    assert endpoint.more(1.3) == -2
    endpoint.inflight = 7
    assert endpoint.more(1.3) == 1


def test_prompts_that_wait_for_their_turn_do_not_look_like_full_slots() -> None:
    endpoint = Endpoint()
    endpoint.send(6)
    endpoint.until = 9.0
    endpoint.says(1.0, 3, 3)
    endpoint.says(1.2, 3, 3)
    assert endpoint.room.slots == math.inf


def test_one_load_with_waiting_requests_says_little() -> None:
    endpoint = Endpoint()
    endpoint.send(6)
    endpoint.says(1.0, 3, 3)
    endpoint.says(1.2, 6, 0)
    endpoint.says(1.4, 6, 1)
    assert endpoint.room.slots == math.inf


def test_growing_while_some_wait_is_not_full() -> None:
    endpoint = Endpoint()
    endpoint.send(8)
    for at, running in enumerate((1, 2, 3, 4)):
        endpoint.says(float(at), running, 8 - running)
    assert endpoint.room.slots == math.inf


def test_more_slots_than_thought() -> None:
    endpoint = full()
    endpoint.inflight = 12
    endpoint.says(3.0, 12, 0)
    assert endpoint.room.slots == 12


def test_a_full_endpoint_is_tried_ever_more_seldom() -> None:
    endpoint = full(waiting=1)
    tries = []
    now = 1.2
    while now < 600.0:
        now = round(now + 0.2, 1)
        endpoint.inflight = 8
        endpoint.says(now, 8, 0)
        if endpoint.more(now) > 0:
            tries.append(now)
            endpoint.inflight = 9
            endpoint.says(now + 0.05, 8, 1)
            endpoint.says(now + 0.1, 8, 1)
    assert endpoint.room.slots == 8
    gaps = [b - a for a, b in pairwise(tries)]
    assert 3 <= len(tries) <= 6
    assert gaps == sorted(gaps)
    assert gaps[0] >= 30


def test_a_try_that_succeeds_is_kept_and_soon_followed_by_another() -> None:
    endpoint = full(waiting=1)
    now = 1.2
    while endpoint.room.slots < 30 and now < 80:
        now += 0.2
        endpoint.inflight = min(30, int(endpoint.room.slots))
        endpoint.says(now, endpoint.inflight, 0)
        if endpoint.more(now) > 0:
            endpoint.inflight += 1
            endpoint.says(now + 0.05, endpoint.inflight, 0)
    assert now < 60


def test_a_full_cache_takes_nothing_but_the_first() -> None:
    endpoint = Endpoint()
    endpoint.says(0.0, 0, 0, kv_usage=0.99)
    assert endpoint.more(0.1) > 0
    endpoint.send()
    assert endpoint.more(0.1) == 0
    endpoint.says(0.2, 1, 0, kv_usage=0.5)
    assert endpoint.more(0.3) > 0


def test_others_who_fill_a_cache_or_a_page_that_always_says_so_do_not_keep_us_out() -> None:
    endpoint = Endpoint()
    for at in range(20):
        endpoint.says(at, 3, 0, kv_usage=1.0)
        assert endpoint.more(at + 0.1) > 0
        endpoint.send()
        assert endpoint.more(at + 0.2) == 0  # one of ours is there
        endpoint.inflight = endpoint.pending = 0


def test_others_who_fill_an_endpoint_do_not_keep_us_out() -> None:
    endpoint = Endpoint()
    endpoint.send(1)
    endpoint.says(1.0, 8, 20)
    endpoint.says(1.2, 8, 20)
    assert endpoint.room.slots == 8
    endpoint.pending = 0
    assert endpoint.more(1.3) == 1
    endpoint.send()
    endpoint.says(1.4, 8, 20)
    assert endpoint.more(1.5) <= 0  # one of ours waits there
    endpoint.inflight, endpoint.pending = 4, 0
    assert endpoint.more(1.5) <= 0  # and half of it is ours


def test_another_engine_at_the_same_place_is_learned_anew() -> None:
    endpoint = full()
    endpoint.room.forget()
    assert endpoint.room.slots == math.inf


def test_one_that_refuses_runs_no_more_than_it_had() -> None:
    endpoint = Endpoint()
    endpoint.send(5)
    endpoint.room.full(5, 1.0)
    assert endpoint.more(1.1) == 0
    assert endpoint.more(11.1) == 1


def test_slots_are_learned_while_requests_come_and_go_all_the_time() -> None:
    """Each that ends lets the next one in: there is always a prompt that has just come."""
    endpoint = Endpoint()
    endpoint.send(96)
    for tenth in range(24):
        endpoint.until = tenth / 10 + 1.5
        endpoint.says(tenth / 10, 64 - tenth % 3, 32 + tenth % 3)
    assert endpoint.room.slots == 64


def test_what_runs_ever_more_has_room_however_many_wait() -> None:
    endpoint = Endpoint()
    endpoint.until = math.inf
    for tenth in range(100):
        endpoint.says(tenth / 10, 16 + tenth / 2, 30)
    assert endpoint.room.slots == math.inf


def test_few_that_wait_for_long_are_prompts_in_their_turn() -> None:
    endpoint = Endpoint()
    endpoint.until = math.inf
    for tenth in range(100):
        endpoint.says(tenth / 10, 64, 4)
    assert endpoint.room.slots == math.inf


def test_a_try_that_fails_while_requests_come_and_go_is_taken_back() -> None:
    endpoint = full(waiting=1)
    endpoint.inflight = 8
    endpoint.says(3.0, 8, 0)
    assert endpoint.more(31.3) == 1
    endpoint.inflight = 9
    endpoint.until = math.inf
    for tenth in range(22):
        endpoint.says(31.5 + tenth / 10, 8 - tenth % 2, 1 + tenth % 2)
    assert endpoint.room.slots == 8


def test_many_that_are_refused_at_once_are_one_lesson() -> None:
    endpoint = Endpoint()
    for inflight in range(19, 7, -1):
        endpoint.inflight = inflight
        endpoint.room.full(inflight, 1.0)
    assert endpoint.room.slots == 8
    assert endpoint.more(10.9) <= 0
    assert endpoint.more(11.0) == 1


def test_nobody_is_sent_in_droves_to_what_has_not_spoken_yet() -> None:
    endpoint = Endpoint()
    endpoint.room.awaited = True
    assert endpoint.more(0.0) == 4
    endpoint.send(4)
    assert endpoint.more(0.1) <= 0
    endpoint.pending = 0
    assert endpoint.more(0.2) == 4
    endpoint.inflight = endpoint.requests = 40
    endpoint.says(0.3, 40, 0)
    endpoint.load = None  # it has not spoken for long
    assert endpoint.more(9.0) == 20
