"""Whatever of their words is lost, repeated or late, replicas agree on what is under way and charge nothing twice."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.prefix import Blocks, chain
from gateway.replicas import NOTHING, Count, Digest, Placed, Replicas, Service
from gateway.schedule.ask import Ask
from gateway.types import InferenceRequest, Operation

BLOCKS = Blocks()


class View(msgspec.Struct):
    text: str

    def prompt_text(self) -> str:
        return self.text


class Ear:
    """Notes all it is told; ``counts`` as last told."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], Count] = {}
        self.placed: list[Placed] = []
        self.charged: dict[tuple[str, str, str], float] = {}
        self.expected: list[tuple[str, float, int, int]] = []

    def elsewhere(self, pool: str, endpoint: str, count: Count, now: float) -> None:
        self.counts[pool, endpoint] = count

    def heard(self, placed: Placed, now: float) -> None:
        self.placed.append(placed)

    def charge(self, pool: str, tenant: str, caller: str, amount: float) -> None:
        flow = pool, tenant, caller
        self.charged[flow] = self.charged.get(flow, 0.0) + amount

    def unheard(self, pool: str, tokens: float, rank: int, replicas: int) -> None:
        self.expected.append((pool, tokens, rank, replicas))


def replica(id: str = "me", **options: float) -> tuple[Replicas, Ear]:
    ear = Ear()
    return Replicas(id, ear, **options), ear


def ask(text: str = "x" * 2000, model: str = "m") -> Ask:
    made = Ask(InferenceRequest("r", Operation.CHAT, model, b"{}", view=View(text)), model, 0.0)
    assert made.text == text.encode()
    return made


def words(**members: Any) -> bytes:
    return msgspec.msgpack.encode({"replica": "other", "serial": 1} | members)


def test_what_one_says_the_other_hears() -> None:
    one, _ = replica("one")
    two, ear = replica("two")
    asked = ask()
    asked.chain(BLOCKS)
    asked.hits = {"e1": 100.0}
    one.note_placed("p", "e1", asked)
    one.note_service("p", "t", "u", 30.0)
    one.note_service("p", "t", "u", 12.0)
    one.note_service("p", "t", "v", -5.0)
    two.hear(one.digest({"p": {"e1": Count(3, 2, 700.5)}, "empty": {}}), 1.0)
    assert ear.counts == {("p", "e1"): Count(3, 2, 700.5)}
    assert ear.charged == {("p", "t", "u"): 42.0, ("p", "t", "v"): -5.0}
    (placed,) = ear.placed
    assert (placed.pool, placed.endpoint, placed.length, placed.tokens, placed.uncached) == (
        "p", "e1", 2000, 500.0, 400.0,
    )  # fmt: skip
    assert list(placed.chain(BLOCKS)) == chain(b"x" * 2000, b"m", BLOCKS)
    assert list(placed.chain(Blocks(64))) == []
    assert two.live == 1
    two.hear(one.digest({}), 1.1)
    assert ear.counts == {("p", "e1"): NOTHING}
    assert len(ear.placed) == 1
    assert ear.charged["p", "t", "u"] == 42.0


def test_hashes_are_the_same_in_every_process() -> None:
    assert chain(b"x" * 300, b"model", BLOCKS) == [0x8607BADDD5B2D45F]


def test_own_words_are_not_heard() -> None:
    one, ear = replica("one")
    one.note_service("p", "t", "u", 1.0)
    one.hear(one.digest({"p": {"e": Count(1)}}), 0.0)
    assert (ear.counts, ear.charged, one.live, one.malformed) == ({}, {}, 0, 0)


