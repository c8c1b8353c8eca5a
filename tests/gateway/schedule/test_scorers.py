"""Scorers: the published numbers, and sane ones whatever a load holds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.decode import Section
from gateway.schedule import registry
from gateway.schedule.ask import Ask
from gateway.schedule.pickers import RandomChoice
from gateway.schedule.queues import ActiveRequests, LeastRequest, LoadAware, Queue, Running, TokenLoad
from gateway.schedule.scorers import ContextLengthAware, Heterogeneous, KVCache, LeastLatency, LoRAAffinity
from gateway.types import Load
from tests.gateway.schedule.fleet import Fake, ask, asks, fleets, parts, speed

SCORERS = sorted(name for name, plugin in registry.BUILT_IN.items() if registry.offers(plugin, "scorer"))


def scores(plugin: Section, *candidates: Fake, of: Ask | None = None) -> list[float]:
    made = plugin.scorer(parts())(of or ask(), candidates)  # type: ignore[attr-defined]
    return list(made)


def percent(values: list[float]) -> list[int]:
    """As published: whole numbers, cut off."""
    return [int(value * 100) for value in values]


@pytest.mark.parametrize("name", SCORERS)
@given(fleet=fleets, of=asks)
def test_scores_are_aligned_finite_and_between_0_and_1(name: str, fleet: list[Fake], of: Ask) -> None:
    scorer = registry.find(name)().scorer(parts())  # type: ignore[attr-defined]
    for _ in range(2):
        made = scorer(of, fleet)
        assert len(made) == len(fleet)
        assert all(math.isfinite(score) and 0.0 <= score <= 1.0 for score in made)
        for hook in ("placed", "loaded"):
            learn = getattr(scorer, hook, None)
            if learn is not None:
                learn(*((of, fleet[0]) if hook == "placed" else (fleet[0],)))


# --- Kthena's ---------------------------------------------------------------------------------------------------------


def test_least_request_as_published() -> None:
    running = Load(running=9)
    assert percent(scores(LeastRequest(), *(Fake(str(n), running, inflight=n) for n in (1, 2, 3)))) == [66, 33, 0]
    fleet = Fake("a", Load(running=5), inflight=5), Fake("b", Load(), inflight=5), Fake("c", Load())
    assert percent(scores(LeastRequest(), *fleet)) == [99, 0, 100]
    assert scores(LeastRequest(), Fake("a", Load()), Fake("b")) == [1.0, 1.0]


def test_least_request_does_not_punish_what_it_does_not_know() -> None:
    unknown, waiting = Fake("a", inflight=5), Fake("b", Load(running=4), inflight=5)
    assert scores(LeastRequest(), unknown, waiting) == [pytest.approx(100 / 105), 0.0]


def test_least_latency_as_published() -> None:
    fast, slow = Fake("a", Load(ttft=0.1, tpot=0.02)), Fake("b", Load(ttft=0.3, tpot=0.01))
    middle, unknown, half = Fake("c", Load(ttft=0.2, tpot=0.02)), Fake("d"), Fake("e", Load(ttft=0.1, tpot=0.0))
    assert scores(LeastLatency(ttft_tpot_weight_factor=1), fast, slow, middle, unknown, half) == pytest.approx(
        [1.0, 0.0, 0.5, 0.5, 0.5]
    )
    assert scores(LeastLatency(ttft_tpot_weight_factor=0.25), fast, slow) == pytest.approx([0.25, 0.75])
    assert scores(LeastLatency(), fast, fast) == [1.0, 1.0]
    assert scores(LeastLatency(), unknown, half) == [0.5, 0.5]


def test_kv_usage_and_what_was_sent_since() -> None:
    known = Load(kv_usage=0.25)
    assert scores(KVCache(), Fake("a", known), Fake("b", Load(kv_usage=2)), Fake("c", Load()), Fake("d")) == [
        0.75, 0.0, 0.5, 0.5,
    ]  # fmt: skip
    sized = Load(kv_usage=0.25, blocks=100, block_size=10)
    assert scores(KVCache(), Fake("a", sized, backlog=500), Fake("b", sized)) == [0.25, 0.75]


def test_random_scores_differ() -> None:
    made = scores(RandomChoice(), *(Fake(str(n)) for n in range(100)))
    assert len(set(made)) == 100
    assert 0.4 < sum(made) / 100 < 0.6


# --- ours -------------------------------------------------------------------------------------------------------------


def test_each_endpoint_is_judged_by_its_own_speed() -> None:
    fast, slow = Fake("a", speed=speed(1e-4)), Fake("b", speed=speed(2e-4))
    assert scores(Heterogeneous(), fast, slow, of=ask("x" * 4000)) == pytest.approx([1.0, 0.5])
    busy = Fake("a", speed=speed(1e-4), backlog=3000)
    assert scores(Heterogeneous(), busy, slow, of=ask("x" * 4000)) == pytest.approx([0.5, 1.0])


def test_what_an_endpoint_holds_need_not_be_computed() -> None:
    of = ask("x" * 4000)
    of.hits = {"b": 750.0}
    assert scores(Heterogeneous(), Fake("a"), Fake("b"), of=of) == pytest.approx([0.25, 1.0])


def test_decoding_counts_and_an_unknown_one_is_as_usual() -> None:
    quick, slow, unknown = (Fake(id, speed=speed(1e-4, gap)) for id, gap in (("a", 0.01), ("b", 0.03), ("c", 0.0)))
    plugin = Heterogeneous(output_tokens=100)
    assert scores(plugin, quick, slow, unknown, of=ask("x" * 4000)) == pytest.approx([1.0, 1.1 / 3.1, 1.1 / 2.1])
    assert scores(Heterogeneous(output_tokens=0), quick, slow) == [1.0, 1.0]


# --- the reference picker's -------------------------------------------------------------------------------------------


def test_queues() -> None:
    empty, some, full = (Fake(str(n), Load(waiting=n, running=n)) for n in (0, 2, 8))
    for plugin in (Queue(), Running()):
        assert scores(plugin, empty, some, full, Fake("d")) == [1.0, 0.75, 0.0, 0.5]
        assert scores(plugin, some, some) == [1.0, 1.0]
        assert scores(plugin, Fake("d"), Fake("e")) == [0.5, 0.5]


def test_requests_sent_since_the_scrape_count() -> None:
    """Or else all that come before the next one go to the same endpoint."""
    idle, idle_no_more = Fake("a", Load()), Fake("b", Load(), inflight=3)
    assert scores(Queue(), idle, idle_no_more) == [1.0, 0.0]
    assert scores(Running(), idle, idle_no_more) == [1.0, 0.0]
    assert scores(LoadAware(threshold=6), idle, idle_no_more) == [0.5, 0.25]
    seen = Fake("c", Load(running=3), inflight=3)
    assert scores(Queue(), idle, seen) == [1.0, 1.0]


def test_load_aware() -> None:
    fleet = [Fake(str(n), Load(waiting=n)) for n in (0, 32, 64, 128, 500)]
    assert scores(LoadAware(), *fleet, Fake("x")) == [0.5, 0.375, 0.25, 0.0, 0.0, 0.5]


def test_active_requests() -> None:
    fleet = [Fake(str(n), inflight=n) for n in (0, 1, 5, 10)]
    assert scores(ActiveRequests(), *fleet) == pytest.approx([1.0, 0.9, 0.5, 0.0])
    assert scores(ActiveRequests(idle_threshold=1, max_busy_score=0.5), *fleet) == pytest.approx([1.0, 1.0, 0.25, 0.0])
    assert scores(ActiveRequests(), Fake("a")) == [1.0]


def test_token_load() -> None:
    fleet = [Fake(str(n), backlog=n) for n in (0, 250, 2000)]
    assert scores(TokenLoad(queue_threshold_tokens=1000), *fleet) == [1.0, 0.75, 0.0]


def test_lora_affinity() -> None:
    def holding(*active: str, waiting: tuple[str, ...] = (), room: int = 2) -> Fake:
        return Fake("x", Load(loras=frozenset(active), waiting_loras=frozenset(waiting), max_loras=room))

    fleet = (
        holding("l", "o"), holding("o"), holding("o", "p", waiting=("l",)), holding("o", waiting=("p",)),
        Fake("y", Load()), Fake("z"),
    )  # fmt: skip
    assert scores(LoRAAffinity(), *fleet, of=ask(model="l")) == [1.0, 0.8, 0.6, 0.0, 0.5, 0.5]


@given(st.integers(1, 100_000), st.integers(0, 50_000), st.integers(0, 50_000))
def test_context_lengths_in_range_score_above_those_out_of_it(tokens: int, least: int, width: int) -> None:
    most = least + width
    fake = Fake("a", labels=(("llm-d.ai/context-length-range", f"{least}-{most}"),))
    (score,) = scores(ContextLengthAware(), fake, of=ask("x" * 4 * tokens))
    assert score > 0.3 if least <= tokens <= most else score < 0.3


def test_a_tighter_range_of_context_lengths_is_better() -> None:
    tight, wide, none = (
        Fake(text, labels=(("llm-d.ai/context-length-range", text),)) for text in ("0-2000", "0-100000", "any")
    )
    made = scores(ContextLengthAware(), tight, wide, none, of=ask("x" * 4000))
    assert made[0] > made[1] > 0.3
    assert made[2] == 0.5
