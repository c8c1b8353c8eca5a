"""What a replica tells the store it shares: bounded, added up, places as numbers."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from gateway.store import batch
from gateway.store.batch import Batch, Outbox, answers
from gateway.types import Demand

RATE = Demand("tokens", 10.0, 1.0, 100.0)
PLACE = Demand("places", 1.0, 0.0, 4.0)


def opened(told: Batch) -> tuple[Any, ...]:
    """(places, settlements, requests) of a batch, with keys for their numbers."""
    named = {index + 1: key for index, key in enumerate(told.keys)}
    body = msgspec.msgpack.decode(told.body)
    places = [(named[index], count) for index, count in body[4]]
    settlements = [(named[index], *rest) for index, *rest in body[5]]
    return places, settlements, [[(named[index], *rest) for index, *rest in demands] for demands in body[6]]


def test_keys_are_in_one_slot_and_batches_are_numbered() -> None:
    outbox = Outbox("p", "a", 10.0)
    first, second = outbox.batch([(RATE, PLACE)], 5.0), outbox.batch([])
    assert first.keys == ("{p}:replica:a", "{p}:rate:tokens", "{p}:places:places")
    assert opened(first)[2] == [[("{p}:rate:tokens", 10.0, 1.0, 100.0), ("{p}:places:places", 1.0, 0.0, 4.0)]]
    assert msgspec.msgpack.decode(first.body)[:4] == [1, 5.0, 10.0, "a"]
    assert msgspec.msgpack.decode(second.body)[:2] == [2, -1.0]


def test_what_was_taken_at_one_moment_and_all_debts_of_an_account_add_up() -> None:
    outbox = Outbox("p", "a", 10.0)
    for back, at in ((3.0, 1.0), (4.0, 1.0), (5.0, 2.0), (-1.0, 1.0), (-2.0, 2.0), (0.0, 3.0)):
        outbox.settle([RATE], [back], at)
    key = "{p}:rate:tokens"
    _, settlements, _ = opened(outbox.batch([]))
    assert settlements == [(key, 1.0, 7.0, 1.0), (key, 1.0, 5.0, 2.0), (key, 1.0, -3.0, 0.0)]
    assert not outbox.waiting


def test_places_are_told_as_a_number_and_again_until_they_are_given_back() -> None:
    outbox = Outbox("p", "a", 10.0)
    outbox.granted([PLACE])
    outbox.granted([PLACE])
    assert not outbox.waiting
    outbox.renew()
    assert opened(outbox.batch([]))[0] == [("{p}:places:places", 2.0)]
    outbox.settle([PLACE], [1.0], 1.0)
    assert opened(outbox.batch([]))[0] == [("{p}:places:places", 1.0)]
    outbox.settle([PLACE], [1.0], 1.0)
    assert opened(outbox.batch([]))[0] == [("{p}:places:places", 0.0)]
    outbox.renew()
    assert not outbox.waiting


def test_a_grant_nobody_waits_for_is_given_back_whole() -> None:
    outbox = Outbox("p", "a", 10.0)
    outbox.unwanted([RATE, PLACE], 3.0)
    assert opened(outbox.batch([]))[:2] == ([("{p}:places:places", 0.0)], [("{p}:rate:tokens", 1.0, 10.0, 3.0)])


def test_of_too_many_settlements_the_oldest_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MOST", 2)
    outbox = Outbox("p", "a", 10.0)
    for at in (1.0, 2.0, 3.0):
        outbox.settle([RATE], [1.0], at)
    assert outbox.dropped == 1
    assert [each[3] for each in opened(outbox.batch([]))[1]] == [2.0, 3.0]


def test_a_batch_takes_so_much_and_says_that_more_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "SETTLEMENTS", 2)
    outbox = Outbox("p", "a", 10.0)
    for at in (1.0, 2.0, 3.0):
        outbox.settle([RATE], [1.0], at)
    first, second = outbox.batch([]), outbox.batch([])
    assert (first.full, first.settlements, second.full, second.settlements) == (True, 2, False, 1)


@pytest.mark.parametrize(
    "reply",
    [
        msgspec.msgpack.encode([1.0, [["yes", 0, []]]]),
        msgspec.msgpack.encode([1.0, [[False, math.nan, [1.0]]]]),
        msgspec.msgpack.encode([1.0, [[False, math.inf, [1.0]]]]),
        msgspec.msgpack.encode([1.0, [[False, 1.0, [-1.0]]]]),
        msgspec.msgpack.encode([math.inf, []]),
        b"\xc1",
        b"",
        None,
        5,
        [1.0, []],
    ],
)
def test_an_answer_that_is_none_is_refused(reply: object) -> None:
    with pytest.raises(ValueError):
        answers(reply)