def test_counts_add_up_over_replicas_and_expire_with_each() -> None:
    me, ear = replica(lease=2.0)
    a, b = replica("a")[0], replica("b")[0]
    me.hear(a.digest({"p": {"e": Count(1, 1, 10.0)}}), 0.0)
    me.hear(b.digest({"p": {"e": Count(2, 0, 0.0), "f": Count(1)}}), 1.0)
    assert ear.counts == {("p", "e"): Count(3, 1, 10.0), ("p", "f"): Count(1)}
    me.expire(1.99)
    assert ear.counts["p", "e"] == Count(3, 1, 10.0)
    me.expire(2.0)
    assert ear.counts == {("p", "e"): Count(2), ("p", "f"): Count(1)}
    me.expire(3.0)
    assert ear.counts == {("p", "e"): NOTHING, ("p", "f"): NOTHING}
    assert me.live == 0
    me.hear(a.digest({"p": {"e": Count(4)}}), 9.0)
    assert ear.counts["p", "e"] == Count(4)


def test_words_older_than_the_lease_tell_what_was_placed_but_nothing_of_now() -> None:
    me, ear = replica(lease=2.0)
    other, _ = replica("other")
    other.note_placed("p", "e", ask())
    other.note_service("p", "t", "u", 7.0)
    me.hear(other.digest({"p": {"e": Count(1)}}), 10.0, age=2.0)
    assert (ear.counts, len(ear.placed), ear.charged, me.live) == ({}, 1, {("p", "t", "u"): 7.0}, 0)
    me.hear(other.digest({"p": {"e": Count(1)}}), 10.0, age=1.5)
    assert (ear.counts, me.live) == ({("p", "e"): Count(1)}, 1)
    me.expire(10.5)
    assert me.live == 0


def test_one_that_fell_silent_is_not_charged_again_for_what_it_said_before() -> None:
    me, ear = replica()
    other, _ = replica("other")
    other.note_service("p", "t", "u", 7.0)
    said = other.digest({})
    me.hear(said, 0.0)
    me.expire(100.0)
    me.hear(said, 100.0)
    assert ear.charged == {("p", "t", "u"): 7.0}


def test_the_newest_placements_are_told_and_of_them_the_newest_with_their_hashes() -> None:
    me, ear = replica()
    other, _ = replica("other")
    asked = ask("y" * 600_000)
    asked.chain(BLOCKS)
    for number in range(2500):
        other.note_placed("p", f"e{number}", asked)
    said = other.digest({})
    assert len(said) < 512 * 1024
    me.hear(said, 0.0)
    assert [placed.endpoint for placed in ear.placed] == [f"e{number}" for number in range(500, 2500)]
    hashed = [bool(placed.chains) for placed in ear.placed]
    assert 10 < sum(hashed) < 200
    assert all(hashed[-sum(hashed) :])


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x91" * 5000,
        msgspec.msgpack.encode([1, 2]),
        words(serial=0),
        words(replica=""),
        words(counts={"p": {"e": [-1, 0, 0.0]}}),
        words(counts={"p": {"e": [1, 0, math.nan]}}),
        words(counts={"p": {"e": [1, 0, math.inf]}}),
        words(service=[["p", "t", "u", math.nan]]),
        words(service=[["p", "t", "u", math.inf]]),
        words(service=[["p", "t", "u"]]),
        words(placed=[["p"]]),
        words(placed=[["p", "e", 1, 1.0, 1.0, {"cut": b""}]]),
        words(counts={"p" * 2000: {}}),
        words(replica="other\udcff".encode("utf-8", "surrogatepass")),
        words(nothing=b"x" * (4 << 20)),
    ],
)
def test_what_is_not_understood_is_counted_and_changes_nothing(message: bytes) -> None:
    me, ear = replica()
    me.hear(message, 0.0)
    assert (me.malformed, me.live, ear.counts, ear.placed, ear.charged) == (1, 0, {}, [], {})


def test_members_of_later_releases_are_passed_over_and_those_that_earlier_ones_lack_are_not_missed() -> None:
    me, ear = replica()
    me.hear(
        words(counts={"p": {"e": [2]}}, placed=[["p", "e"]], later={"a": 1}, service=[["p", "t", "u", 1, "x"]]), 0.0
    )
    assert (me.malformed, ear.counts, ear.placed) == (0, {("p", "e"): Count(2)}, [Placed("p", "e")])
    assert ear.charged == {("p", "t", "u"): 1.0}


def test_a_chain_cut_in_mid_hash_ends_before() -> None:
    assert list(Placed("p", "e", chains={(256, 64, 0, False): bytes(8) + b"xyz"}).chain(BLOCKS)) == [0]


def test_what_others_place_unheard_is_learned_from_what_they_placed_between_two_words() -> None:
    me, ear = replica("b")
    other, _ = replica("a")
    for _ in range(400):
        me.note_placed("p", "e", ask())
        other.note_placed("p", "f", ask("z" * 4000))
        other.note_placed("q", "f", ask("z" * 4000))
        me.hear(other.digest({}), 0.0)
    pool, tokens, rank, replicas = ear.expected[-1]
    assert (pool, rank, replicas) == ("p", 1, 2)
    assert tokens == pytest.approx(1000.0, rel=0.03)
    for _ in range(50):  # nothing of ours was placed meanwhile: it says nothing of what is to be expected
        me.hear(other.digest({}), 0.0)
    assert ear.expected[-1][1] == tokens
    for _ in range(400):
        me.note_placed("p", "e", ask())
        me.hear(other.digest({}), 0.0)
    assert ear.expected[-1][1] == pytest.approx(0.0, abs=20.0)
    me.expire(10.0)
    assert ear.expected[-1][2:] == (0, 1)


def test_the_memory_of_those_who_spoke_is_bounded() -> None:
    me, ear = replica()
    kept = replica("kept")[0]
    for number in range(3000):
        me.hear(msgspec.msgpack.encode(Digest(f"r{number}", 1, {"p": {"e": Count(1)}})), 0.0, age=5.0)
        me.hear(kept.digest({"p": {"e": Count(1)}}), 0.0)
    assert len(me._senders) <= 1024
    assert ear.counts == {("p", "e"): Count(1)}


@st.composite
def heard(draw: st.DrawFn) -> tuple[list[list[Digest]], list[tuple[int, int]]]:
    """What some replicas said, and which of it was heard in which order."""
    count = st.builds(Count, st.integers(0, 5), st.integers(0, 5), st.floats(0, 100))
    counts = st.dictionaries(st.sampled_from("pq"), st.dictionaries(st.sampled_from("ef"), count), max_size=2)
    service = st.lists(
        st.builds(Service, st.just("p"), st.just("t"), st.sampled_from("uv"), st.floats(0, 9)), max_size=2
    )
    said = [
        [
            Digest(f"r{sender}", serial, draw(counts), tuple(draw(service)))
            for serial in range(1, draw(st.integers(1, 4)) + 1)
        ]
        for sender in range(draw(st.integers(1, 3)))
    ]
    every = [(sender, index) for sender, digests in enumerate(said) for index in range(len(digests))]
    return said, draw(st.lists(st.sampled_from(every), max_size=20))


@given(heard())
@settings(max_examples=200)
def test_any_interleaving_repetition_and_loss_comes_to_the_newest_counts_and_charges_once(
    drawn: tuple[list[list[Digest]], list[tuple[int, int]]],
) -> None:
    said, order = drawn
    me, ear = replica()
    newest: dict[int, int] = {}
    charged: dict[tuple[str, str, str], float] = {}
    for sender, index in order:
        me.hear(msgspec.msgpack.encode(said[sender][index]), 0.0)
        if index > newest.get(sender, -1):
            newest[sender] = index
            for service in said[sender][index].service:
                flow = service.pool, service.tenant, service.caller
                charged[flow] = charged.get(flow, 0.0) + service.amount
    for pool, endpoint in ear.counts:
        expected = [said[sender][index].counts.get(pool, {}).get(endpoint, NOTHING) for sender, index in newest.items()]
        got = ear.counts[pool, endpoint]
        assert (got.requests, got.pending) == (sum(c.requests for c in expected), sum(c.pending for c in expected))
        assert got.backlog == pytest.approx(sum(c.backlog for c in expected))
    told = {(p, e) for s, i in newest.items() for p, es in said[s][i].counts.items() for e in es}
    assert told <= ear.counts.keys()
    assert ear.charged == pytest.approx(charged)
    me.expire(2.0)
    assert set(ear.counts.values()) <= {NOTHING}
    assert me.live == 0
